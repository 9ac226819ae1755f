/* ELF kernels with a PVH note (Xen: docs/misc/pvh.pandoc,
 * public/arch-x86/hvm/start_info.h): entered in 32-bit protected mode with ebx pointing
 * at a start_info. */
#include <string.h>

#include "elf_image.h"
#include "machine/layout.h"

enum { NOTE_PHYS32_ENTRY = 18, START_INFO_MAGIC = 0x336ec578, START_INFO_VERSION = 1 };

typedef struct StartInfo {
    uint32_t magic, version, flags, n_modules;
    uint64_t modules, cmdline, rsdp, memmap;
    uint32_t n_memmap, reserved;
} StartInfo;

typedef struct Module {
    uint64_t base, size, cmdline, reserved;
} Module;

typedef struct Memmap {
    uint64_t base, size;
    uint32_t type, reserved;
} Memmap;

/* All of it in the one page at LAYOUT_START_INFO. */
typedef struct InfoPage {
    StartInfo info;
    Module module;
    Memmap map[MEMMAP_MAX];
} InfoPage;

static bool entry_point(const BootFile *kernel, ElfImage *elf, uint32_t *entry)
{
    const uint8_t *note;

    if (!elf_parse(kernel, elf) ||
        !(note = elf_note(elf, "Xen", NOTE_PHYS32_ENTRY, sizeof(uint32_t))))
        return false;
    *entry = load_le32(note);
    return true;
}

static bool recognise(const BootFile *kernel)
{
    uint32_t entry;
    ElfImage elf;

    return entry_point(kernel, &elf, &entry);
}

static bool load(const BootContext *ctx, BootEntry *ret, GError **error)
{
    const BootSource *src = ctx->source;
    InfoPage page = {
        .info = {START_INFO_MAGIC, START_INFO_VERSION, .cmdline = LAYOUT_CMDLINE,
                 .rsdp = ctx->rsdp, .memmap = LAYOUT_START_INFO + offsetof(InfoPage, map),
                 .n_memmap = ctx->n_map},
    };
    ElfImage elf;
    uint32_t entry;
    uint64_t end = 0, initrd;

    if (!entry_point(&src->kernel, &elf, &entry))
        return fail(error, VM_ERROR_CORRUPT, "kernel: '%s' has changed",
                    src->kernel.path);
    if (!elf_load(ctx, &elf, &end, error) ||
        !boot_put_cmdline(ctx, LAYOUT_CMDLINE_MAX, error) ||
        !boot_put_initrd(ctx, end, ctx->low_ram_end, &initrd, error))
        return false;
    if (initrd) {
        page.info.n_modules = 1;
        page.info.modules = LAYOUT_START_INFO + offsetof(InfoPage, module);
        page.module = (Module){.base = initrd, .size = src->initrd.size};
    }
    for (unsigned i = 0; i < ctx->n_map; i++)
        page.map[i] = (Memmap){ctx->map[i].base, ctx->map[i].size, ctx->map[i].type, 0};
    *ret = (BootEntry){
        .mode = BOOT_PROTECTED, .ip = entry, .bx = LAYOUT_START_INFO, .gdt = LAYOUT_GDT};
    return boot_copy(ctx, LAYOUT_START_INFO, &page, sizeof(page), "start_info", error);
}

const BootLoader boot_pvh = {.name = "PVH", .recognise = recognise, .load = load};
