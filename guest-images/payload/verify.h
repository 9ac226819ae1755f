/* What the guest that writes (verify.c) and the program that checks (tests/guest/
 * verify_disk.c) have agreed upon, so that neither has to tell the other much.
 *
 * A run is a sequence of requests numbered by generations.  What a generation does, to
 * which sectors, follows from its number and the plan; so does every byte it writes.  The
 * guest's journal therefore is nothing but the generations that were flushed, and the
 * contents of a sector tell whether they are whole, are that sector's, and how old.
 *
 * The working set is cut into chunks that lie `stride` apart on the disk.  No two
 * requests in flight touch the same sector: what a generation would do to a sector that
 * is busy is left out altogether. */
#ifndef PAYLOAD_VERIFY_H
#define PAYLOAD_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#define VERIFY_SECTOR 512
#define VERIFY_WORDS  (VERIFY_SECTOR / 8)

typedef struct VerifyPlan {
    uint64_t seed;
    uint32_t n_sectors, chunk; /* of the working set; of a chunk */
    uint64_t stride;           /* in sectors */
    uint32_t max;              /* sectors of one request */
    uint32_t weights[5];       /* by VerifyKind */
} VerifyPlan;

typedef enum {
    VERIFY_READ,
    VERIFY_WRITE,
    VERIFY_FLUSH,
    VERIFY_DISCARD,
    VERIFY_ZEROES
} VerifyKind;

typedef struct VerifyOp {
    VerifyKind kind;
    uint32_t start, n; /* sectors of the working set */
    bool unmap;        /* ZEROES may make a hole */
} VerifyOp;

/* What a sector holds, or has to: a generation that wrote it, or one of these. */
#define VERIFY_ZERO      0x80000000u
#define VERIFY_ANY       0xc0000000u /* after a discard: zeroes, or what was there once */
#define VERIFY_GARBAGE   0xffffffffu
#define VERIFY_PREFILLED 1u /* the generation of images made by the host */
#define VERIFY_FIRST     16u

/* No request is made of a generation later than that which the last answered record of
 * the journal calls `issued` (the first of the run, before), by more than this. */
#define VERIFY_AHEAD 128u

/* One page each, one after the other; written when all of its generations were flushed. A
 * generation that was left out is told of, too, with this bit: it changed nothing. */
#define VERIFY_LEFT_OUT    0x80000000u
#define VERIFY_RECORD_GENS 1014
typedef struct VerifyRecord {
    uint64_t seed;
    uint32_t base, index; /* the run's first generation; the record's number */
    uint32_t issued, n;
    uint64_t sum;
    uint64_t magic;
    uint32_t gens[VERIFY_RECORD_GENS]; /* in the order in which they were answered */
} VerifyRecord;
_Static_assert(sizeof(VerifyRecord) == 4096, "a page");

#define VERIFY_MAGIC 0x7665726966696572ull

static inline uint64_t verify_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline uint64_t verify_disk_sector(const VerifyPlan *p, uint32_t at)
{
    return at / p->chunk * p->stride + at % p->chunk;
}

static inline uint32_t verify_log2(uint32_t n)
{
    return 31u - (uint32_t)__builtin_clz(n);
}

static inline VerifyKind verify_kind(const VerifyPlan *p, uint64_t random)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < 5; i++)
        sum += p->weights[i];
    uint32_t pick = (uint32_t)(random % sum);
    unsigned kind = 0;
    for (; pick >= p->weights[kind]; kind++)
        pick -= p->weights[kind];
    return (VerifyKind)kind;
}

/* Sizes are spread evenly over the powers of two; two of three requests are aligned as
 * file systems align them; one of four goes to a sixteenth of the working set. */
static inline VerifyOp verify_op(const VerifyPlan *p, uint32_t gen)
{
    uint64_t a = verify_mix(p->seed + gen * 0x9e3779b97f4a7c15ull), b = verify_mix(a);
    VerifyOp op = {.kind = verify_kind(p, a), .unmap = b & 1};

    if (op.kind == VERIFY_FLUSH)
        return op;
    uint32_t exponent = (uint32_t)(b >> 8 & 0xff) % (verify_log2(p->max) + 1);
    op.n = 1u << exponent;
    if (b & 2 && op.n < p->max)
        op.n += (uint32_t)(b >> 16 & 0xffff) % op.n;
    if (op.n > p->max)
        op.n = p->max;
    if (op.kind == VERIFY_DISCARD || op.kind == VERIFY_ZEROES)
        op.n <<= b >> 2 & 1;
    uint32_t among = b >> 4 & 3 ? p->n_sectors : (p->n_sectors + 15) / 16;
    op.start = (uint32_t)((b >> 32) % among);
    if ((b >> 40) % 3)
        op.start &= ~((1u << exponent) - 1);
    uint32_t room = p->chunk - op.start % p->chunk;
    if (room > p->n_sectors - op.start)
        room = p->n_sectors - op.start;
    if (op.n > room)
        op.n = room;
    return op;
}

static inline bool verify_writes(const VerifyPlan *p, uint32_t gen, uint32_t at)
{
    if (gen == VERIFY_PREFILLED)
        return true;
    if (gen < VERIFY_FIRST || gen >= VERIFY_ZERO)
        return false;
    VerifyOp op = verify_op(p, gen);
    return op.kind == VERIFY_WRITE && at >= op.start && at - op.start < op.n;
}

/* Four words that people can read, and what follows from them. */
static inline void verify_fill(uint64_t *w, uint64_t seed, uint64_t sector, uint32_t gen)
{
    uint64_t x = verify_mix(seed ^ sector * 0x9e3779b97f4a7c15ull ^ (uint64_t)gen << 40);

    w[0] = VERIFY_MAGIC;
    w[1] = sector;
    w[2] = gen;
    w[3] = seed;
    for (unsigned i = 4; i < VERIFY_WORDS; i++) {
        x += 0x9e3779b97f4a7c15ull;
        w[i] = (x ^ x >> 29) * 0xd6e8feb86659fd93ull;
    }
}

/* The generation that wrote the sector, VERIFY_ZERO, or VERIFY_GARBAGE. */
static inline uint32_t verify_read(const uint64_t *w, uint64_t seed, uint64_t sector)
{
    uint64_t expected[VERIFY_WORDS], difference = 0;

    if (w[0] == 0) {
        for (unsigned i = 1; i < VERIFY_WORDS; i++)
            difference |= w[i];
        return difference ? VERIFY_GARBAGE : VERIFY_ZERO;
    }
    if (w[2] >= VERIFY_ZERO)
        return VERIFY_GARBAGE;
    verify_fill(expected, seed, sector, (uint32_t)w[2]);
    for (unsigned i = 0; i < VERIFY_WORDS; i++)
        difference |= w[i] ^ expected[i];
    return difference ? VERIFY_GARBAGE : (uint32_t)w[2];
}

static inline uint64_t verify_sum(const VerifyRecord *r)
{
    uint64_t sum = verify_mix(r->seed ^ r->base ^ (uint64_t)r->index << 32);

    sum = verify_mix(sum + r->issued + ((uint64_t)r->n << 32));
    for (uint32_t i = 0; i < r->n && i < VERIFY_RECORD_GENS; i++)
        sum = verify_mix(sum + r->gens[i]);
    return sum;
}

#endif
