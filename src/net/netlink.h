/* Interfaces of the host, by rtnetlink (RFC 3549, rtnetlink(7)): those that are there,
 * what of them is changed, and macvtaps that come and go.  Nothing else of the host's
 * network is touched from here.
 *
 * Calls wait for the kernel's answer, which comes at once; none of them sleeps.  Any
 * thread, with a socket of its own.  What fails is told by the kernel's errno, because
 * the way out is the caller's to name. */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct NlLink {
    int index;
    char name[IFNAMSIZ];
    char kind[16]; /* "bridge", "veth"; "": a network card, or another that has none */
    uint32_t mtu;
    unsigned flags; /* IFF_* */
    uint8_t mac[6];
} NlLink;

/* A socket, or -1 with errno. */
int netlink_open(void);

/* Each of these: 0, or an errno.  ENODEV: there is none of that name. */
int netlink_get(int fd, const char *name, NlLink *ret);
int netlink_list(int fd, void (*each)(void *opaque, const NlLink *link), void *opaque);
int netlink_delete(int fd, int index);

typedef struct NlChange {
    unsigned flags;     /* IFF_*: to be set; others stay */
    int master;         /* index of the bridge it is put into; 0: stays */
    uint32_t mtu;       /* 0: stays */
    const uint8_t *mac; /* NULL: stays */
} NlChange;
int netlink_change(int fd, int index, const NlChange *change);

/* mode: MACVLAN_MODE_* of <linux/if_link.h>. */
int netlink_add_macvtap(int fd, const char *name, int parent, uint32_t mode,
                        const uint8_t mac[6]);

/* A new string for an error's sentence: the names of the links of a kind (NULL: of all
 * but loopback), as "br0, br1", or NULL if there is none. */
char *netlink_names(int fd, const char *kind);
