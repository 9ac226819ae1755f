/* See virtio/state_tables.h. */
#include "virtio/state_tables.h"

#include "state_private.h"

const StateTable *const virtio_state_tables[] = {
    &virtio_state_table,         &virtio_held_table,        &virtio_mmio_state_table,
    &virtio_pci_state_table,     &virtio_blk_state_table,   &virtio_net_state_table,
    &virtio_console_state_table, &virtio_vsock_state_table, NULL,
};
