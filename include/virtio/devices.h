/* The virtio devices; each is one file in virtio/, virtio/table.c lists them. */
#pragma once

#include "virtio/virtio.h"

extern const VirtioOps virtio_blk_ops;     /* virtio 1.2, 5.2 */
extern const VirtioOps virtio_net_ops;     /* 5.1 */
extern const VirtioOps virtio_console_ops; /* 5.3 */
extern const VirtioOps virtio_rng_ops;     /* 5.4 */
