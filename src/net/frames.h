/* Frames over a stream socket, each behind its length in four bytes, big-endian: the wire
 * format of QEMU's -netdev stream and socket, and of passt.  For the backends whose other
 * end is such a socket: it carries frames without offloads, and may be lost and come
 * back.
 *
 * What is read and what is written goes through a buffer of its own, so that one system
 * call carries many frames.  Everything belongs to the loop of the NetDev; the other end
 * is hostile. */
#pragma once

#include "src/net/netdev_private.h"

enum { FRAMES_PREFIX = 4, FRAMES_BYTES = 160 * 1024 /* of a buffer; at least a frame */ };

typedef struct FrameSocket {
    NetDev *nd;
    int fd; /* -1: there is no other end now, and frames to it are lost */
    IoWatch watch;
    IoPost more; /* frames are left in the buffer that nobody was told of */
    bool want_write;

    /* On the loop: the other end has hung up, or does not keep to the format (`why`); the
     * socket is closed. */
    void (*lost)(void *opaque, const char *why);
    void *opaque;

    uint8_t *in, *out;
    size_t in_at, in_end, out_at, out_end;
} FrameSocket;

/* Without an other end.  `lost` may frames_attach() the next one. */
void frames_init(FrameSocket *s, NetDev *nd, IoLoop *loop,
                 void (*lost)(void *opaque, const char *why), void *opaque);
void frames_finish(FrameSocket *s);

/* Takes over a connected socket, closing the one before it. */
bool frames_attach(FrameSocket *s, IoLoop *loop, int fd, GError **error);
void frames_detach(FrameSocket *s);

/* As of NetDevOps. */
bool frames_send(FrameSocket *s, const struct iovec *iov, unsigned n);
void frames_flush(FrameSocket *s);
ssize_t frames_receive(FrameSocket *s, const struct iovec *iov, unsigned n);
void frames_set_reading(FrameSocket *s, bool on);
