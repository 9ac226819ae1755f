/* Whether an image is one that we can work on, by what its header says: its features, and
 * where its tables are.  Clauses of QEMU's docs/interop/qcow2: "Header", "Additional
 * fields", "Feature name table". */
#include "qcow2_header_private.h"

enum { FEATURE_NAME = 46 }; /* bytes, of an entry in the table */

#define KNOWN_INCOMPATIBLE                                                               \
    (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DATA_FILE |          \
     QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_EXTENDED_L2)

/* ---- features ------------------------------------------------------------------ */

/* Feature name table: the names are the file's, and shown as far as they are letters. */
static char *feature_name(const Qcow2 *s, unsigned bit)
{
    const Qcow2Extension *e = qcow2_extension(s, QCOW2_EXT_FEATURE_NAMES);

    for (uint32_t at = 0; e && at + QCOW2_FEATURE_ENTRY <= e->len;
         at += QCOW2_FEATURE_ENTRY) {
        const uint8_t *entry = e->data + at;
        char *name;

        if (entry[0] != 0 || entry[1] != bit)
            continue;
        name = g_strndup((const char *)entry + 2, FEATURE_NAME);
        for (char *c = name; *c; c++)
            if (!g_ascii_isprint(*c))
                *c = '?';
        return name;
    }
    return g_strdup_printf("bit %u", bit);
}

bool qcow2_check_features(const Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->h;
    uint64_t unknown = h->incompatible & ~KNOWN_INCOMPATIBLE;
    g_autoptr(GString) names = g_string_new(NULL);
    bool has_type = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    for (unsigned bit = 0; bit < 64; bit++) {
        g_autofree char *name = unknown & BIT64(bit) ? feature_name(s, bit) : NULL;

        if (name)
            g_string_append_printf(names, "%s'%s'", names->len ? ", " : "", name);
    }
    if (unknown)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s': qcow2 header: incompatible_features has %s, which hutch does "
                    "not know; convert the image with the program that made it",
                    s->file->path, names->str);
    if (h->crypt_method)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s': qcow2 header: crypt_method is %u (%s), and encrypted images "
                    "are not supported; convert it with qemu-img",
                    s->file->path, h->crypt_method,
                    h->crypt_method == 1   ? "AES"
                    : h->crypt_method == 2 ? "LUKS"
                                           : "unknown");
    if (has_type &&
        (h->compression == IMAGE_ZLIB || h->header_len <= QCOW2_AT_COMPRESSION))
        return qcow2_bad_header(
            s, error,
            "compression_type is missing, though a feature bit says it "
            "is there");
    if (!has_type && h->compression != IMAGE_ZLIB)
        return qcow2_bad_header(s, error,
                                "compression_type is %u, though no feature bit says so",
                                h->compression);
    if (h->compression > IMAGE_ZSTD)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s': qcow2 header: compression_type is %u, and only 0 (zlib) and 1 "
                    "(zstd) are known",
                    s->file->path, h->compression);
    if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) && h->cluster_bits < 14)
        return qcow2_bad_header(
            s, error, "cluster_bits is %u, and extended L2 entries need at least 14",
            h->cluster_bits);
    if ((h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA) &&
        !(h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
        return qcow2_bad_header(
            s, error,
            "autoclear_features says that the external data file is raw, "
            "but there is none");
    if ((h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA) && h->backing_offset)
        return qcow2_bad_header(
            s, error,
            "backing_file_offset is set, and a raw external data file "
            "excludes a backing file");
    return true;
}

/* ---- tables -------------------------------------------------------------------- */

typedef struct Table {
    const char *name;
    uint64_t offset, len;
} Table;

static bool check_table(const Qcow2 *s, const Table *t, GError **error)
{
    uint64_t size = align_up(block_file_size(s->file), s->cluster_size);

    if (!t->len)
        return true;
    if (!is_aligned(t->offset, s->cluster_size) || t->offset < s->cluster_size ||
        t->offset >= QCOW2_MAX_OFFSET)
        return qcow2_bad_header(
            s, error, "%s_offset is 0x%" PRIx64 ", which is not where a table can be",
            t->name, t->offset);
    if (!range_within(t->offset, t->len, size))
        return qcow2_bad_header(s, error,
                                "%s_offset is 0x%" PRIx64 ", from where its %" PRIu64
                                " bytes reach beyond the end of the file",
                                t->name, t->offset, t->len);
    return true;
}

static bool overlap(const Table *a, const Table *b)
{
    return a->offset < b->offset + b->len && b->offset < a->offset + a->len;
}

uint64_t qcow2_l1_entries(const Qcow2 *s, uint64_t size)
{
    unsigned bits = s->h.cluster_bits + s->l2_bits;

    return (size >> bits) + !is_aligned(size, BIT64(bits));
}

bool qcow2_check_tables(const Qcow2 *s, unsigned flags, GError **error)
{
    const Qcow2Header *h = &s->h;
    const Table t[] = {
        {"l1_table", h->l1_offset, (uint64_t)h->l1_entries * 8},
        {"refcount_table", h->reftable_offset,
         (uint64_t)h->reftable_clusters << h->cluster_bits},
        /* An entry has 40 bytes and more. */
        {"snapshots", h->snapshots_offset, (uint64_t)h->n_snapshots * 40},
    };
    bool check = flags & IMAGE_FOR_CHECK;

    if (t[0].len > QCOW2_MAX_L1_BYTES)
        return qcow2_bad_header(s, error, "l1_size is %u entries, and may be %d at most",
                                h->l1_entries, QCOW2_MAX_L1_BYTES / 8);
    if (h->l1_entries < qcow2_l1_entries(s, h->size))
        return qcow2_bad_header(
            s, error, "l1_size is %u entries, too few for a disk of %" PRIu64 " bytes",
            h->l1_entries, h->size);
    if (t[1].len > QCOW2_MAX_REFTABLE_BYTES || (!t[1].len && !check))
        return qcow2_bad_header(
            s, error, "refcount_table_clusters is %u, and must be from 1 to %u clusters",
            h->reftable_clusters, QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits);
    if (h->n_snapshots > QCOW2_MAX_SNAPSHOTS)
        return qcow2_bad_header(s, error, "nb_snapshots is %u, and may be %d at most",
                                h->n_snapshots, QCOW2_MAX_SNAPSHOTS);
    if (h->n_snapshots && (h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
        return qcow2_bad_header(s, error,
                                "nb_snapshots is %u, and an external data file excludes "
                                "snapshots",
                                h->n_snapshots);
    for (unsigned i = 0; i < G_N_ELEMENTS(t); i++) {
        if (check && i == 1)
            continue; /* it can be made anew */
        if (!check_table(s, &t[i], error))
            return false;
        for (unsigned j = 0; j < i && !check; j++)
            if (overlap(&t[i], &t[j]))
                return qcow2_bad_header(s, error,
                                        "%s_offset and %s_offset: the tables overlap",
                                        t[j].name, t[i].name);
    }
    return true;
}
