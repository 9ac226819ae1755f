/* The list of virtio/devices.h as a table. */
#include "virtio/devices.h"

#define LIST(ops) &ops,
const VirtioOps *const virtio_table[] = {VIRTIO_DEVICES(LIST) NULL};
