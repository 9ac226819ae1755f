/* See snapshot_tar.h.  A sparse file is GNU's old format: up to four runs in the header
 * and 21 in each block after it, so that a file with holes travels as what it holds. */
#include "src/cli/snapshot_tar.h"

#include <string.h>

#include "src/cli/tar.h"
#include "util/bits.h"

/* ---- writing -------------------------------------------------------------------------
 */

static bool fill_header(TarHeader *h, const char *name, char type, uint64_t stored,
                        GError **error)
{
    memset(h, 0, sizeof(*h));
    if (strlen(name) > TAR_MAX_NAME)
        return fail(error, VM_ERROR_INVALID, "'%s' is too long a name for an archive",
                    name);
    memcpy(h->name, name, strlen(name));
    tar_put_number(h->mode, sizeof(h->mode), 0600);
    tar_put_number(h->uid, sizeof(h->uid), 0);
    tar_put_number(h->gid, sizeof(h->gid), 0);
    tar_put_number(h->size, sizeof(h->size), stored);
    tar_put_number(h->mtime, sizeof(h->mtime), 0);
    memcpy(h->magic, "ustar  ", sizeof(h->magic)); /* GNU's */
    h->type = type;
    return true;
}

static bool put_header(PackOut *out, TarHeader *h, GError **error)
{
    tar_put_sum(h);
    return pack_write(out, h, sizeof(*h), error);
}

bool tar_begin(PackOut *out, const char *name, uint64_t size, GError **error)
{
    TarHeader h;

    return fill_header(&h, name, '0', size, error) && put_header(out, &h, error);
}

/* The end of the file is a run of no bytes: readers make the file so long. */
static TarRun run_at(const TarRun *runs, unsigned n, uint64_t size, unsigned i)
{
    return i < n ? runs[i] : (TarRun){size, 0};
}

static unsigned put_runs(TarRunField *to, unsigned room, const TarRun *runs, unsigned n,
                         uint64_t size, unsigned at)
{
    for (unsigned i = 0; i < room && at <= n; i++, at++) {
        TarRun run = run_at(runs, n, size, at);

        tar_put_number(to[i].offset, sizeof(to[i].offset), run.offset);
        tar_put_number(to[i].len, sizeof(to[i].len), run.len);
    }
    return at;
}

bool tar_begin_sparse(PackOut *out, const char *name, uint64_t size, const TarRun *runs,
                      unsigned n, GError **error)
{
    uint64_t stored = 0;
    unsigned at;
    TarHeader h;

    for (unsigned i = 0; i < n; i++)
        stored += runs[i].len;
    if (!fill_header(&h, name, 'S', stored, error))
        return false;
    tar_put_number(h.gnu.real_size, sizeof(h.gnu.real_size), size);
    at = put_runs(h.gnu.runs, TAR_RUNS_HERE, runs, n, size, 0);
    h.gnu.extended = at <= n;
    if (!put_header(out, &h, error))
        return false;
    while (at <= n) {
        TarMoreRuns more = {0};

        at = put_runs(more.runs, TAR_RUNS_MORE, runs, n, size, at);
        more.extended = at <= n;
        if (!pack_write(out, &more, sizeof(more), error))
            return false;
    }
    return true;
}

bool tar_pad(PackOut *out, uint64_t size, GError **error)
{
    static const char zero[TAR_BLOCK];

    return pack_write(out, zero, tar_padding(size), error);
}

bool tar_end(PackOut *out, GError **error)
{
    static const char zero[2 * TAR_BLOCK];

    return pack_write(out, zero, sizeof(zero), error) && pack_end(out, error);
}

/* ---- reading -------------------------------------------------------------------------
 */

static bool fail_format(GError **error, const char *what)
{
    return fail(error, VM_ERROR_CORRUPT, "the archive %s", what);
}

static bool add_run(TarEntry *e, const TarRunField *run, GError **error)
{
    const TarRun *last = e->runs->len ? &g_array_index(e->runs, TarRun, e->runs->len - 1)
                                      : NULL;
    TarRun r;

    if (!tar_get_number(run->offset, sizeof(run->offset), &r.offset) ||
        !tar_get_number(run->len, sizeof(run->len), &r.len) ||
        !range_within(r.offset, r.len, e->size) ||
        (last && r.offset < last->offset + last->len))
        return fail_format(error, "has a sparse file whose parts are out of order, or "
                                  "beyond its end");
    if (!r.len)
        return true;
    if (e->runs->len == TAR_MAX_RUNS)
        return fail_format(error, "has a sparse file with too many parts");
    g_array_append_val(e->runs, r);
    return true;
}

/* Ends with the first that is not used. */
static bool add_runs(TarEntry *e, const TarRunField *runs, unsigned n, GError **error)
{
    for (unsigned i = 0; i < n && *runs[i].offset; i++)
        if (!add_run(e, &runs[i], error))
            return false;
    return true;
}

static bool read_sparse(PackIn *in, const TarHeader *h, TarEntry *e, GError **error)
{
    bool more = h->gnu.extended;
    uint64_t stored = 0;

    e->sparse = true;
    e->runs = g_array_new(FALSE, FALSE, sizeof(TarRun));
    if (!tar_get_number(h->gnu.real_size, sizeof(h->gnu.real_size), &e->size))
        return fail_format(error, "has a size that no file has");
    if (!add_runs(e, h->gnu.runs, TAR_RUNS_HERE, error))
        return false;
    for (unsigned blocks = 0; more; blocks++) {
        TarMoreRuns next;

        if (blocks > TAR_MAX_RUNS / TAR_RUNS_MORE)
            return fail_format(error, "has a sparse file with too many parts");
        if (!pack_read(in, &next, sizeof(next), error) ||
            !add_runs(e, next.runs, TAR_RUNS_MORE, error))
            return false;
        more = next.extended;
    }
    for (unsigned i = 0; i < e->runs->len; i++)
        stored += g_array_index(e->runs, TarRun, i).len;
    return stored == e->stored ||
           fail_format(error, "has a sparse file whose parts are not its data");
}

/* Letters, digits and what hutch's own names have besides; one folder at most. */
static bool is_plain(const char *name)
{
    unsigned slashes = 0;

    if (!g_ascii_isalnum(*name))
        return false;
    for (const char *p = name; *p; p++) {
        slashes += *p == '/';
        if (!g_ascii_isalnum(*p) && !strchr("._-/", *p))
            return false;
        if (*p == '/' && !g_ascii_isalnum(p[1]))
            return false;
    }
    return slashes <= 1;
}

void tar_entry_clear(TarEntry *e)
{
    g_clear_pointer(&e->runs, g_array_unref);
    *e = (TarEntry){0};
}

bool tar_next(PackIn *in, TarEntry *e, bool *ret_end, GError **error)
{
    static const TarHeader zero;
    TarHeader h;

    tar_entry_clear(e);
    *ret_end = false;
    if (!pack_read(in, &h, sizeof(h), error))
        return false;
    if (!memcmp(&h, &zero, sizeof(h))) {
        *ret_end = true;
        return true;
    }
    if (!tar_check_sum(&h))
        return fail_format(error, "is not a tar archive");
    if (!tar_get_number(h.size, sizeof(h.size), &e->stored))
        return fail_format(error, "has a size that no file has");
    memcpy(e->name, h.name, TAR_MAX_NAME);
    if (h.name[TAR_MAX_NAME] || !is_plain(e->name))
        return fail_format(error, "has a name that no snapshot has");
    e->size = e->stored;
    if (h.type == 'S')
        return read_sparse(in, &h, e, error);
    return h.type == '0' || !h.type ||
           fail_format(error, "has something else than files in it");
}

bool tar_skip_pad(PackIn *in, const TarEntry *e, GError **error)
{
    char pad[TAR_BLOCK];

    return pack_read(in, pad, tar_padding(e->stored), error);
}
