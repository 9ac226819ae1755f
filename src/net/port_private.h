/* The parts of a card on a named network: port.c (frames), port_hello.c (what it says of
 * itself), port_join.c (saying it), port_rejoin.c (a switch that was killed). */
#pragma once

#include <jansson.h>

#include "network/ring.h"
#include "src/net/netdev_private.h"

/* Refuses options that make no sense alone. */
bool port_check(const NetDevOptions *o, GError **error);

/* The hello, all of it but the offloads, which change: a new reference. */
json_t *port_hello(const NetDevOptions *o, const NetDevCard *card, GError **error);
json_t *port_mac(const uint8_t m[6]); /* as it stands there: a new reference */

/* What a hello was answered with.  Zero-initialised with fds of -1 by port_join(). */
typedef struct PortJoined {
    int sock;             /* non-blocking */
    int tell_fd, hear_fd; /* wake the switch, wake us: each one end of a pipe */
    void *memory;         /* ring_memory(1) bytes */
    unsigned mtu;         /* 0: not said */
    bool link;
} PortJoined;

/* Starts the network's switch if need be, says `hello`, one line with its end, and takes
 * what comes.  Any thread; waits as network_join() does, and as long for the answer. */
bool port_join(const char *network, const char *hello, PortJoined *ret, GError **error);
void port_leave(PortJoined *joined); /* harmless if there is nothing */

/* A join on a thread of its own, while a loop goes on.  `done` is called on the loop once
 * with what came; it takes it over.  joined NULL: it failed, for `why`. */
typedef struct PortRejoin PortRejoin;
PortRejoin *port_rejoin(IoLoop *loop, const char *network, const char *hello,
                        void (*done)(void *opaque, PortJoined *joined, const char *why),
                        void *opaque, GError **error);
/* Frees it, with the thread or without: that may still wait for somebody, and what it
 * gets is then given back. */
void port_rejoin_free(PortRejoin *rejoin);
