/* What we emulate, in probe order: the order of options in --help, and of devices on a
 * bus when a guest was started with several. */
#include "virtio/devices.h"

const VirtioOps *const virtio_table[] = {
    &virtio_blk_ops, &virtio_net_ops, &virtio_console_ops, &virtio_rng_ops, NULL,
};
