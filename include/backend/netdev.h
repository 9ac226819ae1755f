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

#include "core/param.h"
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
    NET_OFFLOADS = 31, /* all of them */
};

/* Zero: not given, which netdev_check() refuses or finds out. */
typedef enum { NETDEV_USER = 1, NETDEV_TAP } NetDevType;

enum { NETDEV_MAX_QUEUES = 8 };

typedef struct NetDevOptions {
    int type;
    uint64_t queues; /* pairs that the card has, 1 to NETDEV_MAX_QUEUES; a backend that
                        gains nothing by several takes no notice */
    /* user */
    char **hostfwd; /* "tcp:ADDR:PORT-ADDR:PORT", ADDRs may be empty */
    bool restrict_; /* key "restrict": nothing beyond host and forwards is reached */
    bool ipv6;      /* on unless ipv6=off */
    char *hostname; /* given by DHCP */
    /* tap */
    char *ifname; /* empty: the kernel names it */
} NetDevOptions;

extern const char *const netdev_type_names[];

#define NETDEV_PARAMS(type_, member)                                                     \
    {.key = "type",                                                                      \
     .type = PARAM_ENUM,                                                                 \
     .offset = offsetof(type_, member.type),                                             \
     .choices = netdev_type_names,                                                       \
     .min = 1,                                                                           \
     .help = "user: NAT in this process, no privilege; tap: a host interface"},          \
        {.key = "queues",                                                                \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.queues),                                       \
         .arg = "N",                                                                     \
         .def = "1",                                                                     \
         .help = "pairs of queues that the card has",                                    \
         .min = 1,                                                                       \
         .max = NETDEV_MAX_QUEUES},                                                      \
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
    {                                                                                    \
        .key = "ifname", .type = PARAM_STRING, .offset = offsetof(type_, member.ifname), \
        .arg = "IF", .help = "tap: interface to attach to, made if missing"              \
    }

/* Any thread; opens nothing.  Refuses options that do not go together, and malformed
 * forwards, and fills in a type that follows from others; for a device's table of options
 * to call. */
bool netdev_check(NetDevOptions *options, GError **error);

/* Opens the backend; errors name it and the way out (busy tap, no permission). */
NetDev *netdev_open(const NetDevOptions *options, IoLoop *loop, GError **error);
void netdev_close(NetDev *nd); /* NULL is fine */

/* Offloads the backend can do at all, and those the guest negotiated. */
unsigned netdev_offloads(const NetDev *nd);
void netdev_set_offloads(NetDev *nd, unsigned offloads);

/* Sends one frame (header first).  False: try again after the writable handler; anything
 * else that goes wrong drops the frame, as a wire does. */
bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n);

/* Receives one frame, header first, into the list; the length, 0 when none is waiting, or
 * -1 when it did not fit and was dropped. */
ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n);

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
