/* Private to qcow2_l2.c, qcow2_write.c, qcow2_zero.c and qcow2_compress.c: an L2 entry in
 * plain words, and claims, which keep two changes of one cluster apart. */
#pragma once

#include <pthread.h>

#include "qcow2_private.h"

/* ---- L2 entries: qcow2_l2.c ------------------------------------------------------- */

/* What an L2 entry says.  Masks have a bit for each subcluster; without extended L2
 * entries a cluster has one subcluster, so that most code need not know. */
typedef struct Qcow2Cluster {
    bool compressed; /* then the rest, but for packed and packed_len, is empty */
    bool placed;     /* has a cluster of the data file, at `host` */
    bool owned;      /* nobody else uses that cluster */
    uint64_t host;
    uint32_t data; /* subclusters whose bytes are there */
    uint32_t zero; /* subclusters that read as zeroes */
    uint64_t packed;
    uint32_t packed_len; /* whole sectors: the rest of the last may be another's */
} Qcow2Cluster;

Qcow2Entry qcow2_entry_make(const Qcow2 *s, const Qcow2Cluster *c);

/* Lock held; may sleep.  Reads and judges the entry of a cluster: EIO if it makes no
 * sense, and then the image is marked as corrupt.  e may be NULL. */
int qcow2_cluster_get(Qcow2 *s, uint64_t cluster, Qcow2Cluster *ret, Qcow2Entry *e);

static inline uint32_t qcow2_all_subclusters(const Qcow2 *s)
{
    return (uint32_t)(BIT64(s->subclusters) - 1);
}

/* The subclusters of the cluster at `cluster` that [from, to) touches. */
static inline uint32_t qcow2_subclusters(const Qcow2 *s, uint64_t cluster, uint64_t from,
                                         uint64_t to)
{
    uint64_t first = from > cluster ? (from - cluster) / s->subcluster_size : 0;
    uint64_t end = to - cluster < s->cluster_size
                       ? (to - cluster + s->subcluster_size - 1) / s->subcluster_size
                       : s->subclusters;

    return (uint32_t)((BIT64(end) - 1) & ~(BIT64(first) - 1));
}

/* Something shows through where this layer says nothing. */
static inline bool qcow2_has_backing(const Qcow2 *s)
{
    return s->backing || s->img->backing;
}

static inline bool qcow2_data_is_external(const Qcow2 *s)
{
    return s->data != s->file;
}

static inline bool qcow2_data_is_raw(const Qcow2 *s)
{
    return qcow2_data_is_external(s) && (s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA);
}

/* Where the disk ends, in whole clusters. */
static inline uint64_t qcow2_end(const Qcow2 *s)
{
    return align_up(image_size_now(s->img), s->cluster_size);
}

/* ---- claims: qcow2_write.c -------------------------------------------------------- */

/* Clusters [start, end) of the disk that a thread works on without holding `lock`; it
 * lives on that thread's stack.  Shared claims are for reading what may else be given
 * back meanwhile, and exclude only the others. */
typedef struct Qcow2Claim Qcow2Claim;
struct Qcow2Claim {
    uint64_t start, end;
    bool shared;
    Qcow2Claim *next;
};

/* Lock held, which waiting gives up meanwhile.  Nobody waits for a claim while he has
 * one, so that no circle can form. */
void qcow2_claim(Qcow2 *s, Qcow2Claim *c);
void qcow2_claim_end(Qcow2 *s, Qcow2Claim *c);

/* Lock held.  Waits until no claim is on the cluster. */
void qcow2_claim_wait(Qcow2 *s, uint64_t cluster);
/* Lock held.  Where the first claim at or after `from` begins, or `to`. */
uint64_t qcow2_unclaimed(const Qcow2 *s, uint64_t from, uint64_t to);

/* Lock held: sleeps until qcow2_wake(), which every end of a claim calls. */
void qcow2_sleep(Qcow2 *s);
void qcow2_wake(Qcow2 *s);

/* Lock held.  Buffers of the size that pieces need, to be used again; NULL: none is left,
 * and one got from aligned_alloc() may be put in. */
uint8_t *qcow2_buffer_take(Qcow2 *s);
void qcow2_buffer_put(Qcow2 *s, uint8_t *buf);

/* Writes zeroes, as bytes, where the disk does not read as zeroes anyway. */
int qcow2_write_zeroes(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap);

/* ---- pieces: qcow2_piece.c -------------------------------------------------------- */

typedef enum {
    QCOW2_PIECE_THERE, /* every byte has its place: nothing to link */
    QCOW2_PIECE_OWNED, /* has a place that only we use, but not all of it is in use yet */
    QCOW2_PIECE_NEW,   /* needs one */
} Qcow2PieceKind;

typedef struct Qcow2Piece {
    Qcow2Claim claim; /* its clusters */
    Qcow2PieceKind kind;
    uint64_t host;       /* of the first cluster */
    uint64_t start, end; /* of the disk: what is written */
    uint64_t from, to;   /* what has contents afterwards, [start, end) or more: the rest
                            is copied from what shows there now */
    bool reads_zero;     /* the place, as it is */
    bool blank;          /* nothing shows around [start, end) but zeroes */
    uint8_t *buffer;     /* for what is copied */
} Qcow2Piece;

/* Lock held.  Plans the first piece of [offset, offset + len), claims it and takes its
 * place; may wait for other claims first.  copy: it takes only what this layer does not
 * have, to be filled with what shows there; nothing of the kind is a piece that ends at
 * `offset`, which is not claimed. */
int qcow2_piece_plan(Qcow2 *s, uint64_t offset, uint64_t len, bool copy, Qcow2Piece *p);
/* Lock not held.  Writes the data, and what has to surround it. */
int qcow2_piece_write(Qcow2 *s, Qcow2Piece *p, const struct iovec *iov, unsigned n_iov,
                      uint64_t skip);
/* Lock held.  Links what was written, or undoes it if there was an error (also returned),
 * and ends the claim. */
int qcow2_piece_finish(Qcow2 *s, Qcow2Piece *p, int err);

/* Where a byte of the disk, within the piece, is in the data file. */
static inline uint64_t qcow2_piece_host(const Qcow2Piece *p, uint64_t offset)
{
    return p->host + (offset - p->claim.start);
}

/* Lock not held.  Whether the disk reads as zeroes at `offset`, for *ret_n bytes of at
 * most len. */
int qcow2_zeroes_at(Qcow2 *s, uint64_t offset, uint64_t len, bool *ret_zero,
                    uint64_t *ret_n);

/* ---- qcow2_zero.c ----------------------------------------------------------------- */

/* Marks what this layer does not have of [from, to), whole subclusters, as zeroes. */
int qcow2_zero_holes(Qcow2 *s, uint64_t from, uint64_t to);

/* ---- qcow2_compress.c ------------------------------------------------------------- */

typedef struct Qcow2Packing Qcow2Packing; /* unpacked clusters, and codecs */
Qcow2Packing *qcow2_packing_new(Qcow2 *s);
void qcow2_packing_free(Qcow2Packing *p); /* NULL is fine */
Qcow2Packing *qcow2_packing_of(const Qcow2 *s);

/* The caller has a claim on the clusters: reads within one cluster, c of a moment ago. */
int qcow2_unpack(Qcow2 *s, const Qcow2Cluster *c, uint64_t within,
                 const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len);
