/* Judges a disk that the payload guest `blk-verify` wrote to until it was killed: every
 * block that was flushed must hold what it held then, or what was written to it later,
 * and none may hold anything else.  guest-images/payload/verify.h is the agreement of the
 * two.
 *
 *     verify_disk prefill WORD... IMAGE STATE
 *         Writes generation VERIFY_PREFILLED into `part=` percent of a raw image's pages.
 *     verify_disk check WORD... IMAGE JOURNAL STATE
 *         Judges a raw image by the journal of one run, which began at generation base=,
 *         on a disk whose sectors held what STATE says.  Leaves in STATE what they hold.
 *
 * WORDs are those of the guest's command line.  backing=1: prefilled blocks lie below the
 * image, and come to light again when they are discarded.  Prints one line of figures and
 * ends with status 0, or says on standard error what is wrong with up to ten sectors and
 * ends with status 1; with 2, if it could not judge. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../guest-images/payload/verify.h"

enum {
    UNABLE = 2,
    MOST_COMPLAINTS = 10,
    PAGE_SECTORS = 8,
    RUN_MAX = 1 << 26, /* generations of one run */
};

static VerifyPlan plan = {
    .seed = 1, .n_sectors = 8192, .max = 512, .weights = {30, 50, 6, 7, 7}};
static uint32_t base = VERIFY_FIRST, part = 100, backing;

/* ---- words ------------------------------------------------------------------------- */

static uint64_t parse(const char *text)
{
    static const char suffixes[] = "kKmMgG";
    char *end;
    uint64_t value = strtoull(text, &end, 0);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;

    if (suffix)
        value <<= 10 * ((suffix - suffixes) / 2 + 1);
    else if (*end)
        errx(UNABLE, "'%s' is not a number", text);
    return value;
}

static void read_word(const char *word)
{
    static const struct {
        const char *name;
        uint32_t *value;
    } words[] = {
        {"sectors", &plan.n_sectors},
        {"chunk", &plan.chunk},
        {"max", &plan.max},
        {"read", &plan.weights[VERIFY_READ]},
        {"write", &plan.weights[VERIFY_WRITE]},
        {"flush", &plan.weights[VERIFY_FLUSH]},
        {"discard", &plan.weights[VERIFY_DISCARD]},
        {"zeroes", &plan.weights[VERIFY_ZEROES]},
        {"base", &base},
        {"part", &part},
        {"backing", &backing},
    };
    const char *value = strchr(word, '=') + 1;
    size_t len = (size_t)(value - word) - 1;

    if (!strncmp(word, "seed=", 5))
        plan.seed = parse(value);
    else if (!strncmp(word, "stride=", 7))
        plan.stride = parse(value);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strlen(words[i].name) == len && !strncmp(word, words[i].name, len))
            *words[i].value = (uint32_t)parse(value);
}

/* ---- files ------------------------------------------------------------------------- */

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0666);

    if (fd < 0)
        err(UNABLE, "%s", path);
    return fd;
}

static void *allocate(size_t size)
{
    void *p = aligned_alloc(4096, (size + 4095) / 4096 * 4096);

    if (!p)
        err(UNABLE, "memory");
    return memset(p, 0, size);
}

/* What is beyond the end of the file reads as zeroes. */
static void read_at(int fd, const char *path, void *buf, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pread(fd, buf, len, (off_t)offset);

        if (n < 0)
            err(UNABLE, "%s", path);
        if (n == 0) {
            memset(buf, 0, len);
            return;
        }
        buf = (char *)buf + n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
}

static void write_state(const char *path, const uint32_t *state)
{
    int fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
    size_t size = plan.n_sectors * sizeof(*state);

    if (write(fd, state, size) != (ssize_t)size || close(fd) < 0)
        err(UNABLE, "%s", path);
}

static uint32_t *read_state(const char *path)
{
    uint32_t *state = allocate(plan.n_sectors * sizeof(*state));
    int fd = open_file(path, O_RDONLY);
    struct stat st;

    if (fstat(fd, &st) < 0 || (size_t)st.st_size != plan.n_sectors * sizeof(*state))
        errx(UNABLE, "%s: it is of another working set", path);
    read_at(fd, path, state, (size_t)st.st_size, 0);
    close(fd);
    return state;
}

/* ---- prefill ----------------------------------------------------------------------- */

static int prefill(const char *image, const char *state_path)
{
    uint32_t *state = allocate(plan.n_sectors * sizeof(*state));
    int fd = open_file(image, O_WRONLY | O_CREAT);

    for (uint32_t at = 0; at < plan.n_sectors; at++) {
        uint64_t sector = verify_disk_sector(&plan, at), words[VERIFY_WORDS];

        state[at] = VERIFY_ZERO;
        if (verify_mix(plan.seed ^ at / PAGE_SECTORS) % 100 >= part)
            continue;
        state[at] = VERIFY_PREFILLED;
        verify_fill(words, plan.seed, sector, VERIFY_PREFILLED);
        if (pwrite(fd, words, sizeof(words), (off_t)(sector * VERIFY_SECTOR)) !=
            sizeof(words))
            err(UNABLE, "%s", image);
    }
    close(fd);
    write_state(state_path, state);
    return 0;
}

/* ---- what the journal says --------------------------------------------------------- */

typedef struct Sector {
    uint32_t last;     /* generation, in the journal, of its last change; 0: none */
    VerifyKind kind;   /* of that */
    bool may_be_zero;  /* by something later that is not in the journal */
    bool may_be_below; /* by a discard like that: what the backing file holds */
} Sector;

typedef struct Journal {
    uint32_t records, flushed;
    uint32_t latest;   /* no later generation can have been asked for */
    uint8_t *left_out; /* by generation - base */
} Journal;

static bool is_record(const VerifyRecord *r, uint32_t index)
{
    return r->magic == VERIFY_MAGIC && r->seed == plan.seed && r->base == base &&
           r->index == index && r->n <= VERIFY_RECORD_GENS && r->sum == verify_sum(r) &&
           r->issued >= base - 1 && r->issued - base + 1 < RUN_MAX - VERIFY_AHEAD;
}

static void note(Sector *sectors, Journal *j, uint32_t gen)
{
    uint32_t number = gen & ~VERIFY_LEFT_OUT;
    VerifyOp op;

    if (number < base || number > j->latest)
        errx(UNABLE, "the journal names generation %u, which was not yet", number);
    if (gen & VERIFY_LEFT_OUT) {
        j->left_out[number - base] = 1;
        return;
    }
    op = verify_op(&plan, gen);
    for (uint32_t i = 0; i < op.n; i++) {
        sectors[op.start + i].last = gen;
        sectors[op.start + i].kind = op.kind;
    }
    j->flushed++;
}

/* What was asked for and is not in the journal: done, or not. */
static void note_unsure(Sector *sectors, const Journal *j)
{
    for (uint32_t gen = base; gen <= j->latest; gen++) {
        VerifyOp op = verify_op(&plan, gen);

        if ((op.kind != VERIFY_DISCARD && op.kind != VERIFY_ZEROES) ||
            j->left_out[gen - base])
            continue;
        for (uint32_t i = 0; i < op.n; i++) {
            Sector *s = &sectors[op.start + i];

            if (s->last < gen) {
                s->may_be_zero = true;
                s->may_be_below |= op.kind == VERIFY_DISCARD;
            }
        }
    }
}

static Journal read_journal(const char *path, Sector *sectors)
{
    Journal j = {.latest = base, .left_out = calloc(RUN_MAX, 1)};
    VerifyRecord *r = allocate(sizeof(*r));
    int fd = open_file(path, O_RDONLY);

    if (!j.left_out)
        err(UNABLE, "memory");
    for (;; j.records++) {
        read_at(fd, path, r, sizeof(*r), (uint64_t)j.records * sizeof(*r));
        if (!is_record(r, j.records))
            break;
        j.latest = r->issued;
        for (uint32_t i = 0; i < r->n; i++)
            note(sectors, &j, r->gens[i]);
    }
    close(fd);
    free(r);
    j.latest += VERIFY_AHEAD;
    note_unsure(sectors, &j);
    return j;
}

/* ---- judgement --------------------------------------------------------------------- */

static bool is_below(uint32_t holds)
{
    return backing && holds == VERIFY_PREFILLED;
}

/* `before`: what it held when the run began. */
static bool may_hold(const Sector *s, uint32_t at, uint32_t before, uint32_t holds,
                     uint32_t latest)
{
    uint32_t oldest = s->last > base ? s->last : base;

    if (holds == VERIFY_GARBAGE)
        return false;
    if (holds == VERIFY_ZERO && s->may_be_zero)
        return true;
    if (is_below(holds) && s->may_be_below)
        return true;
    if (holds != VERIFY_ZERO && holds >= oldest && holds <= latest)
        return verify_writes(&plan, holds, at); /* a later one, or just that */
    if (!s->last)
        return holds == before;
    switch (s->kind) {
    case VERIFY_WRITE:
        return holds == s->last;
    case VERIFY_ZEROES:
        return holds == VERIFY_ZERO;
    case VERIFY_DISCARD: /* only a hint */
        return holds == VERIFY_ZERO || is_below(holds) || holds == before ||
               (holds >= base && holds < s->last && verify_writes(&plan, holds, at));
    case VERIFY_READ:
    case VERIFY_FLUSH:
        break;
    }
    return false;
}

static void complain(const Sector *s, uint32_t at, uint32_t before, uint32_t holds,
                     const uint64_t *w)
{
    static const char *const kinds[] = {"read", "write", "flush", "discard", "zeroes"};

    fprintf(stderr,
            "sector %" PRIu64 " (%u of the working set) holds %#x (%#" PRIx64 " %" PRIu64
            " %" PRIu64 " %#" PRIx64 ")",
            verify_disk_sector(&plan, at), at, holds, w[0], w[1], w[2], w[3]);
    if (s->last)
        fprintf(stderr, "; %s by generation %u was flushed\n", kinds[s->kind], s->last);
    else
        fprintf(stderr, "; it was not changed, and held %#x before\n", before);
}

static int check(const char *image, const char *journal, const char *state_path)
{
    Sector *sectors = allocate(plan.n_sectors * sizeof(*sectors));
    uint32_t *state = read_state(state_path), bad = 0, later = 0, sure = 0;
    Journal j = read_journal(journal, sectors);
    uint8_t *data = allocate((size_t)plan.chunk * VERIFY_SECTOR);
    int fd = open_file(image, O_RDONLY);

    for (uint32_t at = 0; at < plan.n_sectors; at++) {
        const uint64_t *w = (const uint64_t *)(void *)(data + (size_t)(at % plan.chunk) *
                                                                  VERIFY_SECTOR);
        uint64_t sector = verify_disk_sector(&plan, at);
        Sector *s = &sectors[at];

        if (at % plan.chunk == 0)
            read_at(fd, image, data, (size_t)plan.chunk * VERIFY_SECTOR,
                    sector * VERIFY_SECTOR);
        uint32_t holds = verify_read(w, plan.seed, sector);
        if (!may_hold(s, at, state[at], holds, j.latest) && bad++ < MOST_COMPLAINTS)
            complain(s, at, state[at], holds, w);
        if (holds != VERIFY_ZERO && holds >= base && holds != s->last)
            later++;
        if (s->last && !s->may_be_zero && s->kind != VERIFY_DISCARD)
            sure++;
        state[at] = holds;
    }
    close(fd);
    printf("records=%u flushed=%u sectors=%u sure=%u later=%u bad=%u next=%u\n",
           j.records, j.flushed, plan.n_sectors, sure, later, bad, j.latest + 1);
    if (bad)
        return 1;
    write_state(state_path, state);
    return 0;
}

int main(int argc, char **argv)
{
    int at = 2;

    for (; at < argc && strchr(argv[at], '='); at++)
        read_word(argv[at]);
    if (!plan.chunk)
        plan.chunk = plan.n_sectors;
    if (!plan.stride)
        plan.stride = plan.chunk;
    if (!plan.n_sectors || !plan.max)
        errx(UNABLE, "there is nothing to check");
    if (argc - at == 2 && !strcmp(argv[1], "prefill"))
        return prefill(argv[at], argv[at + 1]);
    if (argc - at == 3 && !strcmp(argv[1], "check"))
        return check(argv[at], argv[at + 1], argv[at + 2]);
    errx(UNABLE, "usage: verify_disk prefill WORD... IMAGE STATE\n"
                 "       verify_disk check WORD... IMAGE JOURNAL STATE");
}
