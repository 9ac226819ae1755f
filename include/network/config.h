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
    char *subnet;    /* "10.5.0.0/24"; NULL: none */
    char *subnet6;   /* "fd00:5::/64"; NULL: none */
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

extern const ParamTable network_params;

/* The prefixes, parsed (network_params' check has refused what cannot be); bits 0: none.
 * The gateway has the first address after the network's, in both families. */
typedef struct NetworkSubnets {
    IpPrefix v4, v6;
    Ip gateway4, gateway6;
} NetworkSubnets;
void network_subnets(const NetworkConfig *config, NetworkSubnets *ret);

bool network_check_name(const char *name, GError **error);

/* To be freed with param_free(&network_params, ...).  VM_ERROR_NOT_FOUND names the
 * networks that there are. */
NetworkConfig *network_load(const char *name, GError **error);

/* Writes it whole or not at all.  create: VM_ERROR_BUSY if there is one of that name;
 * refuses a subnet that overlaps that of another network, naming it. */
bool network_create(const char *name, const NetworkConfig *config, GError **error);
bool network_store(const char *name, const NetworkConfig *config, GError **error);
bool network_remove(const char *name, GError **error);

/* Sorted names, to be freed with g_strfreev(). */
char **network_list(GError **error);

/* A new string: the path of a file in the network's folder. */
char *network_file(const char *name, const char *file);

/* Replaces a file in that folder, whole or not at all. */
bool network_write(const char *name, const char *file, const char *text, GError **error);
