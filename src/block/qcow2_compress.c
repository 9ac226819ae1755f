/* Compressed clusters: zlib (a raw deflate stream with a window of 4 KiB) or zstd, as the
 * header says for the whole image.  (qcow2: "Compressed Clusters Descriptor",
 * "Additional fields".)
 *
 * Guests read them in pieces, so that the last few that were unpacked are kept.  The
 * packed bytes are hostile: output is bounded by the cluster, what one codec allocates by
 * WINDOW_LOG, and what makes no sense is EIO. */
#define ZLIB_CONST
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "qcow2_io_private.h"
#include "util/iov.h"
#include "util/log.h"

enum {
    SLOTS = 16,
    SLOTS_MIN = 4,
    SLOT_BYTES = 1 << 20, /* of unpacked clusters, if SLOTS_MIN fit */
    ALIGN = 4096,
    ZLIB_WINDOW = 12,
    ZLIB_MEMORY = 9,
    WINDOW_LOG = 23, /* of zstd: no cluster needs more than 21 */
};

typedef enum { SLOT_EMPTY, SLOT_LOADING, SLOT_READY } SlotState;

/* An unpacked cluster. */
typedef struct Slot {
    SlotState state;
    uint64_t packed; /* where its packed bytes are, and how many */
    uint32_t packed_len;
    unsigned users;
    uint64_t used; /* when, by the counter */
    uint8_t *data; /* allocated once */
} Slot;

/* What packing or unpacking one cluster takes; used by one thread at a time. */
typedef struct Codec Codec;
struct Codec {
    Codec *next;
    uint8_t *packed, *plain; /* of packed_bytes(), and of a cluster */
    bool can_inflate, can_deflate;
    z_stream inflate, deflate;
    ZSTD_DCtx *unzstd;
    ZSTD_CCtx *zstd;
};

struct Qcow2Packing {
    /* All under the image's lock, but for what a slot in use holds. */
    Slot slots[SLOTS];
    unsigned n_slots;
    uint64_t counter;
    Codec *codecs; /* not in use */
    bool said;     /* that a cluster cannot be unpacked */
};

Qcow2Packing *qcow2_packing_new(Qcow2 *s)
{
    Qcow2Packing *p = g_new0(Qcow2Packing, 1);

    p->n_slots = CLAMP(SLOT_BYTES / s->cluster_size, SLOTS_MIN, SLOTS);
    return p;
}

static void codec_free(Codec *c)
{
    if (c->can_inflate)
        inflateEnd(&c->inflate);
    if (c->can_deflate)
        deflateEnd(&c->deflate);
    ZSTD_freeDCtx(c->unzstd);
    ZSTD_freeCCtx(c->zstd);
    free(c->packed);
    free(c->plain);
    free(c);
}

void qcow2_packing_free(Qcow2Packing *p)
{
    if (!p)
        return;
    for (Codec *c = p->codecs, *next; c; c = next) {
        next = c->next;
        codec_free(c);
    }
    for (unsigned i = 0; i < p->n_slots; i++)
        free(p->slots[i].data);
    g_free(p);
}

/* ---- codecs -------------------------------------------------------------------- */

/* The most that an entry can claim, and what reading it by whole blocks adds. */
static size_t packed_bytes(const Qcow2 *s)
{
    return 2 * (size_t)MAX(s->cluster_size, ALIGN) + 2 * ALIGN;
}

/* Lock not held.  NULL: no memory. */
static Codec *codec_take(Qcow2 *s)
{
    Qcow2Packing *p = qcow2_packing_of(s);
    Codec *c;

    lock_acquire(&s->lock);
    c = p->codecs;
    if (c)
        p->codecs = c->next;
    lock_release(&s->lock);
    if (c || !(c = calloc(1, sizeof(*c))))
        return c;
    c->packed = aligned_alloc(ALIGN, packed_bytes(s));
    c->plain = malloc(s->cluster_size);
    if (c->packed && c->plain)
        return c;
    codec_free(c);
    return NULL;
}

static void codec_put(Qcow2 *s, Codec *c)
{
    Qcow2Packing *p = qcow2_packing_of(s);
    LOCK_GUARD(&s->lock);

    c->next = p->codecs;
    p->codecs = c;
}

static bool unpack_zlib(Codec *c, const uint8_t *in, size_t in_len, uint8_t *out,
                        size_t len)
{
    z_stream *z = &c->inflate;
    int r;

    if (!c->can_inflate)
        c->can_inflate = inflateInit2(z, -ZLIB_WINDOW) == Z_OK;
    if (!c->can_inflate || inflateReset(z) != Z_OK)
        return false;
    z->next_in = in;
    z->avail_in = (uInt)in_len;
    z->next_out = out;
    z->avail_out = (uInt)len;
    r = inflate(z, Z_FINISH);
    /* Some writers do not end the stream: a cluster of data is all that is wanted. */
    return z->avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK);
}

static bool unpack_zstd(Codec *c, const uint8_t *in, size_t in_len, uint8_t *out,
                        size_t len)
{
    ZSTD_inBuffer src = {in, in_len, 0};
    ZSTD_outBuffer dst = {out, len, 0};

    if (!c->unzstd) {
        c->unzstd = ZSTD_createDCtx();
        if (c->unzstd)
            ZSTD_DCtx_setParameter(c->unzstd, ZSTD_d_windowLogMax, WINDOW_LOG);
    }
    if (!c->unzstd)
        return false;
    ZSTD_DCtx_reset(c->unzstd, ZSTD_reset_session_only);
    while (dst.pos < len) {
        size_t was_in = src.pos, was_out = dst.pos;
        size_t r = ZSTD_decompressStream(c->unzstd, &dst, &src);

        if (ZSTD_isError(r) || (src.pos == was_in && dst.pos == was_out))
            return false;
    }
    return true;
}

/* Returns the packed length; 0 if it does not fit. */
static size_t pack_zlib(Codec *c, const void *in, size_t in_len, uint8_t *out, size_t len)
{
    z_stream *z = &c->deflate;

    if (!c->can_deflate)
        c->can_deflate = deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -ZLIB_WINDOW,
                                      ZLIB_MEMORY, Z_DEFAULT_STRATEGY) == Z_OK;
    if (!c->can_deflate || deflateReset(z) != Z_OK)
        return 0;
    z->next_in = in;
    z->avail_in = (uInt)in_len;
    z->next_out = out;
    z->avail_out = (uInt)len;
    return deflate(z, Z_FINISH) == Z_STREAM_END ? len - z->avail_out : 0;
}

static size_t pack_zstd(Codec *c, const void *in, size_t in_len, uint8_t *out, size_t len)
{
    size_t n;

    if (!c->zstd)
        c->zstd = ZSTD_createCCtx();
    if (!c->zstd)
        return 0;
    n = ZSTD_compress2(c->zstd, out, len, in, in_len);
    return ZSTD_isError(n) ? 0 : n;
}

/* ---- unpacked clusters --------------------------------------------------------- */

static bool slot_holds(const Slot *slot, const Qcow2Cluster *c)
{
    return slot->state != SLOT_EMPTY && slot->packed == c->packed &&
           slot->packed_len == c->packed_len;
}

/* The one with the cluster, else the one that was not used for longest; NULL: all are in
 * use. */
static Slot *choose_slot(Qcow2Packing *p, const Qcow2Cluster *c)
{
    Slot *oldest = NULL;

    for (unsigned i = 0; i < p->n_slots; i++) {
        Slot *slot = &p->slots[i];

        if (slot_holds(slot, c))
            return slot;
        if (!slot->users && (!oldest || slot->used < oldest->used))
            oldest = slot;
    }
    return oldest;
}

/* Lock held; waits for one, but for nothing that waits for claims.  LOADING: the caller
 * has to fill it. */
static Slot *slot_take(Qcow2 *s, const Qcow2Cluster *c)
{
    Qcow2Packing *p = qcow2_packing_of(s);
    Slot *slot;

    while (!(slot = choose_slot(p, c)) ||
           (slot_holds(slot, c) && slot->state == SLOT_LOADING))
        qcow2_sleep(s);
    if (!slot->data && !(slot->data = malloc(s->cluster_size)))
        return NULL;
    if (!slot_holds(slot, c)) {
        slot->state = SLOT_LOADING;
        slot->packed = c->packed;
        slot->packed_len = c->packed_len;
    }
    slot->users++;
    slot->used = ++p->counter;
    return slot;
}

static void slot_put(Qcow2 *s, Slot *slot)
{
    if (--slot->users == 0)
        qcow2_wake(s);
}

/* Lock held.  Other bytes are at [offset, offset + len) of the file now. */
static void forget_slots(Qcow2 *s, uint64_t offset, uint64_t len)
{
    Qcow2Packing *p = qcow2_packing_of(s);

    for (unsigned i = 0; i < p->n_slots; i++) {
        Slot *slot = &p->slots[i];

        /* One that is loading is of a cluster still linked, and cannot be meant. */
        if (slot->state == SLOT_READY && slot->packed < offset + len &&
            offset < slot->packed + slot->packed_len)
            slot->packed_len = 0; /* nobody finds it; who uses it goes on */
    }
}

static int load_slot(Qcow2 *s, Slot *slot)
{
    uint64_t from = align_down(slot->packed, ALIGN);
    uint64_t to = align_up(slot->packed + slot->packed_len, ALIGN);
    Codec *c = codec_take(s);
    const uint8_t *in;
    bool ok;
    int err;

    if (!c)
        return ENOMEM;
    err = block_file_read(s->file, from, c->packed, to - from);
    if (!err) {
        in = c->packed + (slot->packed - from);
        ok = s->h.compression == IMAGE_ZSTD
                 ? unpack_zstd(c, in, slot->packed_len, slot->data, s->cluster_size)
                 : unpack_zlib(c, in, slot->packed_len, slot->data, s->cluster_size);
        if (!ok)
            err = EIO;
        if (!ok &&
            !__atomic_exchange_n(&qcow2_packing_of(s)->said, true, __ATOMIC_RELAXED))
            log_error("'%s': the compressed cluster at offset %#llx cannot be unpacked; "
                      "the image is damaged there, try 'hutch image check'",
                      s->img->path, (unsigned long long)slot->packed);
    }
    codec_put(s, c);
    return err;
}

int qcow2_unpack(Qcow2 *s, const Qcow2Cluster *c, uint64_t within,
                 const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len)
{
    bool fill;
    Slot *slot;
    int err = 0;

    lock_acquire(&s->lock);
    slot = slot_take(s, c);
    fill = slot && slot->state == SLOT_LOADING;
    lock_release(&s->lock);
    if (!slot)
        return ENOMEM;
    if (fill)
        err = load_slot(s, slot);
    if (fill) {
        lock_acquire(&s->lock);
        slot->state = err ? SLOT_EMPTY : SLOT_READY;
        qcow2_wake(s);
        lock_release(&s->lock);
    }
    if (!err)
        iov_from_buf(iov, n_iov, skip, slot->data + within, len);
    lock_acquire(&s->lock);
    slot_put(s, slot);
    lock_release(&s->lock);
    return err;
}

/* ---- FormatOps ----------------------------------------------------------------- */

int qcow2_read_compressed(BlockImage *img, uint64_t offset, const struct iovec *iov,
                          unsigned n_iov, uint64_t skip, uint64_t len)
{
    Qcow2 *s = qcow2_of(img);
    uint64_t cluster = align_down(offset, s->cluster_size);
    Qcow2Claim claim = {
        .start = cluster, .end = cluster + s->cluster_size, .shared = true};
    Qcow2Cluster c;
    int err;

    /* A write elsewhere in the cluster gives back the packed bytes: not while they are
     * being read. */
    lock_acquire(&s->lock);
    qcow2_claim(s, &claim);
    err = qcow2_cluster_get(s, cluster, &c, NULL);
    lock_release(&s->lock);
    if (!err && c.compressed)
        err = qcow2_unpack(s, &c, offset - cluster, iov, n_iov, skip, len);
    lock_acquire(&s->lock);
    qcow2_claim_end(s, &claim);
    lock_release(&s->lock);
    if (err || c.compressed)
        return err;
    return image_readv(img, offset, iov, n_iov, skip, len); /* it was written since */
}

static int link_packed(Qcow2 *s, uint64_t cluster, uint64_t packed, size_t len)
{
    unsigned x = 62 - (s->h.cluster_bits - 8);
    uint64_t sectors = (packed + len - 1) / BLOCK_SECTOR - packed / BLOCK_SECTOR;
    Qcow2Entry new_ = {.entry = QCOW2_COMPRESSED | sectors << x | packed}, old;
    Qcow2Cluster c;
    int err = qcow2_cluster_get(s, cluster, &c, &old);

    if (!err)
        err = qcow2_entry_set(s, cluster, &new_);
    if (!err) {
        forget_slots(s, packed, len);
        qcow2_entry_free(s,
                         &old); /* which failed leaks it, and no more: this is linked */
    }
    return err;
}

static void give_back(Qcow2 *s, uint64_t packed, size_t len)
{
    uint64_t first = align_down(packed, s->cluster_size);
    uint64_t last = align_down(packed + len - 1, s->cluster_size);

    if (!qcow2_broken(s))
        qcow2_ref_add(s, first, (last - first) / s->cluster_size + 1, -1);
}

/* EFBIG: the entry cannot refer so far into the file. */
static int write_packed(Qcow2 *s, uint64_t cluster, const uint8_t *data, size_t len)
{
    Qcow2Claim claim = {.start = cluster, .end = cluster + s->cluster_size};
    uint64_t packed = 0;
    int err;

    lock_acquire(&s->lock);
    qcow2_claim(s, &claim);
    err = qcow2_broken(s) ? EIO : qcow2_alloc_bytes(s, len, &packed);
    lock_release(&s->lock);
    if (!err) {
        bool far = packed + len > BIT64(62 - (s->h.cluster_bits - 8));

        err = far ? EFBIG : block_file_write(s->file, packed, data, len);
        lock_acquire(&s->lock);
        if (!err)
            err = link_packed(s, cluster, packed, len);
        if (err)
            give_back(s, packed, len);
        lock_release(&s->lock);
    }
    lock_acquire(&s->lock);
    qcow2_claim_end(s, &claim);
    lock_release(&s->lock);
    return err;
}

int qcow2_write_compressed(BlockImage *img, uint64_t offset, const void *buf, size_t len)
{
    Qcow2 *s = qcow2_of(img);
    const struct iovec iov = {(void *)buf, len};
    const void *in = buf;
    size_t n, most = s->cluster_size - 1;
    int err = EFBIG;
    Codec *c;

    if (qcow2_data_is_external(s))
        return ENOTSUP;
    if (!is_aligned(offset, s->cluster_size) || len > s->cluster_size)
        return EINVAL;
    c = codec_take(s);
    if (!c)
        return ENOMEM;
    if (len < s->cluster_size) { /* the last cluster of the disk */
        memcpy(c->plain, buf, len);
        memset(c->plain + len, 0, s->cluster_size - len);
        in = c->plain;
    }
    n = s->h.compression == IMAGE_ZSTD
            ? pack_zstd(c, in, s->cluster_size, c->packed, most)
            : pack_zlib(c, in, s->cluster_size, c->packed, most);
    if (n)
        err = write_packed(s, offset, c->packed, n);
    codec_put(s, c);
    return err == EFBIG ? qcow2_write(img, offset, &iov, 1, 0, len) : err;
}
