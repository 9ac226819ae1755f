/* The socket of a VM's port, and the memory of its rings; private to guest.c,
 * port_vm.c and vm_link.c.
 *
 * guest.c has the socket until the monitor has said who it is, then vm_link.c. */
#pragma once

#include "network/port.h"
#include "src/switch/lines.h"
#include "src/switch/port_vm.h"

typedef struct VmLink {
    Port *port;
    int fd; /* -1: none */
    IoWatch watch;
    Lines lines;
    bool told, tell; /* the state of the link that it knows, and the one it should */
    void (*gone)(Port *port);
} VmLink;

/* Takes over fd and what was read from it; `gone` is called when the monitor hangs up. */
bool vm_link_open(VmLink *l, Port *port, int fd, Lines *lines, void (*gone)(Port *port),
                  GError **error);
void vm_link_close(VmLink *l);
void vm_link_tell(VmLink *l, bool up);

/* The monitor finds the connection closed, and so do we, on the loop. */
void vm_link_hang_up(VmLink *l);
void vm_link_dismiss(VmLink *l); /* and the monitor is told not to come again */
bool vm_link_is_dead(VmLink *l); /* it has hung up, and we have not looked yet */

/* What a monitor is handed out: memory, and for each queue the end of a pipe that wakes
 * us, for writing, and of one that wakes it, for reading.  They are of no use to us after
 * that. */
typedef struct VmFds {
    int fd[1 + 2 * PORT_MAX_QUEUES];
    unsigned n;
} VmFds;
void vm_fds_close(VmFds *fds);

/* Mapped, zeroed, and of a size that nobody can change; *ret_fd is the caller's. */
void *vm_memory_new(unsigned queues, int *ret_fd, GError **error);
void vm_memory_free(void *memory, unsigned queues); /* NULL is fine */

/* A port with its rings, which knows nobody yet; vm_fds_close() is the caller's. */
Port *port_vm_new(Switch *sw, const Hello *hello, VmFds *fds, GError **error);
bool port_vm_connect(Port *port, int fd, Lines *lines, GError **error);
bool port_is_vm(const Port *port);
bool port_vm_is_dead(Port *port);
