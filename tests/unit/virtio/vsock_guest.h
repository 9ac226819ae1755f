/* A vsock driver for tests: packets out, packets in, and unix sockets at the other side.
 * It keeps no state of connections; tests say what goes into each packet. */
#pragma once

#include "virtio/vsock_private.h"
#include "vq_guest.h"

enum { GUEST_CID = 3, GUEST_BUF = 64 * 1024, RX_SIZE = 4096 };

/* A packet that came, with its bytes. */
typedef struct Packet {
    VsockHdr h;
    uint8_t data[RX_SIZE];
} Packet;

extern VqGuest g;

/* Once per program: makes, and removes, the folder of the sockets. */
void vsg_init(void);
void vsg_done(void);

/* A device without receive buffers yet; `mode` as in vq_guest.h.  vsg_open() offers n
 * buffers too. */
void vsg_open_bare(unsigned mode);
void vsg_open(unsigned mode, unsigned n);
void vsg_close(void);
Vsock *vsg_device(void);

void vsg_offer(unsigned n); /* more receive buffers */

/* A header with sensible contents; the port pair as the guest's packets have it. */
VsockHdr vsg_header(uint16_t op, uint32_t guest_port, uint32_t host_port);

/* Sends it with hdr.len bytes of data; vsg_send is of a sensible header. */
void vsg_send_packet(VsockHdr hdr, const void *data);
void vsg_send(uint16_t op, uint32_t guest_port, uint32_t host_port, const void *data,
              uint32_t len);

/* The next packet, whose buffer is offered anew; none in ten seconds ends the test.
 * vsg_expect wants a certain op. */
void vsg_hear(Packet *p);
void vsg_expect(Packet *p, uint16_t op);
bool vsg_silent(void); /* nothing came */

/* A client at the device's socket (suffix "") or at another, non-blocking; -1: not let
 * in.  vsg_listen makes a listener, which vsg_accept asks; vsg_unlisten removes it. */
int vsg_dial(const char *suffix);
int vsg_listen(const char *suffix);
void vsg_unlisten(const char *suffix);
int vsg_accept(int listener);

/* Writes all of it / reads until `len` bytes are there, or the end; returns how many. */
void vsg_put(int fd, const void *data, size_t len);
size_t vsg_get(int fd, void *buf, size_t len);
bool vsg_ended(int fd); /* the next read is the end */

/* An open connection: of a client to port 52, returns the host's port; of guest port 7 to
 * the listener at "_80", returns the listener's socket. */
uint32_t vsg_client_opens(int *ret_fd);
int vsg_guest_opens(void);
