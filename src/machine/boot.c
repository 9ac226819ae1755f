/* What all boot loaders share; contract in machine/boot.h. */
#include "machine/boot.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "machine/layout.h"
#include "util/fd.h"

/* In order: an ELF file may carry several invitations, and PVH is the richest. */
static const BootLoader *const loaders[] = {&boot_pvh, &boot_multiboot, &boot_bzimage};

static bool map_file(BootFile *f, const char *what, const char *path, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    void *data;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "%s: open '%s'", what, path);
    if (!S_ISREG(st.st_mode))
        return fail(error, VM_ERROR_INVALID, "%s: '%s' is not a file", what, path);
    if (!st.st_size)
        return fail(error, VM_ERROR_CORRUPT, "%s: '%s' is empty", what, path);
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return fail_errno(error, "%s: map '%s'", what, path);
    *f = (BootFile){g_strdup(path), data, (uint64_t)st.st_size, fd_steal(&fd)};
    return true;
}

/* What was cut off a mapped file is a bus error, not a failure: a kernel that is built
 * anew under a VM that reboots must not end hutch like that. */
static bool is_unchanged(const BootFile *f, const char *what, GError **error)
{
    struct stat st;

    return !f->data || (fstat(f->fd, &st) == 0 && (uint64_t)st.st_size == f->size) ||
           fail(error, VM_ERROR_CORRUPT,
                "%s: '%s' was written anew while the VM ran, and a reboot cannot load "
                "it: start a new VM",
                what, f->path);
}

static void unmap_file(BootFile *f)
{
    if (f->data) {
        munmap((void *)(uintptr_t)f->data, f->size);
        fd_close(&f->fd);
    }
    g_free(f->path);
    *f = (BootFile){0};
}

bool boot_open(BootSource *s, const char *kernel, const char *initrd, const char *cmdline,
               GError **error)
{
    *s = (BootSource){.cmdline = g_strdup(cmdline ? cmdline : "")};
    if (!map_file(&s->kernel, "kernel", kernel, error) ||
        (initrd && !map_file(&s->initrd, "initrd", initrd, error)))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(loaders); i++) {
        if (loaders[i]->recognise(&s->kernel)) {
            s->loader = loaders[i];
            return true;
        }
    }
    return fail(
        error, VM_ERROR_INVALID,
        "kernel: '%s' is no kernel that hutch can boot (a Linux bzImage, an ELF file "
        "with a PVH note, or a multiboot kernel)",
        kernel);
}

void boot_close(BootSource *s)
{
    unmap_file(&s->kernel);
    unmap_file(&s->initrd);
    g_clear_pointer(&s->cmdline, g_free);
}

/* Null, unused, code, data, TSS: the selectors that every protocol here agrees on. */
static bool put_gdt(const BootContext *ctx, BootMode mode, GError **error)
{
    const uint64_t gdt[] = {
        0,
        0,
        mode == BOOT_LONG_MODE ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
        0x00cf93000000ffff,
        0x00008b0000000067,
    };

    return boot_copy(ctx, LAYOUT_GDT, gdt, sizeof(gdt), "segment descriptors", error);
}

bool boot_load(const BootContext *ctx, BootEntry *ret, GError **error)
{
    BootEntry entry = {0};

    if (!is_unchanged(&ctx->source->kernel, "kernel", error) ||
        !is_unchanged(&ctx->source->initrd, "initrd", error) ||
        !ctx->source->loader->load(ctx, &entry, error) ||
        !put_gdt(ctx, entry.mode, error))
        return false;
    *ret = entry;
    return true;
}

/* ---- for the loaders ----------------------------------------------------------- */

static void *room_for(const BootContext *ctx, uint64_t gpa, uint64_t size,
                      const char *what, GError **error)
{
    void *host = gm_at(ctx->gm, gpa, size);

    if (!host)
        fail(error, VM_ERROR_INVALID,
             "%s: %" PRIu64 " bytes at 0x%" PRIx64
             " do not fit into the guest's memory; give it more with --memory",
             what, size, gpa);
    return host;
}

bool boot_copy(const BootContext *ctx, uint64_t gpa, const void *data, uint64_t size,
               const char *what, GError **error)
{
    void *host = room_for(ctx, gpa, size, what, error);

    if (host && size)
        memcpy(host, data, size);
    return host != NULL;
}

bool boot_clear(const BootContext *ctx, uint64_t gpa, uint64_t size, const char *what,
                GError **error)
{
    void *host = size ? room_for(ctx, gpa, size, what, error) : NULL;

    if (host)
        memset(host, 0, size);
    return host || !size;
}

bool boot_put_cmdline(const BootContext *ctx, uint64_t max, GError **error)
{
    uint64_t size = strlen(ctx->source->cmdline) + 1;

    max = MIN(max, LAYOUT_CMDLINE_MAX);
    if (size > max)
        return fail(error, VM_ERROR_INVALID,
                    "cmdline: %" PRIu64 " characters, this kernel takes %" PRIu64,
                    size - 1, max - 1);
    return boot_copy(ctx, LAYOUT_CMDLINE, ctx->source->cmdline, size, "cmdline", error);
}

bool boot_put_initrd(const BootContext *ctx, uint64_t floor, uint64_t limit,
                     uint64_t *ret_gpa, GError **error)
{
    const BootFile *f = &ctx->source->initrd;
    uint64_t gpa;

    *ret_gpa = 0;
    if (!f->data)
        return true;
    limit = align_down(MIN(limit, ctx->low_ram_end), GM_PAGE_SIZE);
    if (f->size > limit || align_down(limit - f->size, GM_PAGE_SIZE) < floor)
        return fail(error, VM_ERROR_INVALID,
                    "initrd: '%s' (%" PRIu64
                    " MiB) does not fit into the guest's memory beside "
                    "the kernel; give it more with --memory",
                    f->path, (f->size + MIB - 1) / MIB);
    gpa = align_down(limit - f->size, GM_PAGE_SIZE);
    if (!boot_copy(ctx, gpa, f->data, f->size, "initrd", error))
        return false;
    *ret_gpa = gpa;
    return true;
}
