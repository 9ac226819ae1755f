/* ELF kernels (System V gABI, chapters 4 and 5), 32- and 64-bit alike: what the PVH and
 * multiboot loaders share.  The file is hostile; every offset is checked before use. */
#pragma once

#include "machine/boot.h"

typedef struct ElfImage {
    const BootFile *file;
    bool is64;
    uint64_t entry;
    uint64_t phoff;
    unsigned phentsize, phnum;
} ElfImage;

/* Little-endian x86 ELF with a sane program header table. */
bool elf_parse(const BootFile *file, ElfImage *ret);

/* Copies all PT_LOAD segments to their physical addresses; *ret_end is the end of the
 * highest. */
bool elf_load(const BootContext *ctx, const ElfImage *elf, uint64_t *ret_end,
              GError **error);

/* The description of the note (owner, type) of at least `size` bytes, or NULL. */
const uint8_t *elf_note(const ElfImage *elf, const char *owner, uint32_t type,
                        uint32_t size);
