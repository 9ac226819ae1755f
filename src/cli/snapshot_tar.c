/* Headers of tar; see snapshot_tar.h.  A sparse file is GNU's old format (type 'S'): up
 * to four runs in the header and 21 in each block after it, so that a file with holes
 * travels as what it holds. */
#include "src/cli/snapshot_tar.h"

#include <string.h>

#include "util/bits.h"

enum { RUNS_HERE = 4, RUNS_MORE = 21, MAX_SIZE_BITS = 56 };

typedef struct Run {
    char offset[12], len[12];
} Run;

typedef struct Header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[100], magic[8], user[32], group[32], major[8], minor[8];
    char atime[12], ctime[12], offset[12], longnames[4], unused;
    Run runs[RUNS_HERE];
    char extended, real_size[12], pad[17];
} Header;
_Static_assert(sizeof(Header) == TAR_BLOCK, "a header is a block");

typedef struct More {
    Run runs[RUNS_MORE];
    char extended, pad[7];
} More;
_Static_assert(sizeof(More) == TAR_BLOCK, "what continues it is one, too");

/* ---- numbers -------------------------------------------------------------------------
 */

/* Octal, or binary behind a byte 0x80 where that is too long. */
static void put_number(char *field, size_t len, uint64_t value)
{
    bool fits = value >> (3 * (len - 1)) == 0;

    memset(field, 0, len);
    for (size_t i = fits ? len - 1 : len; i-- > (fits ? 0 : 1);) {
        field[i] = fits ? (char)('0' + (value & 7)) : (char)(value & 0xff);
        value >>= fits ? 3 : 8;
    }
    if (!fits)
        *field = (char)0x80;
}

static bool get_number(const char *field, size_t len, uint64_t *ret)
{
    uint64_t value = 0;
    size_t i = 0;

    if ((unsigned char)*field == 0x80) {
        for (i = 1; i < len && value < BIT64(MAX_SIZE_BITS); i++)
            value = value << 8 | (unsigned char)field[i];
    } else {
        while (i < len && field[i] == ' ')
            i++;
        for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
            value = value << 3 | (uint64_t)(field[i] - '0');
        if (i < len && field[i] && field[i] != ' ')
            return false;
    }
    *ret = value;
    return value < BIT64(MAX_SIZE_BITS);
}

static unsigned sum_of(const Header *h)
{
    const unsigned char *bytes = (const unsigned char *)h;
    unsigned sum = 0;

    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= offsetof(Header, checksum) && i < offsetof(Header, type) ? ' '
                                                                             : bytes[i];
    return sum;
}

/* ---- writing -------------------------------------------------------------------------
 */

static bool fill_header(Header *h, const char *name, char type, uint64_t stored,
                        GError **error)
{
    memset(h, 0, sizeof(*h));
    if (strlen(name) > TAR_MAX_NAME)
        return fail(error, VM_ERROR_INVALID, "'%s' is too long a name for an archive",
                    name);
    memcpy(h->name, name, strlen(name));
    put_number(h->mode, sizeof(h->mode), 0600);
    put_number(h->uid, sizeof(h->uid), 0);
    put_number(h->gid, sizeof(h->gid), 0);
    put_number(h->size, sizeof(h->size), stored);
    put_number(h->mtime, sizeof(h->mtime), 0);
    memcpy(h->magic, "ustar  ", sizeof(h->magic)); /* GNU's */
    h->type = type;
    return true;
}

static bool put_header(PackOut *out, Header *h, GError **error)
{
    put_number(h->checksum, 7, sum_of(h));
    h->checksum[7] = ' ';
    return pack_write(out, h, sizeof(*h), error);
}

bool tar_begin(PackOut *out, const char *name, uint64_t size, GError **error)
{
    Header h;

    return fill_header(&h, name, '0', size, error) && put_header(out, &h, error);
}

/* The end of the file is a run of no bytes: readers make the file so long. */
static TarRun run_at(const TarRun *runs, unsigned n, uint64_t size, unsigned i)
{
    return i < n ? runs[i] : (TarRun){size, 0};
}

static unsigned put_runs(Run *to, unsigned room, const TarRun *runs, unsigned n,
                         uint64_t size, unsigned at)
{
    for (unsigned i = 0; i < room && at <= n; i++, at++) {
        TarRun run = run_at(runs, n, size, at);

        put_number(to[i].offset, sizeof(to[i].offset), run.offset);
        put_number(to[i].len, sizeof(to[i].len), run.len);
    }
    return at;
}

bool tar_begin_sparse(PackOut *out, const char *name, uint64_t size, const TarRun *runs,
                      unsigned n, GError **error)
{
    uint64_t stored = 0;
    unsigned at;
    Header h;

    for (unsigned i = 0; i < n; i++)
        stored += runs[i].len;
    if (!fill_header(&h, name, 'S', stored, error))
        return false;
    put_number(h.real_size, sizeof(h.real_size), size);
    at = put_runs(h.runs, RUNS_HERE, runs, n, size, 0);
    h.extended = at <= n;
    if (!put_header(out, &h, error))
        return false;
    while (at <= n) {
        More more = {0};

        at = put_runs(more.runs, RUNS_MORE, runs, n, size, at);
        more.extended = at <= n;
        if (!pack_write(out, &more, sizeof(more), error))
            return false;
    }
    return true;
}

static uint64_t pad_of(uint64_t size)
{
    return align_up(size, TAR_BLOCK) - size;
}

bool tar_pad(PackOut *out, uint64_t size, GError **error)
{
    static const char zero[TAR_BLOCK];

    return pack_write(out, zero, (size_t)pad_of(size), error);
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

static bool add_run(TarEntry *e, const Run *run, GError **error)
{
    const TarRun *last = e->runs->len ? &g_array_index(e->runs, TarRun, e->runs->len - 1)
                                      : NULL;
    TarRun r;

    if (!get_number(run->offset, sizeof(run->offset), &r.offset) ||
        !get_number(run->len, sizeof(run->len), &r.len) ||
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
static bool add_runs(TarEntry *e, const Run *runs, unsigned n, GError **error)
{
    for (unsigned i = 0; i < n && *runs[i].offset; i++)
        if (!add_run(e, &runs[i], error))
            return false;
    return true;
}

static bool read_sparse(PackIn *in, const Header *h, TarEntry *e, GError **error)
{
    bool more = h->extended;
    uint64_t stored = 0;

    e->sparse = true;
    e->runs = g_array_new(FALSE, FALSE, sizeof(TarRun));
    if (!get_number(h->real_size, sizeof(h->real_size), &e->size))
        return fail_format(error, "has a size that no file has");
    if (!add_runs(e, h->runs, RUNS_HERE, error))
        return false;
    for (unsigned blocks = 0; more; blocks++) {
        More next;

        if (blocks > TAR_MAX_RUNS / RUNS_MORE)
            return fail_format(error, "has a sparse file with too many parts");
        if (!pack_read(in, &next, sizeof(next), error) ||
            !add_runs(e, next.runs, RUNS_MORE, error))
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
    static const Header zero;
    uint64_t sum;
    Header h;

    tar_entry_clear(e);
    *ret_end = false;
    if (!pack_read(in, &h, sizeof(h), error))
        return false;
    if (!memcmp(&h, &zero, sizeof(h))) {
        *ret_end = true;
        return true;
    }
    if (!get_number(h.checksum, sizeof(h.checksum), &sum) || sum != sum_of(&h))
        return fail_format(error, "is not a tar archive");
    if (!get_number(h.size, sizeof(h.size), &e->stored))
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

    return pack_read(in, pad, (size_t)pad_of(e->stored), error);
}
