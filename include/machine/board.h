/* A board: the memory map and the list of what is wired where.  One file per board
 * implements it; machine.c is the same for all. */
#pragma once

#include "devices/platform.h"
#include "kvm/arch.h"
#include "machine/boot.h"
#include "machine/config.h"

typedef struct Board Board;

typedef struct BoardContext {
    const Config *config;
    const BootSource *source;
    Kvm *kvm;
    GuestMem *gm;
    IoLoop *main, *shared_io;
    PlatformEvents events;
} BoardContext;

/* Main thread.  board_memory() lays out RAM, before anything else; board_new() makes and
 * connects every device; the context is kept by reference. */
bool board_memory(GuestMem *gm, uint64_t size, GError **error);
Board *board_new(const BoardContext *context, GError **error);
void board_free(Board *board); /* NULL is fine */

Bus *board_pio(Board *board);
Bus *board_mmio(Board *board);

/* Main thread, vCPUs parked: firmware tables and kernel into RAM, as at power-on. */
bool board_load(Board *board, BootEntry *ret, GError **error);
void board_reset(Board *board);
void board_quiesce(Board *board);
void board_resume(Board *board);

void board_power_button(Board *board); /* main thread */

/* Main thread: what each device counted, by its id. */
json_t *board_counters(Board *board);
