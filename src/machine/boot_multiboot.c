/* Multiboot 1 (Multiboot Specification 0.6.96): ELF kernels, 32- and 64-bit, and flat
 * ones that give their addresses in the header.  All are entered in 32-bit protected mode
 * with the magic in eax and the information structure in ebx. */
#include <string.h>

#include "elf_image.h"
#include "machine/layout.h"

enum {
    HEADER_MAGIC = 0x1badb002,
    BOOT_MAGIC = 0x2badb002,
    SEARCH = 8192, /* the header begins within, 4-byte aligned */
};
/* Header flags: the lower half must be understood. */
enum { WANT_ALIGNED = 1, WANT_MEMORY = 2, UNDERSTOOD = WANT_ALIGNED | WANT_MEMORY };
#define HAS_ADDRESSES BIT(16)

typedef struct Header {
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
} Header;

typedef struct Info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table,
        loader_name;
} Info;
enum { INFO_MEM = 1, INFO_CMDLINE = 4, INFO_MODS = 8, INFO_MMAP = 64, INFO_LOADER = 512 };

typedef struct Module {
    uint32_t start, end, string, reserved;
} Module;

typedef struct __attribute__((packed)) Memmap {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
} Memmap;

typedef struct InfoPage {
    Info info;
    Module module;
    Memmap map[MEMMAP_MAX];
    char loader[8];
} InfoPage;

static bool find_header(const BootFile *k, Header *ret, uint64_t *ret_offset)
{
    for (uint64_t at = 0; at < SEARCH && range_within(at, sizeof(Header), k->size);
         at += 4) {
        memcpy(ret, k->data + at, sizeof(*ret));
        if (ret->magic == HEADER_MAGIC && ret->magic + ret->flags + ret->checksum == 0) {
            *ret_offset = at;
            return true;
        }
    }
    return false;
}

static bool recognise(const BootFile *k)
{
    uint64_t offset;
    Header h;

    return find_header(k, &h, &offset);
}

/* The addresses of the header instead of ELF's (3.1.3); kernels that are both follow
 * these. */
static bool load_flat(const BootContext *ctx, const Header *h, uint64_t offset,
                      uint64_t *end, GError **error)
{
    const BootFile *k = &ctx->source->kernel;
    uint64_t before = (uint64_t)h->header_addr - h->load_addr;
    uint64_t start = offset - before;
    uint64_t size = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr
                                     : k->size - MIN(start, k->size);

    if (h->header_addr < h->load_addr || before > offset ||
        !range_within(start, size, k->size))
        return fail(
            error, VM_ERROR_CORRUPT,
            "kernel: '%s' has a multiboot header whose addresses lie outside the file",
            k->path);
    *end = MAX((uint64_t)h->load_addr + size, h->bss_end_addr);
    return boot_copy(ctx, h->load_addr, k->data + start, size, "kernel", error) &&
           boot_clear(ctx, h->load_addr + size, *end - h->load_addr - size, "kernel",
                      error);
}

static bool load_kernel(const BootContext *ctx, uint64_t *entry, uint64_t *end,
                        GError **error)
{
    const BootFile *k = &ctx->source->kernel;
    uint64_t offset;
    ElfImage elf;
    Header h;

    if (!find_header(k, &h, &offset))
        return fail(error, VM_ERROR_CORRUPT, "kernel: '%s' has changed", k->path);
    if (h.flags & 0xffff & ~UNDERSTOOD)
        return fail(
            error, VM_ERROR_UNSUPPORTED,
            "kernel: '%s' asks its multiboot loader for more than hutch has (flags 0x%x)",
            k->path, h.flags & 0xffff);
    if (h.flags & HAS_ADDRESSES) {
        *entry = h.entry_addr;
        return load_flat(ctx, &h, offset, end, error);
    }
    if (!elf_parse(k, &elf))
        return fail(
            error, VM_ERROR_CORRUPT,
            "kernel: '%s' has a multiboot header but is neither ELF nor gives addresses",
            k->path);
    *entry = elf.entry;
    if (*entry > UINT32_MAX)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "kernel: '%s' is to be entered above 4 GiB, where multiboot cannot",
                    k->path);
    return elf_load(ctx, &elf, end, error);
}

static bool load(const BootContext *ctx, BootEntry *ret, GError **error)
{
    const BootSource *src = ctx->source;
    InfoPage page = {
        .info = {.flags = INFO_MEM | INFO_CMDLINE | INFO_MMAP | INFO_LOADER,
                 .mem_lower = (uint32_t)(LAYOUT_EBDA / KIB),
                 .mem_upper = (uint32_t)((ctx->low_ram_end - LAYOUT_HIGH_RAM) / KIB),
                 .cmdline = LAYOUT_CMDLINE,
                 .mmap_length = ctx->n_map * (uint32_t)sizeof(Memmap),
                 .mmap_addr = LAYOUT_START_INFO + offsetof(InfoPage, map),
                 .loader_name = LAYOUT_START_INFO + offsetof(InfoPage, loader)},
        .loader = "hutch",
    };
    uint64_t entry = 0, end = 0, initrd;

    if (!load_kernel(ctx, &entry, &end, error) ||
        !boot_put_cmdline(ctx, LAYOUT_CMDLINE_MAX, error) ||
        !boot_put_initrd(ctx, end, ctx->low_ram_end, &initrd, error))
        return false;
    if (initrd) {
        page.info.flags |= INFO_MODS;
        page.info.mods_count = 1;
        page.info.mods_addr = LAYOUT_START_INFO + offsetof(InfoPage, module);
        page.module = (Module){(uint32_t)initrd, (uint32_t)(initrd + src->initrd.size),
                               LAYOUT_CMDLINE, 0};
    }
    for (unsigned i = 0; i < ctx->n_map; i++)
        page.map[i] = (Memmap){sizeof(Memmap) - sizeof(uint32_t), ctx->map[i].base,
                               ctx->map[i].size, ctx->map[i].type};
    *ret = (BootEntry){.mode = BOOT_PROTECTED,
                       .ip = entry,
                       .ax = BOOT_MAGIC,
                       .bx = LAYOUT_START_INFO,
                       .gdt = LAYOUT_GDT};
    return boot_copy(ctx, LAYOUT_START_INFO, &page, sizeof(page), "multiboot information",
                     error);
}

const BootLoader boot_multiboot = {
    .name = "multiboot", .recognise = recognise, .load = load};
