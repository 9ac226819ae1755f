/* Ports over a stream socket: each frame behind its length, four bytes, big-endian; what
 * QEMU's -netdev stream and passt have.  No virtio header, so nothing is left to the
 * other side. */
#pragma once

#include "src/switch/switch.h"

/* Somebody has connected; takes over fd.  Its MAC is that of its first frame. */
void port_stream_accept(Switch *sw, int fd);

/* Connects to a program that listens, which is trusted: it was named by who owns the
 * network, and it may be a gateway to elsewhere. */
Port *port_stream_connect(Switch *sw, const char *path, GError **error);
