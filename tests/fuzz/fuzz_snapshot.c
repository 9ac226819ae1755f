/* What strangers may give as a snapshot: a manifest, or an archive of one.  Checked is
 * that what comes through keeps its promises, and that a refusal is one printable line.
 *
 * Input: one byte that chooses, then the manifest's text, or the tar before compression.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

#include "snapshot/manifest.h"
#include "src/cli/snapshot_tar.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

static void check_refusal(const GError *error)
{
    check(error && g_utf8_validate(error->message, -1, NULL));
    check(!strpbrk(error->message, "\n\r\033\177"));
}

/* A name that can be put behind a folder's. */
static void check_inside(const char *name)
{
    check(*name && *name != '/' && *name != '.' && !strstr(name, ".."));
}

static void try_manifest(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Manifest) m = manifest_parse((const char *)data, size, "it", &error);
    json_t *json;

    if (!m) {
        check_refusal(error);
        return;
    }
    check(m->ram_size && m->ram_size <= MANIFEST_MAX_RAM && m->ram_size % 4096 == 0);
    check(m->memory_pages <= m->ram_size / 4096 && manifest_n_chunks(m) <= 1 << 22);
    check(m->files->len <= MANIFEST_MAX_FILES && m->disks->len <= MANIFEST_MAX_DISKS);
    for (unsigned i = 0; i < m->files->len; i++) {
        const char *name = ((ManifestFile *)g_ptr_array_index(m->files, i))->name;

        check(*name && *name != '/' && *name != '.' && !strstr(name, "/."));
    }
    json = manifest_to_json(m);
    check(json_object_size(json) >= 8);
    json_decref(json);
}

static void check_entry(const TarEntry *e)
{
    uint64_t end = 0, stored = 0;

    check_inside(e->name);
    for (unsigned i = 0; e->sparse && i < e->runs->len; i++) {
        const TarRun *r = &g_array_index(e->runs, TarRun, i);

        check(r->len && r->offset >= end && r->len <= e->size - r->offset);
        end = r->offset + r->len;
        stored += r->len;
    }
    check(e->sparse ? stored == e->stored : e->size == e->stored);
}

/* As import does it. */
static bool skip(PackIn *in, const TarEntry *e, GError **error)
{
    char buf[4096];

    for (uint64_t left = e->stored; left; left -= MIN(left, sizeof(buf)))
        if (!pack_read(in, buf, (size_t)MIN(left, sizeof(buf)), error))
            return false;
    return tar_skip_pad(in, e, error);
}

static void try_archive(const uint8_t *data, size_t size)
{
    size_t bound = ZSTD_compressBound(size);
    g_autofree char *packed = g_malloc(bound);
    size_t n = ZSTD_compress(packed, bound, data, size, 1);
    autofd fd = memfd_create("archive", MFD_CLOEXEC);
    g_autoptr(PackIn) in = NULL;
    g_autoptr(GError) error = NULL;
    TarEntry e = {0};
    bool end = false, ok;

    check(fd >= 0 && write(fd, packed, n) == (ssize_t)n && lseek(fd, 0, SEEK_SET) == 0);
    in = pack_in_new(fd, &error);
    do {
        ok = tar_next(in, &e, &end, &error);
        if (ok && !end) {
            check_entry(&e);
            ok = skip(in, &e, &error);
        }
    } while (ok && !end);
    if (!ok)
        check_refusal(error);
    tar_entry_clear(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1 && *data % 2)
        try_manifest(data + 1, size - 1);
    else if (size > 1)
        try_archive(data + 1, size - 1);
    return 0;
}
