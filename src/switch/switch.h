/* A network's switch: its ports, and the way of a frame from one to others.
 *
 *     port -> switch_receive -> capture, impair, shape, guard, firewall (out)
 *          -> gateway (what is for the network itself), or fdb -> switch_deliver
 *          -> firewall (in), shape, impair, capture -> port->ops->send
 *
 * One thread, one loop; everything in src/switch runs on it.  A Frame belongs to who made
 * it and lives for the call only: who keeps one copies it (impair does).  The process may
 * be killed at any time: what has to survive is in the network's folder. */
#pragma once

#include <jansson.h>

#include "firewall/firewall.h"
#include "network/config.h"
#include "packet/offload.h"
#include "packet/packet.h"
#include "util/counter.h"
#include "util/ioloop.h"

typedef struct Switch Switch;
typedef struct Port Port;
typedef struct Gateway Gateway;   /* gateway.h */
typedef struct Guard Guard;       /* guard.h: what addresses a port may have */
typedef struct Shape Shape;       /* shape.h: rates of one direction */
typedef struct Impair Impair;     /* impair.h: delay, loss, reordering of one direction */
typedef struct Captures Captures; /* capture.h */
typedef struct Fdb Fdb;           /* fdb.h: which station is where */
typedef struct Clients Clients;   /* control.h: the clients of control.sock */
typedef struct Join Join;         /* join.h: the sockets by which ports come */
typedef struct RulesLog RulesLog; /* rules.h: what rules had to say of packets */

/* A frame inside of the switch: without a tag, in memory that is ours alone. */
typedef struct Frame {
    VnetHdr hdr;   /* valid; num_buffers has no meaning here */
    uint8_t *data; /* may be written to; room for FRAME_ROOM bytes before it */
    size_t len;
    uint16_t vlan; /* which it belongs to; 0: untagged */
    Packet p;
} Frame;

enum { FRAME_ROOM = 16, SWITCH_MAX_PORTS = 2048, VLAN_MAX = 4094 };

/* Sets f->p of a frame from outside, whose header is valid (frame.c).  A checksum to be
 * filled in that is not the one of its TCP, UDP or ICMPv6 is filled in now, so that it is
 * judged with it.  False: it is to be dropped. */
bool frame_parse(Frame *f);
/* The checksum of a TCP segment is right, or will be when somebody fills it in. */
bool frame_tcp_sum_ok(const Frame *f);

typedef enum { TO_VM, FROM_VM, DIRECTIONS } Direction;

typedef struct PortOps {
    const char *kind; /* "vm", "stream", "uplink" */
    /* Gives the frame, which has a tag if the port wants one, to whoever is at the port;
     * what it cannot take it cuts and sums up (port_offload()).  False: no room now, and
     * the frame is lost.  When little room is left it calls hold_full(). */
    bool (*send)(Port *port, const Frame *f);
    /* After a batch of frames. */
    void (*flush)(Port *port);
    /* Tells the other side of the link; may be NULL. */
    void (*link)(Port *port, bool up);
    /* What waited for a port that was full (hold.h) may read on; may be NULL. */
    void (*resume)(Port *port);
    /* What query-ports says of it besides; may be NULL. */
    void (*tell)(const Port *port, json_t *json);
    /* Hangs up, for `disconnect` to call; port_free() follows, now or on the loop. */
    void (*hang_up)(Port *port);
    void (*free)(Port *port);
} PortOps;

typedef struct PortCount {
    uint64_t frames, bytes;
    uint64_t dropped, spoofed, denied, limited,
        lost; /* of which why: guard, firewall, shape and storm, impair */
} PortCount;

struct Port {
    const PortOps *ops;
    Switch *sw;
    unsigned id;    /* smallest that is free; index in sw->port[] */
    char *vm, *nic; /* NULL: not known, as of a stream */
    char *instance;
    char *kept_as;     /* what is set for it outlives the switch (kept.h); NULL: not */
    char **groups;     /* labels; NULL: none */
    json_t *changed;   /* what port_change() was told; NULL: nothing */
    Mac mac;           /* zero: whatever it sends first */
    bool trusted;      /* no anti-spoofing; may serve DHCP and RAs */
    bool link;         /* false: cut, and nothing passes */
    bool unplugged;    /* likewise, at the VM's side */
    unsigned offloads; /* NET_OFFLOAD_* that it takes */
    uint16_t vlan;     /* access: untagged frames belong to it */
    uint8_t *trunk;    /* bitmap of 4096 tagged VLANs; NULL: none */
    Firewall *rules;   /* its own; NULL: none */
    FwGate *gate;
    Guard *guard;
    Shape *shape[DIRECTIONS];   /* NULL: none */
    Impair *impair[DIRECTIONS]; /* NULL: none */
    PortCount count[DIRECTIONS];
    bool service; /* we went to it: it does not keep the switch alive */
    bool flush;   /* something was sent since the last flush */
    Port *next_flush;
    bool begun;      /* port_begin() was called */
    bool gone;       /* about to be freed: nothing is sent to it any more */
    bool full;       /* has little room: who sends to it is held (hold.h) */
    bool stalled;    /* and for so long that nobody waits for it */
    Port *waits_for; /* held by it; NULL: may send */
    Port *next_waiting;
    int64_t wait_end_ns;
    int64_t hold_since_ns; /* others wait for it; 0: they do not */
    int64_t held_ns; /* for how long they have, since it had got `held_from` bytes */
    uint64_t held_from;
    uint16_t oldest, newest; /* what was learned at it (fdb.c); 0: nothing */
    unsigned learned;
    int64_t note_ns;     /* rules_log.c's */
    int64_t refusals_ns; /* of what it is refused: emit.h */
    int64_t storm_ns;    /* storm control's bucket */
    uint64_t storm_left;
};

struct Switch {
    const char *name;
    IoLoop *loop;
    NetworkConfig *config; /* replaced as a whole by switch_reconfigure() */
    NetworkSubnets subnets;
    Port *port[SWITCH_MAX_PORTS];
    unsigned n_ports; /* all in use are below */
    Firewall *rules;  /* the network's; NULL: none */
    Gateway *gateway;
    Captures *captures; /* NULL: nobody captures */
    int64_t now_ns;     /* CLOCK_MONOTONIC, as of this turn of the loop */
    Fdb *fdb;
    Clients *clients;
    Join *join;
    RulesLog *log;
    Port *to_flush;       /* those with `flush` */
    Port *active;         /* those whose rings are looked at all the time: port_vm.c */
    IoPoller poller;      /* likewise */
    struct Guest *guests; /* who has not yet said who he is: guest.c */
    Port *waiting;        /* hold.h */
    IoTimer hold_timer;
    IoTimer rest_timer; /* port_vm.c: rings that are to be given back */
    int64_t started_ns;
    uint8_t *buffer;  /* of the frame that is on its way: FRAME_ROOM and PACKET_MAX */
    uint8_t *scratch; /* for vnet_segment(): VNET_SCRATCH */
    uint8_t *stream_buffer; /* port_stream.c; NULL: no stream was ever here */
    struct Life *life;
    bool ending;                       /* ports that are freed have not left */
    void (*users_changed)(Switch *sw); /* a port or client came or went; may be NULL */
};

/* Makes one without any port or socket; its config is taken over. NULL with an error. */
Switch *switch_new(const char *name, NetworkConfig *config, GError **error);
void switch_free(Switch *sw); /* its ports too */

/* Reads config.json and firewall.rules again.  On an error all goes on as it was. */
bool switch_reconfigure(Switch *sw, GError **error);

/* ---- the way of a frame: switch.c -----------------------------------------------------
 */

/* A frame that came in at a port: hdr, data and len are set, with its tag if it has one.
 * The header was copied and not yet looked at. */
void switch_receive(Port *from, Frame *f);

/* A frame that the switch itself sends in a port's name: nothing is asked about it. */
void switch_send_from(Port *from, Frame *f);

/* Goes on with a frame that impair held: what comes after that step. */
void switch_resume(Port *port, Direction direction, Frame *f);

/* Sends a frame that the gateway made or routed, into its VLAN (0), to whom its
 * destination says.  f->p is set by this. */
void switch_send(Switch *sw, Frame *f);
/* To one port, whatever its destination says. */
void switch_send_to(Port *to, Frame *f);

/* Likewise, and its rules are not asked: an answer to what they refused. */
void switch_answer(Port *to, Frame *f);

/* Calls every port's flush that has something; at the end of a turn, and by who sends
 * outside of one. */
void switch_flush(Switch *sw);

/* Takes the time and is called first by whoever the loop calls. */
void switch_turn(Switch *sw);

/* ---- ports: port.c
 * --------------------------------------------------------------------- */

enum { PORT_MAX_NAME = 100, PORT_MAX_GROUPS = 32 };

/* Whether a text can be the name of a VM or card, or a label: letters, digits, marks. */
bool port_is_name(const char *text);

/* Zeroed but for sw, id and link, of `size` bytes; it takes part after port_begin().
 * NULL: full. */
Port *port_new(Switch *sw, const PortOps *ops, size_t size, GError **error);

/* Who it is has been filled in: makes what others keep for it, and frames pass. */
bool port_begin(Port *port, GError **error);
void port_free(Port *port); /* also what guard, gate and others keep for it */

/* A stream's MAC is that of its first frame. */
void port_set_mac(Port *port, const Mac *mac);

/* Somebody whose address it is has come: until its next frame it has none. */
void port_lose_mac(Port *port);
void port_set_link(Port *port, bool up);         /* the cable, at our side */
void port_set_plugged(Port *port, bool plugged); /* and at that of the VM */

/* The VM is at a new place: other switches behind ours hear of it. */
void port_announce(Port *port);

/* Labels from an array of texts, for the caller to free. */
bool port_groups_parse(const json_t *labels, char ***ret, GError **error);

/* New labels, copied; NULL or empty: none. */
void port_set_groups(Port *port, char **groups);
void port_set_vlan(Port *port, uint16_t vlan);

/* What `set-port` takes, of which what is not there stays.  All of it or nothing. */
bool port_change(Port *port, const json_t *values, GError **error);

/* What the port cannot take is cut and summed up, and `each` gets what it can take. */
void port_offload(Port *port, const Frame *f,
                  bool (*each)(void *port, const uint8_t *frame, size_t len));
bool port_takes(const Port *port, const VnetHdr *hdr); /* as it is */

/* "port 3 (web's net0)", for sentences; valid until the next call. */
const char *port_text(const Port *port);
json_t *port_json(Port *port); /* a new reference */

/* ---- finding one: port_find.c ----------------------------------------------------- */

/* nic NULL: its first by name, net1 before net10, whichever came first. */
Port *port_find(Switch *sw, const char *vm, const char *nic);
Port *port_by_mac(Switch *sw, const Mac *mac);
Port *port_by_id(Switch *sw, unsigned id);

/* ---- commands: control.c
 * ---------------------------------------------------------------- */

/* Returns a new reference, or NULL with an error. */
typedef struct SwitchCommand {
    const char *name;
    json_t *(*fn)(Switch *sw, json_t *arguments, GError **error);
} SwitchCommand;

/* Each ends with an empty one; docs/networks.md has what is in them. */
extern const SwitchCommand switch_commands[];   /* commands.c: ports, and the switch */
extern const SwitchCommand firewall_commands[]; /* rules_commands.c */
extern const SwitchCommand gateway_commands[];  /* gateway.c: leases, names, routes */
extern const SwitchCommand limit_commands[];    /* limit.c */
/* `capture` takes the connection over: capture.h. */
