/* The tables that virtio_state_tables lists; each stands beside the code that uses it. */
#pragma once

#include "state/state.h"

extern const StateTable virtio_state_table, virtio_held_table, virtio_mmio_state_table,
    virtio_pci_state_table, virtio_blk_state_table, virtio_net_state_table,
    virtio_console_state_table, virtio_vsock_state_table;
