/* What a network is: the options of `hutch net create`, which `hutch net set` changes,
 * and the files that keep them.
 *
 * A network has a folder, $HUTCH_NETWORKS/NAME or hutch/networks/NAME in $XDG_DATA_HOME
 * (~/.local/share), with
 *
 *     config.json     these options
 *     leases.json     which VM has which address (the switch's)
 *     firewall.rules  the network's own rules, if there are any
 *     rules/          rules that were set for a vNIC while it ran (the switch's)
 *
 * Any thread. */
#pragma once

#include "core/param.h"
#include "packet/addr.h"

typedef enum { NETWORK_ISOLATED, NETWORK_NAT, NETWORK_ROUTED } NetworkMode;
extern const char *const network_mode_names[];

typedef struct NetworkConfig {
    int mode;        /* NetworkMode */
    char *subnet;    /* "10.5.0.0/24"; "auto": network_create() chooses; NULL: none */
    char *subnet6;   /* "fd00:5::/64", likewise */
    bool dhcp, dns;  /* the switch serves them */
    uint64_t mtu;    /* 1500 */
    char *domain;    /* of VM names: "web.DOMAIN"; NULL: "NAME.internal" is used */
    char **leases;   /* static: "VM=ADDRESS" */
    char **forwards; /* "tcp|udp:[ADDR]:PORT-VM:PORT" */
    char **routes;   /* names of the networks that packets are routed to */
    char *uplink;    /* a port to the host, as of --net: "bridge=br0", "tap,ifname=t0" */
    bool spoof;      /* on: no anti-spoofing on this network */
    uint64_t storm;  /* broadcast and multicast frames a second and port; 0: no limit */
    uint64_t ageing_s; /* of learned addresses */
    char **upstream;   /* DNS servers that the rest is asked of; empty: the host's */
} NetworkConfig;

/* Entries of a table whose struct has a NetworkConfig at `at`. */
#define NETWORK_PARAM(Type, at, member_, ...)                                            \
    {                                                                                    \
        .offset = offsetof(Type, at) + offsetof(NetworkConfig, member_), __VA_ARGS__     \
    }
#define NETWORK_PARAMS(Type, at)                                                         \
    NETWORK_PARAM(                                                                       \
        Type, at, subnet, .key = "subnet", .type = PARAM_STRING, .arg = "PREFIX",        \
        .help = "IPv4 addresses of the network, such as 10.5.0.0/24; auto: one "         \
                "that is free; none"),                                                   \
        NETWORK_PARAM(                                                                   \
            Type, at, subnet6, .key = "subnet6", .type = PARAM_STRING, .arg = "PREFIX",  \
            .help = "IPv6 addresses, such as fd00:5::/64; auto: one at random "          \
                    "below fd00::/8; none"),                                             \
        NETWORK_PARAM(Type, at, dhcp, .key = "dhcp", .type = PARAM_BOOL, .def = "on",    \
                      .help = "give VMs their addresses: DHCP, router advertisements"),  \
        NETWORK_PARAM(Type, at, dns, .key = "dns", .type = PARAM_BOOL, .def = "on",      \
                      .help = "resolve names of VMs, and ask others about the rest"),    \
        NETWORK_PARAM(Type, at, mtu, .key = "mtu", .type = PARAM_UINT, .def = "1500",    \
                      .min = 576, .max = 65535, .arg = "BYTES",                          \
                      .help = "the largest packet that its VMs may send"),               \
        NETWORK_PARAM(Type, at, domain, .key = "domain", .type = PARAM_STRING,           \
                      .arg = "DOMAIN",                                                   \
                      .help = "what follows a VM's name in DNS; NAME.internal if it is " \
                              "not given"),                                              \
        NETWORK_PARAM(Type, at, leases, .key = "lease", .type = PARAM_LIST,              \
                      .arg = "VM=ADDRESS", .help = "an address that is that VM's"),      \
        NETWORK_PARAM(Type, at, forwards, .key = "forward", .type = PARAM_LIST,          \
                      .arg = "tcp|udp:[ADDR]:PORT-VM:PORT",                              \
                      .help = "a port of this host that leads to one of a VM"),          \
        NETWORK_PARAM(Type, at, routes, .key = "route", .type = PARAM_LIST,              \
                      .arg = "NETWORK", .help = "a network that packets are routed to"), \
        NETWORK_PARAM(Type, at, uplink, .key = "uplink", .type = PARAM_STRING,           \
                      .arg = "bridge|tap|macvtap[=NAME][,KEY=VALUE]...",                 \
                      .help = "a port to the host, with keys as of --net"),              \
        NETWORK_PARAM(Type, at, spoof, .key = "spoof", .type = PARAM_BOOL,               \
                      .help = "let VMs use any address: no anti-spoofing"),              \
        NETWORK_PARAM(Type, at, storm, .key = "storm", .type = PARAM_UINT,               \
                      .def = "1000", .arg = "N",                                         \
                      .help = "broadcast and multicast frames a second that a port may " \
                              "send; 0: any number"),                                    \
        NETWORK_PARAM(Type, at, ageing_s, .key = "ageing", .type = PARAM_UINT,           \
                      .def = "300", .min = 1, .max = 1000000, .arg = "SECONDS",          \
                      .help = "how long a silent station is remembered"),                \
        NETWORK_PARAM(Type, at, upstream, .key = "upstream", .type = PARAM_LIST,         \
                      .arg = "ADDRESS[:PORT]",                                           \
                      .help = "a DNS server for names that are not of VMs; the host's "  \
                              "if none is given")

/* Its bare key is mode.  The check refuses what makes no sense alone; what other networks
 * forbid, network_create() and network_store() do. */
extern const ParamTable network_params;

/* The prefixes, parsed (network_params' check has refused what cannot be); bits 0: none.
 * The gateway has the first address after the network's, in both families. */
typedef struct NetworkSubnets {
    IpPrefix v4, v6;
    Ip gateway4, gateway6;
} NetworkSubnets;
void network_subnets(const NetworkConfig *config, NetworkSubnets *ret);

/* What follows a VM's name in DNS, in lower case: a new string. */
char *network_domain(const char *name, const NetworkConfig *config);

/* [a-z0-9][a-z0-9-]{0,30}, and no word that --net takes otherwise. */
bool network_check_name(const char *name, GError **error);

/* "VM=ADDRESS".  ret_vm is a new string; nothing is set on failure. */
bool network_lease_parse(const char *text, char **ret_vm, Ip *ret, GError **error);

/* "tcp|udp:[ADDR]:PORT-VM:PORT"; an IPv6 ADDR stands in brackets. */
typedef struct NetworkForward {
    bool udp;
    Ip address; /* of this host; ::, if none is given: all of them */
    uint16_t port;
    char *vm; /* owned */
    uint16_t vm_port;
} NetworkForward;
bool network_forward_parse(const char *text, NetworkForward *ret, GError **error);
void network_forward_clear(NetworkForward *f);

/* A DNS server: "ADDRESS", "ADDRESS:PORT", "[ADDRESS]:PORT". */
enum { NETWORK_MAX_UPSTREAM = 3 };
bool network_upstream_parse(const char *text, Ip *ret, uint16_t *ret_port,
                            GError **error);

/* To be freed with param_free(&network_params, ...).  VM_ERROR_NOT_FOUND names the
 * networks that there are. */
NetworkConfig *network_load(const char *name, GError **error);

/* Writes it whole or not at all, after exchanging "auto" for a subnet that is free:
 * the first of 10.5.0.0/24, 10.6.0.0/24, ... that neither another network nor an
 * interface of this host has; in IPv6 a random one (RFC 4193).  VM_ERROR_BUSY: there is a
 * network of that name, or one whose subnet overlaps, which is named. */
bool network_create(const char *name, NetworkConfig *config, GError **error);
bool network_store(const char *name, NetworkConfig *config, GError **error);

/* With all that is in its folder. */
bool network_remove(const char *name, GError **error);

/* Sorted names, to be freed with g_strfreev(). */
char **network_list(GError **error);

/* A new string: the path of a file in the network's folder. */
char *network_file(const char *name, const char *file);

/* Replaces a file in that folder, whole or not at all, with mode 0600.  `file` may be in
 * a folder there ("rules/web"), which is made.  NULL for `text` removes it. */
bool network_write(const char *name, const char *file, const char *text, GError **error);
/* Does not wait for the disk: this process may be killed at any time, but when the host
 * loses power the file may be what it was before, or damaged. */
bool network_write_unsynced(const char *name, const char *file, const char *text,
                            GError **error);

#define NETWORK_RULES "firewall.rules"
