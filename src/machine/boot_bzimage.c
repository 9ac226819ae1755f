/* Linux bzImage (Documentation/arch/x86/boot.rst): the 64-bit entry point where the
 * kernel has one, else the 32-bit entry point. */
#include <asm/bootparam.h>
#include <inttypes.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/layout.h"

enum {
    HDR_AT = 0x1f1,
    MAGIC_AT = 0x202, /* "HdrS" */
    ENTRY64 = 0x200,  /* from the start of the protected-mode kernel */
    LOADER_UNDEFINED = 0xff,
    MIN_PROTOCOL = 0x0205, /* relocatable kernels; Linux 2.6.20 */
    PROTOCOL_INIT_SIZE = 0x020a,
    PROTOCOL_XLF = 0x020c,
};
#define PAGE_PRESENT_WRITE 3ull
#define PAGE_2M            BIT64(7)

static bool recognise(const BootFile *k)
{
    return k->size > HDR_AT + sizeof(struct setup_header) &&
           !memcmp(k->data + MAGIC_AT, "HdrS", 4) && load_le16(k->data + 0x1fe) == 0xaa55;
}

/* Identity map of the first 4 GiB in 2 MiB pages, and flat segments. */
static bool put_page_tables(const BootContext *ctx, GError **error)
{
    enum { ENTRIES = 512, DIRECTORIES = 4 };
    uint64_t *table = gm_at(ctx->gm, LAYOUT_PAGE_TABLES,
                            (2 + DIRECTORIES) * GM_PAGE_SIZE);

    if (!table)
        return fail(error, VM_ERROR_INVALID, "kernel: no low memory for page tables");
    memset(table, 0, (2 + DIRECTORIES) * GM_PAGE_SIZE);
    table[0] = (LAYOUT_PAGE_TABLES + GM_PAGE_SIZE) | PAGE_PRESENT_WRITE;
    for (uint64_t i = 0; i < DIRECTORIES; i++)
        table[ENTRIES + i] = (LAYOUT_PAGE_TABLES + (2 + i) * GM_PAGE_SIZE) |
                             PAGE_PRESENT_WRITE;
    for (uint64_t i = 0; i < DIRECTORIES * ENTRIES; i++)
        table[2 * ENTRIES + i] = i * 2 * MIB | PAGE_2M | PAGE_PRESENT_WRITE;
    return true;
}

static void put_memory_map(const BootContext *ctx, struct boot_params *bp)
{
    for (unsigned i = 0; i < ctx->n_map; i++)
        bp->e820_table[i] = (struct boot_e820_entry){ctx->map[i].base, ctx->map[i].size,
                                                     ctx->map[i].type};
    bp->e820_entries = (uint8_t)ctx->n_map;
}

/* Where the kernel's own code goes, and how much room it needs there until it has
 * unpacked itself. */
static bool put_kernel(const BootContext *ctx, const struct setup_header *h,
                       uint64_t *gpa, uint64_t *end, GError **error)
{
    const BootFile *k = &ctx->source->kernel;
    uint64_t setup = (h->setup_sects ? h->setup_sects : 4) * 512ull + 512;
    uint64_t size = k->size > setup ? k->size - setup : 0;
    uint64_t room = MAX(h->version >= PROTOCOL_INIT_SIZE ? h->init_size : 0, size);

    if (h->version < MIN_PROTOCOL || !(h->loadflags & LOADED_HIGH))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "kernel: '%s' is older than Linux 2.6.20 (boot protocol %u.%02u)",
                    k->path, h->version >> 8, h->version & 0xff);
    if (!size || size < (uint64_t)h->syssize * 16)
        return fail(error, VM_ERROR_CORRUPT,
                    "kernel: '%s' is cut short: %" PRIu64 " of %" PRIu64
                    " bytes are there",
                    k->path, k->size, setup + (uint64_t)h->syssize * 16);
    *gpa = LAYOUT_HIGH_RAM;
    /* One that cannot move unpacks itself where it was linked. */
    *end = (h->relocatable_kernel ? *gpa : MAX(*gpa, h->pref_address)) + room;
    if (*end > ctx->low_ram_end)
        return fail(error, VM_ERROR_INVALID,
                    "kernel: '%s' needs %" PRIu64
                    " MiB to unpack itself; give the guest more "
                    "with --memory",
                    k->path, (*end + MIB - 1) / MIB);
    return boot_copy(ctx, *gpa, k->data + setup, size, "kernel", error);
}

static bool load(const BootContext *ctx, BootEntry *ret, GError **error)
{
    const BootFile *k = &ctx->source->kernel;
    struct boot_params bp = {0};
    struct setup_header *h = &bp.hdr;
    uint64_t kernel = 0, end = 0, initrd;
    bool long_mode;

    /* The header ends where its own jump instruction goes. */
    memcpy(h, k->data + HDR_AT, MIN(sizeof(*h), 0x202u + k->data[0x201] - HDR_AT));
    if (!put_kernel(ctx, h, &kernel, &end, error) ||
        !boot_put_cmdline(ctx, h->cmdline_size ? h->cmdline_size + 1ull : 256, error) ||
        !boot_put_initrd(ctx, end, (uint64_t)h->initrd_addr_max + 1, &initrd, error))
        return false;
    long_mode = h->version >= PROTOCOL_XLF && (h->xloadflags & XLF_KERNEL_64);
    h->type_of_loader = LOADER_UNDEFINED;
    h->cmd_line_ptr = LAYOUT_CMDLINE;
    h->ramdisk_image = (uint32_t)initrd;
    h->ramdisk_size = (uint32_t)ctx->source->initrd.size;
    h->code32_start = (uint32_t)kernel;
    bp.acpi_rsdp_addr = ctx->rsdp;
    put_memory_map(ctx, &bp);
    *ret = (BootEntry){
        .mode = long_mode ? BOOT_LONG_MODE : BOOT_PROTECTED,
        .ip = kernel + (long_mode ? ENTRY64 : 0),
        .si = LAYOUT_BOOT_PARAMS,
        .page_table = long_mode ? LAYOUT_PAGE_TABLES : 0,
        .gdt = LAYOUT_GDT,
    };
    return (!long_mode || put_page_tables(ctx, error)) &&
           boot_copy(ctx, LAYOUT_BOOT_PARAMS, &bp, sizeof(bp), "boot parameters", error);
}

const BootLoader boot_bzimage = {.name = "bzImage", .recognise = recognise, .load = load};
