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

/* A frame inside of the switch: without a tag, in memory that is ours alone. */
typedef struct Frame {
    VnetHdr hdr;   /* valid */
    uint8_t *data; /* may be written to; room for FRAME_ROOM bytes before it */
    size_t len;
    uint16_t vlan; /* which it belongs to; 0: untagged */
    Packet p;
} Frame;

enum { FRAME_ROOM = 16, SWITCH_MAX_PORTS = 2048 };

typedef enum { TO_VM, FROM_VM, DIRECTIONS } Direction;

typedef struct PortOps {
    const char *kind; /* "vm", "stream", "uplink" */
    /* Gives the frame to whoever is at the port; what it cannot take it cuts and sums up
     * (packet/offload.h).  False: no room now, and the frame is lost. */
    bool (*send)(Port *port, const Frame *f);
    /* After a batch of frames. */
    void (*flush)(Port *port);
    /* Tells the other side of the link; may be NULL. */
    void (*link)(Port *port, bool up);
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
    char **groups;     /* labels; NULL: none */
    Mac mac;           /* zero: whatever it sends first */
    bool trusted;      /* no anti-spoofing; may serve DHCP and RAs */
    bool link;         /* false: cut, and nothing passes */
    unsigned offloads; /* NET_OFFLOAD_* that it takes */
    uint16_t vlan;     /* access: untagged frames belong to it */
    uint8_t *trunk;    /* bitmap of 4096 tagged VLANs; NULL: none */
    Firewall *rules;   /* its own; NULL: none */
    FwGate *gate;
    Guard *guard;
    Shape *shape[DIRECTIONS];   /* NULL: none */
    Impair *impair[DIRECTIONS]; /* NULL: none */
    PortCount count[DIRECTIONS];
    bool flush;       /* something was sent since the last flush */
    int64_t storm_ns; /* storm control's bucket */
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
};

/* ---- the way of a frame: switch.c -----------------------------------------------------
 */

/* A frame that came in at a port: hdr, data and len are set, with its tag if it has one.
 * The header was copied and not yet looked at. */
void switch_receive(Port *from, Frame *f);

/* Goes on with a frame that impair held: what comes after that step. */
void switch_resume(Port *port, Direction direction, Frame *f);

/* Sends a frame that the gateway made or routed, into its VLAN (0), to whom its
 * destination says.  f->p is set by this. */
void switch_send(Switch *sw, Frame *f);
/* To one port, whatever its destination says. */
void switch_send_to(Port *to, Frame *f);

/* Calls every port's flush that has something; at the end of a turn, and by who sends
 * outside of one. */
void switch_flush(Switch *sw);

/* ---- ports: port.c
 * --------------------------------------------------------------------- */

/* Zeroed but for sw, id and link, of `size` bytes; it takes part at once.  NULL: full. */
Port *port_new(Switch *sw, const PortOps *ops, size_t size, GError **error);
void port_free(Port *port); /* also what guard, gate and others keep for it */
Port *port_find(Switch *sw, const char *vm, const char *nic); /* nic NULL: its first */
Port *port_by_mac(Switch *sw, const Mac *mac);
json_t *port_json(Port *port); /* a new reference */

/* ---- commands: control.c
 * ---------------------------------------------------------------- */

/* Returns a new reference, or NULL with an error. */
typedef struct SwitchCommand {
    const char *name;
    json_t *(*fn)(Switch *sw, json_t *arguments, GError **error);
} SwitchCommand;

/* Each ends with an empty one. */
extern const SwitchCommand
    switch_commands[]; /* control.c: query-ports, query-status, set-port (vlan, link,
                          groups, trust), reconfigure, quit */
extern const SwitchCommand firewall_commands[]; /* rules.c: firewall-show, -set, -add,
                                                   -rm, -test, -log, query-flows */
extern const SwitchCommand gateway_commands[];  /* gateway.c: query-leases, query-names,
                                                   query-forwards, lease-release */
extern const SwitchCommand
    limit_commands[]; /* limit.c: set-limit, set-impair, query-limits */
/* `capture` takes the connection over: capture.h. */
