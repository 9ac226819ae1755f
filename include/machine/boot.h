/* Boot loaders: each takes a kernel file of one format to RAM contents and the registers
 * to enter with.  The format is recognised by what the file says of itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/guestmem.h"
#include "kvm/arch.h"
#include "util/error.h"

/* A file mapped for the VM's life: a reboot loads it again from here.  The descriptor
 * tells whether the mapping's pages are still behind it. */
typedef struct BootFile {
    char *path;
    const uint8_t *data;
    uint64_t size;
    int fd;
} BootFile;

typedef struct BootLoader BootLoader;

typedef struct BootSource {
    BootFile kernel, initrd; /* initrd.data NULL: none */
    char *cmdline;
    const BootLoader *loader;
} BootSource;

/* A stretch of the memory map as the guest is told of it (ACPI 6.4, 15: address ranges).
 */
typedef enum { MEMMAP_RAM = 1, MEMMAP_RESERVED = 2 } MemMapType;
typedef struct MemMapEntry {
    uint64_t base, size;
    uint32_t type;
} MemMapEntry;
enum { MEMMAP_MAX = 8 };

typedef struct BootContext {
    GuestMem *gm;
    const BootSource *source;
    MemMapEntry map[MEMMAP_MAX];
    unsigned n_map;
    uint64_t low_ram_end; /* of RAM below 4 GiB */
    uint64_t rsdp;
} BootContext;

struct BootLoader {
    const char *name;
    bool (*recognise)(const BootFile *kernel);
    bool (*load)(const BootContext *ctx, BootEntry *ret, GError **error);
};

/* Main thread.  Maps kernel and initrd (NULL: none) and picks the loader; errors name the
 * file and say what hutch can boot. */
bool boot_open(BootSource *source, const char *kernel, const char *initrd,
               const char *cmdline, GError **error);
void boot_close(BootSource *source); /* harmless on a zeroed one */

/* Main thread, vCPUs parked: puts everything into RAM. */
bool boot_load(const BootContext *ctx, BootEntry *ret, GError **error);

extern const BootLoader boot_bzimage, boot_pvh, boot_multiboot;

/* ---- for the loaders ----------------------------------------------------------------
 */

/* Copies into RAM, failing with a sentence that says `what` does not fit. */
bool boot_copy(const BootContext *ctx, uint64_t gpa, const void *data, uint64_t size,
               const char *what, GError **error);
bool boot_clear(const BootContext *ctx, uint64_t gpa, uint64_t size, const char *what,
                GError **error);
/* The command line, at LAYOUT_CMDLINE; `max` is what the kernel takes, its end included.
 */
bool boot_put_cmdline(const BootContext *ctx, uint64_t max, GError **error);
/* The initrd, as high as it goes below `limit` but above `floor`; *ret_gpa is 0 without
 * one. */
bool boot_put_initrd(const BootContext *ctx, uint64_t floor, uint64_t limit,
                     uint64_t *ret_gpa, GError **error);
