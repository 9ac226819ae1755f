/* The disk behind a virtio block device, for who changes it at run time. */
#pragma once

#include "backend/block.h"
#include "virtio/virtio.h"

/* Any thread; NULL: v is no block device.  It stays the device's. */
BlockDev *virtio_blk_dev(VirtioDevice *v);
