/* The virtio devices; each is one file in virtio/.  This is the list of what we emulate,
 * in probe order: the order of options in --help, and of devices on a bus when a guest
 * was started with several. */
#pragma once

#include "virtio/virtio.h"

#define VIRTIO_DEVICES(X)                                                                \
    X(virtio_blk_ops)     /* virtio 1.2, 5.2 */                                          \
    X(virtio_net_ops)     /* 5.1 */                                                      \
    X(virtio_console_ops) /* 5.3 */                                                      \
    X(virtio_rng_ops)     /* 5.4 */                                                      \
    X(virtio_vsock_ops)   /* 5.10 */                                                     \
    X(virtio_share_ops)   /* 5.11, with a virtiofsd of ours */                           \
    X(virtio_fs_ops)      /* 5.11 */                                                     \
    X(vhost_user_blk_ops) /* 5.2, in another process */

#define DECLARE(ops) extern const VirtioOps ops;
VIRTIO_DEVICES(DECLARE)
#undef DECLARE
