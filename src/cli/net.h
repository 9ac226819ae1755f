/* The verbs about networks and their firewalls (docs/networks.md, docs/firewall.md):
 *
 *     net.c          the table of verbs; whom a command is for; asking a switch
 *     net_rows.c     tables for people
 *     net_config.c   create, set, route, rm
 *     net_list.c     ls, inspect, ports, flows, forwards, routes, names; net_log.c: log
 *     net_leases.c   leases
 *     net_wire.c     limit, impair, port: what one port's wire is like
 *     net_connect.c  connect, disconnect
 *     net_capture.c  capture
 *     firewall.c     show, set, add, rm, check; firewall_test.c; firewall_log.c
 *
 * What runs is asked over its switch's control socket, what does not is in files. */
#pragma once

#include <jansson.h>

#include "network/config.h"
#include "src/cli/cli.h"

extern const Verb net_verbs[], firewall_verbs[]; /* end with a NULL name */
extern const char net_about[], firewall_about[];

/* ---- net.c ------------------------------------------------------------------------ */

/* A network, or a port of one. */
typedef struct NetTarget {
    char *network, *vm, *nic; /* vm NULL: the network; nic NULL: the VM's first */
    bool has_port;            /* it is named by its number instead: a stream's */
    unsigned port;
} NetTarget;

/* "VM[:NIC]", or ":N" for the port of that number; NULL for the network as a whole.  The
 * network must exist. */
bool net_target(const char *network, const char *port, NetTarget *ret, GError **error);
/* "NETWORK[/PORT]", as no name has a '/'. */
bool net_target_parse(const char *text, NetTarget *ret, GError **error);
void net_target_clear(NetTarget *t);

/* A new object with vm and nic, for the switch. */
json_t *net_arguments(const NetTarget *t);

/* Whether an element of query-ports is the one that is meant. */
bool net_is_port(const NetTarget *t, const json_t *port);

/* What a command without more arguments returns.  Of a network that is down: an empty
 * array. */
json_t *net_ask_list(const NetTarget *t, const char *command, GError **error);

/* "1%", "0.5%" as a part of one; "20ms", "3us", "1s" as microseconds. */
bool net_parse_percent(const char *text, double *ret, GError **error);
bool net_parse_time(const char *text, uint64_t *ret_us, GError **error);

/* ---- net_rows.c ------------------------------------------------------------------- */

typedef struct NetColumn {
    const char *title;
    const char *key; /* "in.frames": of an object within the row */
    bool right;
    char *(*text)(const json_t *row); /* instead of key; a new string */
} NetColumn;

/* `columns` ends with a NULL title.  What a guest may have said is made printable. */
void net_print_rows(const json_t *rows, const NetColumn *columns);

/* Or as JSON.  Takes the rows; false if they are NULL. */
bool net_print(json_t *rows, const NetColumn *columns, bool json);

char *net_who(const json_t *row); /* "web:net0", or what it is */

/* The value of a key as above, a new string: "-" if there is none. */
char *net_cell(const json_t *row, const char *key);

/* ---- acts ------------------------------------------------------------------------- */

bool net_act_create(void *, char **, int *, GError **); /* net_config.c */
bool net_act_set(void *, char **, int *, GError **);
bool net_act_rm(void *, char **, int *, GError **);
bool net_act_route(void *, char **, int *, GError **);
extern const ParamTable net_create_args, net_set_args, net_rm_args;

bool net_act_ls(void *, char **, int *, GError **); /* net_list.c */
bool net_act_inspect(void *, char **, int *, GError **);
bool net_act_ports(void *, char **, int *, GError **);
bool net_act_flows(void *, char **, int *, GError **);
bool net_act_forwards(void *, char **, int *, GError **);
bool net_act_routes(void *, char **, int *, GError **);
bool net_list_routes(char *network, bool json, GError **error);
bool net_act_names(void *, char **, int *, GError **);
bool net_act_log(void *, char **, int *, GError **);
extern const ParamTable net_ls_args, net_list_args, net_log_args;

bool net_act_leases(void *, char **, int *, GError **); /* net_leases.c */
extern const ParamTable net_lease_args;

bool net_act_limit(void *, char **, int *, GError **); /* net_wire.c */
bool net_act_impair(void *, char **, int *, GError **);
bool net_act_port(void *, char **, int *, GError **);
extern const ParamTable net_limit_args, net_impair_args, net_port_args;
extern const char net_impair_about[], net_limit_about[];

bool net_act_connect(void *, char **, int *, GError **); /* net_connect.c */
bool net_act_disconnect(void *, char **, int *, GError **);
extern const ParamTable net_connect_args, net_disconnect_args;
extern const char net_connect_about[];

bool net_act_capture(void *, char **, int *, GError **); /* net_capture.c */
extern const ParamTable net_capture_args;
extern const char net_capture_about[];

bool firewall_act_show(void *, char **, int *, GError **); /* firewall.c */
bool firewall_act_set(void *, char **, int *, GError **);
bool firewall_act_add(void *, char **, int *, GError **);
bool firewall_act_rm(void *, char **, int *, GError **);
bool firewall_act_check(void *, char **, int *, GError **);
bool firewall_act_test(void *, char **, int *, GError **); /* firewall_test.c */
bool firewall_act_log(void *, char **, int *, GError **);  /* firewall_log.c */
