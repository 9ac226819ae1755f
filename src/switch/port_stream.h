/* Ports over a stream socket: each frame behind its length, four bytes, big-endian; what
 * QEMU's -netdev stream and passt have.  No virtio header, so nothing is left to the
 * other side. */
#pragma once

#include "src/switch/switch.h"

/* Somebody has connected; takes over fd.  Its MAC is that of its first frame. */
void port_stream_accept(Switch *sw, int fd);

/* Connects to a program that listens, which is trusted: it was named by who owns the
 * network, and it may be a gateway to elsewhere.  The port is there until it is hung up:
 * when the program ends its link is down, and it is connected to again when it is back,
 * by this switch and the next.  One that is not there at first is an error. */
Port *port_stream_connect(Switch *sw, const char *path, GError **error);

/* To those whom the switch before this one went to. */
void port_stream_connect_again(Switch *sw);

/* The port that leads to `path`; NULL with an error. */
Port *port_stream_find(Switch *sw, const char *path, GError **error);
