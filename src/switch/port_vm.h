/* Ports of hutch's own VMs: include/network/port.h is what both sides say, and
 * include/network/ring.h how frames go. */
#pragma once

#include "src/switch/switch.h"

/* What a monitor says of itself when it comes, checked. */
typedef struct Hello {
    char *vm, *nic, *instance; /* vm: NULL if it has no name */
    char **groups;             /* NULL: none */
    Mac mac;
    Ip ip[16];
    unsigned n_ip;
    unsigned queues, offloads;
    uint16_t vlan;
    uint8_t *trunk;
    bool trust;
    char *firewall; /* NULL: no rules of its own */
} Hello;

/* One line, which anybody may have written.  hello_free() is fine after a failure too. */
bool hello_parse(const char *line, Hello *ret, GError **error);
void hello_free(Hello *hello);

/* A monitor has connected; takes over fd.  It is a port once it has said who it is. */
void port_vm_accept(Switch *sw, int fd);

/* How many have connected and not yet said who they are; and hangs up on them. */
unsigned port_vm_waiting(Switch *sw);
void port_vm_close_waiting(Switch *sw);
