/* The host's end of a network card: frames out, frames in.
 *
 * Everything here runs on the thread of the loop the NetDev was opened on (the card's I/O
 * thread), except open and close, which are the main thread's while that loop is idle or
 * by ioloop_call().
 *
 * Frames carry a virtio_net_hdr of 12 bytes (virtio 1.2, 5.1.6) in both directions.  A
 * backend that cannot offload is told so by netdev_offloads() and finds gso_type NONE and
 * no NEEDS_CSUM in what it is given. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backend/vhost_user.h"
#include "core/param.h"
#include "packet/addr.h"
#include "packet/offload.h"
#include "state/state.h"
#include "util/error.h"
#include "util/ioloop.h"

typedef struct NetDev NetDev;

enum { NET_HDR_LEN = 12, NET_MAX_FRAME = NET_HDR_LEN + 65550 };

/* What the guest may leave to the host, and the host to the guest; bits as TUN_F_*. */
enum {
    NET_OFFLOAD_CSUM = 1,
    NET_OFFLOAD_TSO4 = 2,
    NET_OFFLOAD_TSO6 = 4,
    NET_OFFLOAD_ECN = 8,
    NET_OFFLOAD_UFO = 16,
    NET_OFFLOAD_USO4 = 32,
    NET_OFFLOAD_USO6 = 64,
    NET_OFFLOADS = 127, /* all of them */
};

/* What a frame with that header asks of who is to take it, NET_OFFLOAD_*. */
unsigned netdev_offloads_for(const VnetHdr *hdr);

enum { NETDEV_MAX_QUEUES = 8 };

typedef enum {
    NETDEV_NONE, /* not given, which netdev_check() refuses or finds out */
    NETDEV_USER,
    NETDEV_TAP,
    NETDEV_BRIDGE,
    NETDEV_MACVTAP,
    NETDEV_PASST,
    NETDEV_STREAM,
    NETDEV_NETWORK,
    NETDEV_VHOST_USER,
    NETDEV_TYPES,
} NetDevType;

/* A name of one of these cannot be a network's. */
extern const char *const netdev_type_names[]; /* [0] is that of NETDEV_USER */

/* A network that is not one guest's but of many, which somebody else routes to and gives
 * addresses and names: what a user backend is to be in it.  Connections of the host
 * itself come from host4 and host6, and what is sent there goes to the host's loopback:
 * who routes lets replies pass, and nothing else. */
typedef struct NetDevSubnet {
    IpPrefix v4, v6; /* bits 0: none */
    Ip host4, host6;
    unsigned mtu;
} NetDevSubnet;

/* A port of the host that leads to a guest of such a network.  `host` unspecified: all
 * addresses, of the guest's family. */
typedef struct NetDevForward {
    bool udp;
    Ip host, guest;
    uint16_t host_port, guest_port;
} NetDevForward;

typedef struct NetDevOptions {
    int type;        /* NetDevType */
    uint64_t queues; /* pairs that the card has, 1 to NETDEV_MAX_QUEUES */
    /* user */
    char **hostfwd; /* "tcp:ADDR:PORT-ADDR:PORT", ADDRs may be empty */
    bool restrict_; /* key "restrict": nothing beyond host and forwards is reached */
    bool ipv6;      /* on unless ipv6=off */
    char *hostname; /* given by DHCP */
    const NetDevSubnet *subnet; /* no option: a switch's.  Used while opening */
    /* tap, bridge, macvtap: the interface we attach to, or make */
    char *ifname;   /* NULL: the kernel names it */
    char *bridge;   /* bridge: of the host */
    char *parent;   /* macvtap: interface of the host */
    char *mode;     /* macvtap, passt: one of that kind's; NULL: its own choice */
    char *path;     /* stream, vhost-user: unix socket */
    bool listen;    /* stream, vhost-user: we are the one that is connected to */
    char *network;  /* network: its name */
    char **ip;      /* network: addresses by hand */
    char **group;   /* network: labels for rules */
    char *firewall; /* network: file of rules */
    uint64_t vlan;  /* network: access VLAN; 0: untagged */
    char **trunk;   /* network: tagged VLANs */
    bool trust;     /* network: no anti-spoofing */
} NetDevOptions;

/* The card at this end, for who has to say so; strings live for the call. */
typedef struct NetDevCard {
    const char *vm; /* NULL: it has no name */
    const char *id; /* "net0" */
    uint8_t mac[6];
    unsigned queues; /* pairs that it will use, at least 1 */
} NetDevCard;

#define NETDEV_PARAMS(type_, member)                                                     \
    {.key = "type",                                                                      \
     .type = PARAM_ENUM,                                                                 \
     .offset = offsetof(type_, member.type),                                             \
     .choices = netdev_type_names,                                                       \
     .min = NETDEV_USER,                                                                 \
     .other = "network",                                                                 \
     .help =                                                                             \
         "user: NAT in this process, no privilege; network, or just its name: one "      \
         "of 'hutch net'; tap, bridge, macvtap: the host's; passt; stream: a socket; "   \
         "vhost-user: a program that works in the guest's memory"},                      \
        {.key = "queues",                                                                \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.queues),                                       \
         .arg = "N",                                                                     \
         .def = "1",                                                                     \
         .help = "pairs of queues that the card has",                                    \
         .min = 1,                                                                       \
         .max = NETDEV_MAX_QUEUES},                                                      \
        {.key = "network",                                                               \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.network),                                      \
         .arg = "NAME",                                                                  \
         .help = "network: which, of 'hutch net ls'"},                                   \
        {.key = "ip",                                                                    \
         .type = PARAM_LIST,                                                             \
         .offset = offsetof(type_, member.ip),                                           \
         .arg = "ADDRESS",                                                               \
         .help = "network: an address of the guest (may be repeated)"},                  \
        {.key = "group",                                                                 \
         .type = PARAM_LIST,                                                             \
         .offset = offsetof(type_, member.group),                                        \
         .arg = "LABEL",                                                                 \
         .help = "network: a label that rules may name (may be repeated)"},              \
        {.key = "firewall",                                                              \
         .type = PARAM_PATH,                                                             \
         .offset = offsetof(type_, member.firewall),                                     \
         .help = "network: rules for this card"},                                        \
        {.key = "vlan",                                                                  \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.vlan),                                         \
         .max = 4094,                                                                    \
         .help = "network: VLAN of its untagged frames"},                                \
        {.key = "trunk",                                                                 \
         .type = PARAM_LIST,                                                             \
         .offset = offsetof(type_, member.trunk),                                        \
         .arg = "N",                                                                     \
         .help = "network: a VLAN whose tagged frames pass (may be repeated)"},          \
        {.key = "trust",                                                                 \
         .type = PARAM_BOOL,                                                             \
         .offset = offsetof(type_, member.trust),                                        \
         .help = "network: whatever addresses it claims; it may serve DHCP"},            \
        {.key = "hostfwd",                                                               \
         .type = PARAM_LIST,                                                             \
         .offset = offsetof(type_, member.hostfwd),                                      \
         .arg = "tcp|udp:ADDR:PORT-ADDR:PORT",                                           \
         .help = "user: forward a host port to the guest (may be repeated)"},            \
        {.key = "restrict",                                                              \
         .type = PARAM_BOOL,                                                             \
         .offset = offsetof(type_, member.restrict_),                                    \
         .help = "user: no way out but the forwards"},                                   \
        {.key = "ipv6",                                                                  \
         .type = PARAM_BOOL,                                                             \
         .offset = offsetof(type_, member.ipv6),                                         \
         .def = "on",                                                                    \
         .help = "user: offer IPv6 too"},                                                \
        {.key = "hostname",                                                              \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.hostname),                                     \
         .arg = "NAME",                                                                  \
         .help = "user: name that DHCP gives the guest"},                                \
        {.key = "ifname",                                                                \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.ifname),                                       \
         .arg = "IF",                                                                    \
         .help = "tap: interface to attach to, made if missing"},                        \
        {.key = "bridge",                                                                \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.bridge),                                       \
         .arg = "IF",                                                                    \
         .help = "bridge: of the host, which a tap is made in"},                         \
        {.key = "parent",                                                                \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.parent),                                       \
         .arg = "IF",                                                                    \
         .help = "macvtap: interface of the host"},                                      \
        {.key = "mode",                                                                  \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.mode),                                         \
         .arg = "MODE",                                                                  \
         .help = "macvtap: bridge, private, vepa or passthru; passt: vhost-user, "       \
                 "stream, or auto, the first of these that it can"},                     \
        {.key = "path",                                                                  \
         .type = PARAM_PATH,                                                             \
         .offset = offsetof(type_, member.path),                                         \
         .arg = "SOCKET",                                                                \
         .help =                                                                         \
             "stream: frames as of QEMU's -netdev stream; vhost-user: of DPDK, VPP, "    \
             "and others"},                                                              \
    {                                                                                    \
        .key = "listen", .type = PARAM_BOOL, .offset = offsetof(type_, member.listen),   \
        .help = "stream, vhost-user: make the socket and wait for the other side"        \
    }

/* Any thread; opens nothing.  Refuses options that do not go together, and malformed
 * forwards, and fills in a type that follows from others (network=, bridge=, parent=,
 * path=, ifname=); for a device's table of options to call. */
bool netdev_check(NetDevOptions *options, GError **error);

/* Any thread.  Whether not frames but the card's queues are to be at the other end, which
 * another process then serves in the guest's memory (backend/vhost_user.h).  shared: it
 * can have that memory; a type that may be either goes by it.  May start passt for a
 * moment, to see what it can. */
bool netdev_is_elsewhere(const NetDevOptions *options, bool shared);

/* What stands for the backend of such a card: nothing is sent or received here. */
NetDev *netdev_open_elsewhere(IoLoop *loop);

/* passt as the process that serves queues: finds it; NULL on failure.  id begins what is
 * logged of it, and options are as netdev_check() left them. */
extern const VhostHelperOps passt_helper_ops;
void *passt_helper_new(const NetDevOptions *options, const char *id, IoLoop *loop,
                       GError **error);

/* Opens the backend; errors name it and the way out (busy tap, no permission).  card
 * NULL: it is none, and a network or passt cannot be at its other end. */
NetDev *netdev_open(const NetDevOptions *options, const NetDevCard *card, IoLoop *loop,
                    GError **error);
void netdev_close(NetDev *nd); /* NULL is fine */

/* Offloads the backend can do at all, and those the guest negotiated. */
unsigned netdev_offloads(const NetDev *nd);
void netdev_set_offloads(NetDev *nd, unsigned offloads);

/* What the guest may leave to the host, where that was negotiated with another backend:
 * what this one cannot do is done before it is given the frame. */
void netdev_expect(NetDev *nd, unsigned offloads);

/* The largest packet there, 0: not told.  The backend's own, which may be offered to a
 * guest. */
unsigned netdev_mtu(const NetDev *nd);

/* Whether the wire is there, as the other end sees it (always, unless it has a link that
 * can be cut), and the handler that is told of changes.  set_link: the cable was pulled
 * at our side, or put back; the backend may tell the other end.  announce: the card is at
 * a new place (restored, moved), and the other end is to forget where it was. */
bool netdev_link(const NetDev *nd);
void netdev_set_link_handler(NetDev *nd, void (*link)(void *opaque, bool up));
void netdev_set_link(NetDev *nd, bool up);
void netdev_announce(NetDev *nd);

/* A restored card's own address is another than it was opened with: not for what a guest
 * asks for, which is netdev_set_mac(). */
bool netdev_readdress(NetDev *nd, const uint8_t mac[6], GError **error);

/* The guest has given its card another address, or a reset its own again. */
void netdev_set_mac(NetDev *nd, const uint8_t mac[6]);

/* Sends one frame (header first).  False: try again after the writable handler; anything
 * else that goes wrong drops the frame, as a wire does.  Frames may be held until
 * netdev_flush(), which is called before the loop goes on. */
bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n);
void netdev_flush(NetDev *nd);

/* Receives one frame, header first, into the list; the length, 0 when none is waiting, or
 * -1 when it did not fit and was dropped. */
ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n);

/* A backend with several queues (a tap that has a descriptor for each) has as many as the
 * card that it was opened for, others one.  Each queue is a NetDev for what is below and
 * for netdev_send() and netdev_receive(), with handlers of its own; the first is `nd`
 * itself, and the rest is said to that one only.  NULL: there is no such queue.
 *
 * use_queues: frames come by the first `n` from now on, each flow by the one that it was
 * sent by last; at first by one.  What waits in those that are given up is lost.  False:
 * there are not so many, or they cannot be had now, and frames come by the first. */
unsigned netdev_queues(const NetDev *nd);
NetDev *netdev_queue(NetDev *nd, unsigned queue);
bool netdev_use_queues(NetDev *nd, unsigned n);

/* `readable` is called while frames may be waiting and reading is on (it is off at
 * first); `writable` once after a send that returned false. */
void netdev_set_handlers(NetDev *nd, void (*readable)(void *opaque),
                         void (*writable)(void *opaque), void *opaque);
void netdev_set_reading(NetDev *nd, bool on);

/* What the guest knows of a network that the backend plays for it, as a section of that
 * name; a tap has none.  load: into a backend that was just opened; a section that
 * another kind of backend wrote is read, and has no use here.  restored: once after it,
 * when the guest goes on: connections that it had are reset. */
void netdev_save(NetDev *nd, const char *section, StateWriter *w);
bool netdev_load(NetDev *nd, const char *section, StateReader *r, GError **error);
void netdev_restored(NetDev *nd);

/* user: with the same opaque, called the first time that the guest takes up a connection
 * on a TCP port that a forward leads to. */
void netdev_set_answered(NetDev *nd, void (*answered)(void *opaque, uint16_t port));

/* user with a subnet: begins to listen, or ends to; connections that there are go on.  An
 * error says that the port is taken, or may not be had. */
bool netdev_forward(NetDev *nd, const NetDevForward *fwd, GError **error);
void netdev_unforward(NetDev *nd, const NetDevForward *fwd);
