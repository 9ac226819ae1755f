/* What the kinds of network backend share: the base struct and their table of functions.
 * Private to src/net; everybody else uses backend/netdev.h. */
#pragma once

#include "backend/netdev.h"
#include "state/state.h"

typedef struct UserState UserState; /* slirp_private.h */

typedef struct NetDevOps {
    const char *name;

    /* Any thread; opens nothing.  Refuses options that make no sense for this kind. */
    bool (*check)(const NetDevOptions *options, GError **error);
    NetDev *(*open)(const NetDevOptions *options, const NetDevCard *card, IoLoop *loop,
                    GError **error); /* card: NULL if there is none */

    /* The loop's thread.  close frees; set_offloads gets a subset of nd->offloads that
     * the rules of 5.1.3.1 allow, and may be NULL; set_reading is told of changes. */
    void (*close)(NetDev *nd);
    void (*set_offloads)(NetDev *nd, unsigned offloads);
    void (*set_reading)(NetDev *nd, bool on);
    bool (*send)(NetDev *nd, const struct iovec *iov, unsigned n);
    void (*flush)(NetDev *nd); /* after a batch of sends; NULL: none is held */
    ssize_t (*receive)(NetDev *nd, const struct iovec *iov, unsigned n);
    bool (*use_queues)(NetDev *nd, unsigned n); /* 1 to n_queues; NULL: it has one */

    /* The loop's thread; NULL where there is nobody to be told. */
    void (*set_link)(NetDev *nd, bool up);
    void (*announce)(NetDev *nd);
    /* A restored card has another address than it was opened with; NULL: it may. */
    bool (*readdress)(NetDev *nd, const uint8_t mac[6], GError **error);
    void (*set_mac)(NetDev *nd, const uint8_t mac[6]);

    /* The loop's thread; NULL where no port of the host can be forwarded. */
    bool (*forward)(NetDev *nd, const NetDevForward *fwd, GError **error);
    void (*unforward)(NetDev *nd, const NetDevForward *fwd);

    /* The loop's thread; NULL where there is nothing to be saved.  What load takes has no
     * effect before restored. */
    void (*save)(NetDev *nd, UserState *ret);
    void (*load)(NetDev *nd, const UserState *s);
    void (*restored)(NetDev *nd);
} NetDevOps;

typedef struct Soften Soften;

/* First member of each backend; owned by the loop. */
struct NetDev {
    const NetDevOps *ops;
    IoLoop *loop;
    unsigned offloads;                /* NET_OFFLOAD_*: what it can do */
    unsigned mtu;                     /* 0: not told */
    unsigned n_queues;                /* 0: one, which is this */
    NetDev *queue[NETDEV_MAX_QUEUES]; /* but the first */
    bool link_down; /* at the other end; changed by netdev_link_changed() */
    Soften *soften; /* NULL: the guest asks for no more than it can do */
    bool reading;
    void (*readable)(void *opaque);
    void (*writable)(void *opaque);
    void (*answered)(void *opaque, uint16_t port);
    void (*link)(void *opaque, bool up);
    void *opaque;
};

/* soften.c: sends what the backend lacks offloads for; g_free() ends it. */
Soften *soften_new(NetDev *nd);
bool soften_send(Soften *s, const struct iovec *iov, unsigned n);

/* For backends: the other end's link went down or up. */
void netdev_link_changed(NetDev *nd, bool up);

extern const NetDevOps netdev_tap_ops, netdev_bridge_ops, netdev_macvtap_ops;
extern const NetDevOps netdev_passt_ops, netdev_stream_ops;
extern const NetDevOps netdev_user_ops, netdev_network_ops, netdev_vhost_user_ops;

/* passt_vhost.c: whether the passt of this host can serve queues. */
bool passt_has_vhost_user(void);

/* A host port forwarded to the guest; addresses and ports in host byte order, guest_addr
 * 0 is the address that DHCP gives first. */
typedef struct HostFwd {
    bool udp;
    uint32_t host_addr, guest_addr;
    uint16_t host_port, guest_port;
} HostFwd;

/* Parses "tcp|udp:ADDR:PORT-ADDR:PORT"; the sentence names what is wrong with it. */
bool hostfwd_parse(const char *text, HostFwd *ret, GError **error);
