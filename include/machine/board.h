/* A board: the memory map and the list of what is wired where.  One file per board
 * implements it; machine.c is the same for all. */
#pragma once

#include "devices/pci.h"
#include "devices/platform.h"
#include "kvm/arch.h"
#include "machine/boot.h"
#include "machine/config.h"
#include "state/state.h"

typedef struct Board Board;

typedef struct BoardContext {
    const Config *config;
    const BootSource *source;
    Kvm *kvm;
    GuestMem *gm;
    IoLoop *main;
    PlatformEvents events;
    void (*stop)(void *opaque, const char *id); /* these two as in VirtioEnv */
    void (*event)(void *opaque, const char *name, json_t *data);
    void *opaque; /* of both */
} BoardContext;

/* Main thread.  board_memory() lays out RAM, before anything else; board_new() makes and
 * connects every device but those of virtio; the context is kept by reference. */
bool board_memory(GuestMem *gm, uint64_t size, GError **error);
Board *board_new(const BoardContext *context, GError **error);
void board_free(Board *board); /* NULL is fine */

/* Main thread.  Puts a virtio device on the transport that the Config says, and takes it
 * over, on failure too.  `slot`, on PCI: where, -1 for the next free one.  `running`: the
 * guest is there already, which PCI alone allows.  *ret_pci is its function, NULL on
 * virtio-mmio. */
bool board_plug(Board *board, VirtioDevice *v, int slot, bool running,
                PciDevice **ret_pci, GError **error);
VirtioEnv *board_virtio_env(Board *board);
PciBus *board_pci_bus(Board *board);     /* NULL: virtio-mmio */
Device *board_pci_hotplug(Board *board); /* devices/pci_hotplug.h; NULL: virtio-mmio */

Bus *board_pio(Board *board);
Bus *board_mmio(Board *board);

/* Main thread, vCPUs parked: firmware tables and kernel into RAM, as at power-on. */
bool board_load(Board *board, BootEntry *ret, GError **error);
void board_reset(Board *board);
void board_quiesce(Board *board);
void board_resume(Board *board);

/* Main thread, quiesced: the board's own devices, PCI with all on it, and virtio-mmio.
 * board_pinned() at any time: a new sentence about the first that cannot be saved, or
 * NULL. */
char *board_pinned(Board *board);
bool board_save(Board *board, StateWriter *w, GError **error);
bool board_load_state(Board *board, StateReader *r, GError **error);
void board_put_forward(Board *board, int64_t ns); /* its clocks, but those of KVM */
bool board_new_generation(Board *board, GError **error); /* a new VM generation ID */

void board_power_button(Board *board); /* main thread */

/* Main thread.  Of the n-th serial port; NULL: it is not there. */
const Chardev *board_serial_chardev(const Board *board, unsigned n);
