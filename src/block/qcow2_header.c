/* The qcow2 header and its extensions: read and written; judged in qcow2_header_check.c.
 * Clauses of QEMU's docs/interop/qcow2: "Header", "Additional fields", "Header
 * extensions".
 *
 * Every field comes from a file that anybody may have made.  What is copied into a
 * Qcow2Header here has been judged: tables are of bounded size, lie on cluster boundaries
 * within the file, and sums of their offsets and sizes do not overflow. */
#include <errno.h>
#include <string.h>

#include "qcow2_header_private.h"
#include "util/log.h"

enum { /* offsets of fields */
       AT_REFTABLE = 48,
       AT_INCOMPATIBLE = 72,
       MAX_BACKING_NAME = 1023,
       MAX_EXTENSIONS = 256,
};

bool qcow2_bad_header(const Qcow2 *s, GError **error, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return fail(error, VM_ERROR_CORRUPT, "'%s': qcow2 header: %s", s->file->path, text);
}

/* ---- the fixed part ------------------------------------------------------------ */

static void load_header(Qcow2Header *h, const uint8_t *p)
{
    h->version = load_be32(p + 4);
    h->backing_offset = load_be64(p + 8);
    h->backing_len = load_be32(p + 16);
    h->cluster_bits = load_be32(p + 20);
    h->size = load_be64(p + 24);
    h->crypt_method = load_be32(p + 32);
    h->l1_entries = load_be32(p + 36);
    h->l1_offset = load_be64(p + 40);
    h->reftable_offset = load_be64(p + AT_REFTABLE);
    h->reftable_clusters = load_be32(p + 56);
    h->n_snapshots = load_be32(p + 60);
    h->snapshots_offset = load_be64(p + 64);
    h->incompatible = h->compatible = h->autoclear = 0;
    h->refcount_order = 4;
    h->header_len = QCOW2_V2_LEN;
    h->compression = 0;
    if (h->version == 2)
        return;
    h->incompatible = load_be64(p + AT_INCOMPATIBLE);
    h->compatible = load_be64(p + 80);
    h->autoclear = load_be64(p + 88);
    h->refcount_order = load_be32(p + 96);
    h->header_len = load_be32(p + 100);
    if (h->header_len > QCOW2_AT_COMPRESSION)
        h->compression = p[QCOW2_AT_COMPRESSION];
}

static void store_header(const Qcow2Header *h, uint8_t *p)
{
    store_be32(p, QCOW2_MAGIC);
    store_be32(p + 4, h->version);
    store_be64(p + 8, h->backing_offset);
    store_be32(p + 16, h->backing_len);
    store_be32(p + 20, h->cluster_bits);
    store_be64(p + 24, h->size);
    store_be32(p + 32, h->crypt_method);
    store_be32(p + 36, h->l1_entries);
    store_be64(p + 40, h->l1_offset);
    store_be64(p + AT_REFTABLE, h->reftable_offset);
    store_be32(p + 56, h->reftable_clusters);
    store_be32(p + 60, h->n_snapshots);
    store_be64(p + 64, h->snapshots_offset);
    if (h->version == 2)
        return;
    store_be64(p + AT_INCOMPATIBLE, h->incompatible);
    store_be64(p + 80, h->compatible);
    store_be64(p + 88, h->autoclear);
    store_be32(p + 96, h->refcount_order);
    store_be32(p + 100, h->header_len);
    if (h->header_len > QCOW2_AT_COMPRESSION)
        p[QCOW2_AT_COMPRESSION] = h->compression;
}

static bool check_magic(const Qcow2 *s, const uint8_t *p, size_t len, GError **error)
{
    if (len < QCOW2_V2_LEN || load_be32(p) != QCOW2_MAGIC)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is not a qcow2 image: it does not begin like one; use "
                    "format=raw if its bytes are those of the disk",
                    s->file->path);
    if (load_be32(p + 4) != 2 && load_be32(p + 4) != 3)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s': qcow2 header: version is %u, and only 2 and 3 are known; "
                    "convert it with qemu-img",
                    s->file->path, load_be32(p + 4));
    if (load_be32(p + 4) == 3 && len < QCOW2_V3_LEN)
        return qcow2_bad_header(s, error, "the file ends within it, after %zu bytes",
                                len);
    return true;
}

/* What the rest of the judgement, and reading on, depends upon. */
static bool check_geometry(const Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->h;

    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
        return qcow2_bad_header(
            s, error, "cluster_bits is %u, and must be within %d and %d", h->cluster_bits,
            QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
    if (h->version >= 3 && (h->header_len < QCOW2_V3_LEN || h->header_len % 8 ||
                            h->header_len > BIT(h->cluster_bits)))
        return qcow2_bad_header(
            s, error,
            "header_length is %u, and must be a multiple of 8 from %d up to the "
            "cluster size",
            h->header_len, QCOW2_V3_LEN);
    if (h->refcount_order > 6)
        return qcow2_bad_header(s, error, "refcount_order is %u, and must be 6 at most",
                                h->refcount_order);
    return true;
}

/* ---- names and extensions ------------------------------------------------------ */

static void clear_extension(void *opaque)
{
    Qcow2Extension *e = opaque;

    g_free(e->data);
}

const Qcow2Extension *qcow2_extension(const Qcow2 *s, uint32_t type)
{
    for (unsigned i = 0; s->extensions && i < s->extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(s->extensions, Qcow2Extension, i);

        if (e->type == type)
            return e;
    }
    return NULL;
}

static void set_string(char **to, const uint8_t *p, size_t len)
{
    g_free(*to);
    *to = g_strndup((const char *)p, len);
}

static uint8_t *copy_of(const void *data, size_t len)
{
    return memcpy(g_malloc(len + 1), data, len);
}

void qcow2_add_extension(Qcow2 *s, uint32_t type, const void *data, uint32_t len)
{
    Qcow2Extension e = {type, len, copy_of(data, len)};

    if (!s->extensions) {
        s->extensions = g_array_new(false, false, sizeof(Qcow2Extension));
        g_array_set_clear_func(s->extensions, clear_extension);
    }
    g_array_append_val(s->extensions, e);
}

static bool load_extensions(Qcow2 *s, const uint8_t *p, uint64_t end, GError **error)
{
    uint64_t at = s->h.header_len;

    while (at + 8 <= end) {
        uint32_t type = load_be32(p + at), len = load_be32(p + at + 4);

        at += 8;
        if (type == QCOW2_EXT_END)
            return true;
        if (len > end - at)
            return qcow2_bad_header(
                s, error,
                "extension 0x%08x is %u bytes long, more than there is room for", type,
                len);
        if (type == QCOW2_EXT_BACKING_FORMAT) {
            set_string(&s->backing_format, p + at, len);
        } else if (type == QCOW2_EXT_DATA_FILE) {
            set_string(&s->data_path, p + at, len);
        } else {
            if (s->extensions && s->extensions->len >= MAX_EXTENSIONS)
                return qcow2_bad_header(s, error, "it has more than %d extensions",
                                        MAX_EXTENSIONS);
            qcow2_add_extension(s, type, p + at, len);
        }
        at += align_up(len, 8);
    }
    return true;
}

static bool load_backing_name(Qcow2 *s, const uint8_t *p, GError **error)
{
    const Qcow2Header *h = &s->h;

    if (!h->backing_offset)
        return true;
    if (h->backing_offset < h->header_len || h->backing_offset > s->cluster_size)
        return qcow2_bad_header(s, error,
                                "backing_file_offset is 0x%" PRIx64
                                ", outside of the first cluster",
                                h->backing_offset);
    if (!h->backing_len || h->backing_len > MAX_BACKING_NAME ||
        h->backing_len > s->cluster_size - h->backing_offset)
        return qcow2_bad_header(
            s, error,
            "backing_file_size is %u, and must be from 1 to %d within the first "
            "cluster",
            h->backing_len, MAX_BACKING_NAME);
    set_string(&s->backing, p + h->backing_offset, h->backing_len);
    return *s->backing || qcow2_bad_header(s, error, "the backing file name is empty");
}

static void set_geometry(Qcow2 *s)
{
    bool extended = s->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2;

    s->cluster_size = BIT(s->h.cluster_bits);
    s->l2_entry_size = extended ? 16 : 8;
    s->l2_bits = s->h.cluster_bits - (extended ? 4 : 3);
    s->subclusters = extended ? 32 : 1;
    s->subcluster_size = s->cluster_size / s->subclusters;
    s->page_size = MIN(s->cluster_size, QCOW2_PAGE_SIZE);
}

bool qcow2_header_read(Qcow2 *s, const BlockOptions *options, unsigned flags,
                       GError **error)
{
    g_autofree uint8_t *cluster = NULL;
    uint8_t head[QCOW2_KNOWN_LEN] = {0};
    size_t len = sizeof(head);

    if (!block_read_head(s->file, head, &len, error) || !check_magic(s, head, len, error))
        return false;
    load_header(&s->h, head);
    if (!check_geometry(s, error))
        return false;
    set_geometry(s);
    cluster = g_malloc0(s->cluster_size);
    len = s->cluster_size;
    if (!block_read_head(s->file, cluster, &len, error) ||
        !load_backing_name(s, cluster, error) ||
        !load_extensions(s, cluster,
                         s->h.backing_offset ? s->h.backing_offset : s->cluster_size,
                         error))
        return false;
    if (s->h.header_len > QCOW2_KNOWN_LEN)
        s->header_extra = copy_of(cluster + QCOW2_KNOWN_LEN,
                                  s->h.header_len - QCOW2_KNOWN_LEN);
    return qcow2_check_features(s, error) && qcow2_check_tables(s, flags, error);
}

/* ---- writing ------------------------------------------------------------------- */

static void append(GByteArray *to, const void *data, size_t len)
{
    g_byte_array_append(to, data, (unsigned)len);
}

static void append_extension(GByteArray *to, uint32_t type, const void *data,
                             uint32_t len)
{
    static const uint8_t padding[8];
    uint8_t head[8];

    store_be32(head, type);
    store_be32(head + 4, len);
    append(to, head, sizeof(head));
    append(to, data, len);
    append(to, padding, align_up(len, 8) - len);
}

static void append_string(GByteArray *to, uint32_t type, const char *text)
{
    if (text)
        append_extension(to, type, text, (uint32_t)strlen(text));
}

/* Header, extensions, the backing file's name; sets what the header says of the name. */
static GByteArray *pack(Qcow2 *s)
{
    GByteArray *to = g_byte_array_new();

    g_byte_array_set_size(to, MIN(s->h.header_len, QCOW2_KNOWN_LEN));
    memset(to->data, 0, to->len);
    if (s->header_extra)
        append(to, s->header_extra, s->h.header_len - QCOW2_KNOWN_LEN);
    append_string(to, QCOW2_EXT_BACKING_FORMAT, s->backing ? s->backing_format : NULL);
    append_string(to, QCOW2_EXT_DATA_FILE, s->data_path);
    for (unsigned i = 0; s->extensions && i < s->extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(s->extensions, Qcow2Extension, i);

        append_extension(to, e->type, e->data, e->len);
    }
    append_extension(to, QCOW2_EXT_END, NULL, 0);
    s->h.backing_offset = s->backing ? to->len : 0;
    s->h.backing_len = s->backing ? (uint32_t)strlen(s->backing) : 0;
    append(to, s->backing, s->h.backing_len);
    store_header(&s->h, to->data);
    return to;
}

bool qcow2_header_write(Qcow2 *s, GError **error)
{
    Qcow2Header before = s->h;
    g_autoptr(GByteArray) bytes = pack(s);
    unsigned len = bytes->len;

    if (s->h.backing_len > MAX_BACKING_NAME || len > s->cluster_size) {
        s->h = before;
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the backing file's name and the other names in the header do "
                    "not fit its %u bytes (nor a name more than %d); use shorter ones",
                    s->file->path, s->cluster_size, MAX_BACKING_NAME);
    }
    /* What an older, longer one left behind goes as well. */
    g_byte_array_set_size(bytes,
                          (unsigned)MIN(align_up(len, QCOW2_PAGE_SIZE), s->cluster_size));
    memset(bytes->data + len, 0, bytes->len - len);
    errno = block_file_write(s->file, 0, bytes->data, bytes->len);
    if (!errno)
        return true;
    s->h = before;
    return fail_errno(error, "'%s': write the qcow2 header", s->file->path);
}

int qcow2_header_move_reftable(Qcow2 *s, uint64_t offset, uint32_t clusters)
{
    uint8_t field[12];
    int err;

    store_be64(field, offset);
    store_be32(field + 8, clusters);
    err = block_file_write(s->file, AT_REFTABLE, field, sizeof(field));
    if (!err) {
        lock_acquire(&s->page_lock); /* a look-up asks what is metadata */
        s->h.reftable_offset = offset;
        s->h.reftable_clusters = clusters;
        lock_release(&s->page_lock);
    }
    return err;
}

int qcow2_set_incompatible(Qcow2 *s, uint64_t bits, bool on)
{
    uint64_t features = on ? s->h.incompatible | bits : s->h.incompatible & ~bits;
    uint8_t field[8];
    int err;

    if (features == s->h.incompatible)
        return 0;
    if (s->h.version < 3)
        return ENOTSUP;
    store_be64(field, features);
    err = block_file_write(s->file, AT_INCOMPATIBLE, field, sizeof(field));
    if (!err)
        err = block_file_flush(s->file);
    if (!err)
        s->h.incompatible = features;
    return err;
}

int qcow2_corrupt(Qcow2 *s, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    if (__atomic_exchange_n(&s->broken, true, __ATOMIC_RELAXED))
        return EIO; /* said already */
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_error("'%s': the image is damaged: %s; it is not written any more, see 'hutch "
              "image check'",
              s->file->path, text);
    if (!s->file->readonly)
        qcow2_set_incompatible(s, QCOW2_INCOMPAT_CORRUPT, true);
    return EIO;
}
