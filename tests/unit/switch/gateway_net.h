/* A network with its gateway and without the rest of the switch: ports are where a test
 * puts frames in and looks at what came out.  Its folder is made and goes with it. */
#pragma once

#include <glib.h>

#include "packet/build.h"
#include "src/switch/gateway.h"
#include "src/switch/guard.h"

enum { NET_SENT_MAX = 64 };

/* What the gateway sent since net_clear(); `to` NULL: to whom its destination says. */
typedef struct NetSent {
    Port *to;
    size_t len;
    Packet p;
    uint8_t data[4096];
} NetSent;

typedef struct Net {
    Switch sw;
    char *folder, *run;
    unsigned n_sent;
    NetSent sent[NET_SENT_MAX];
} Net;

extern Net net;
extern const Mac net_broadcast;

/* `options` as of `hutch net create`: "nat,subnet=10.5.0.0/24". */
void net_begin(const char *options);
void net_end(void);
/* The switch was killed and is there again, without ports. */
void net_restart(void);
/* As on its first day. */
void net_renew(void);
/* `hutch net set`. */
void net_set(const char *options);

/* Another network, which nobody is on; they go with the folder. */
void net_other(const char *name, const char *options);

/* By hand: `ip`, or NULL. vm NULL: a stream.  mac: its last byte, of 02:00:00:00:00:xx.
 */
Port *net_port(const char *vm, uint8_t mac, const char *ip);
void net_unplug(Port *port);
Mac net_mac(uint8_t last);

/* A frame from a port, by way of its guard.  False: the guard dropped it. */
bool net_input(Port *port, Builder *b);
/* Whether the gateway kept it for itself. */
extern bool net_taken;
void net_clear(void);
void net_last(void); /* forgets all that was sent but the last */

/* Whether it is among a port's addresses. */
bool guard_has(const Guard *guard, const Ip *ip);

Ip net_ip(const char *text);
bool net_has(const Port *port, const Ip *ip); /* it is one of the port's addresses */
#define assert_ip(ip_, text_)                                                            \
    do {                                                                                 \
        char shown_[IP_TEXT];                                                            \
        g_assert_cmpstr(ip_text(ip_, shown_), ==, text_);                                \
    } while (0)
