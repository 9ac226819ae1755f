/* blk-verify: writes what can be checked later, checks what it reads, and keeps a journal
 * of what was flushed on a second disk.  verify.h says how; the host may kill the monitor
 * at any moment, and tests/guest/verify_disk.c then judges the disk.
 *
 * The journal is a lower bound: a generation is in it only when a flush that began after
 * the write was answered has been answered itself.
 *
 * Words: the plan's (seed= sectors= chunk= stride= max= read= write= flush= discard=
 * zeroes=), base=N (the first generation), ops=N (ends after so many, else never), qd=
 * and queues=, burst=N rest=TICKS (flushes and rests after every N), volatile=0
 * (negotiates no flushes: what is answered is durable), errors=1 (goes on when a request
 * fails), scan=0 (does not read everything first), dev= and journal= (the disks; 0 and
 * 1).  A boot module says what each sector holds, as a uint32_t of verify.h; without one,
 * all may hold anything. */
#include "verify.h"
#include "blk.h"

enum {
    SLOTS_MAX = 128,
    LOG_SIZE = 1 << 14, /* generations answered but not yet in the journal */
    SLACK = 4096,       /* for data that is not aligned */
    PIECES_MAX = 3,
};

typedef struct Slot {
    Request request; /* first: virtq_pop() returns it */
    Segment segment;
    VerifyOp op;
    uint32_t gen;      /* 0: the guest's own, as of a scan */
    uint32_t log_mark; /* of a flush: what it covers */
    uint8_t *memory;
    uint64_t *data;
    bool busy;
} Slot;

static Disk disk, journal;
static VerifyPlan plan;
static Slot slots[SLOTS_MAX];
static unsigned n_slots, in_flight;
static bool tolerant, is_volatile;
static uint64_t failures, answered[5];

static uint32_t *model; /* what each sector must hold, when it is not busy */
static uint8_t *busy;

static uint32_t next_gen, base;
static uint32_t log_ring[LOG_SIZE];
static uint32_t log_end, log_flushed, log_written; /* counts since the start */

static Request journal_request;
static VerifyRecord record;
static bool journal_busy, journal_full;
static uint32_t issued; /* of the last record that was answered */

/* ---- the journal ---- */

static void log_add(uint32_t gen)
{
    log_ring[log_end++ % LOG_SIZE] = gen;
    if (!is_volatile)
        log_flushed = log_end;
}

static void journal_start(void)
{
    disk_start(&journal, virtio_find(VIRTIO_BLK, (unsigned)arg_number("journal", 1)),
               best_ring_mode(disk.dev), F_FLUSH, 1);
    journal_full = journal.sectors == 0;
    issued = base;
}

static void journal_submit(void)
{
    record.magic = VERIFY_MAGIC;
    record.seed = plan.seed;
    record.base = base;
    record.issued = next_gen - 1;
    for (record.n = 0; log_written != log_flushed && record.n < VERIFY_RECORD_GENS;)
        record.gens[record.n++] = log_ring[log_written++ % LOG_SIZE];
    record.sum = verify_sum(&record);
    CHECK(disk_submit(&journal.queues[0], &journal_request, REQ_OUT, record.index * 8ull,
                      &record, sizeof(record)),
          "the journal's ring is full");
    virtq_kick(&journal.queues[0]);
    journal_busy = true;
}

/* One record at a time, so that they come to the disk in order. */
static void journal_turn(void)
{
    uint32_t used;

    if (journal_busy && virtq_pop(&journal.queues[0], &used)) {
        CHECK(journal_request.status == STATUS_OK, "the journal: status %u",
              journal_request.status);
        journal_busy = false;
        issued = record.issued;
        journal_full = ++record.index >= journal.sectors / 8;
    }
    if (!journal_busy && !journal_full &&
        (log_written != log_flushed || next_gen - issued > VERIFY_AHEAD / 2))
        journal_submit();
}

/* ---- contents ---- */

static void expect_sector(const Slot *s, uint32_t i)
{
    uint32_t at = s->op.start + i, want = model[at];
    uint64_t sector = verify_disk_sector(&plan, at);
    const uint64_t *w = s->data + (size_t)i * VERIFY_WORDS;
    uint32_t got = verify_read(w, plan.seed, sector);

    if (got == want)
        return;
    if (want == VERIFY_ANY && (got == VERIFY_ZERO || verify_writes(&plan, got, at))) {
        if (!s->gen)
            model[at] = got;
        return;
    }
    fail("sector %lu (%u of the working set) holds 0x%x (%lx %lx %lx %lx), not 0x%x; "
         "generation %u, request of %u sectors from %u",
         sector, at, got, w[0], w[1], w[2], w[3], want, s->gen, s->op.n, s->op.start);
}

static void fill_slot(Slot *s)
{
    for (uint32_t i = 0; i < s->op.n; i++)
        verify_fill(s->data + (size_t)i * VERIFY_WORDS, plan.seed,
                    verify_disk_sector(&plan, s->op.start + i), s->gen);
}

/* ---- requests ---- */

static bool is_busy(const VerifyOp *op)
{
    for (uint32_t i = 0; i < op->n; i++)
        if (busy[op->start + i])
            return true;
    return false;
}

static bool is_offered(VerifyKind kind)
{
    static const uint64_t needs[] = {
        [VERIFY_FLUSH] = F_FLUSH,
        [VERIFY_DISCARD] = F_DISCARD,
        [VERIFY_ZEROES] = F_WRITE_ZEROES,
    };
    return (disk.dev->features & needs[kind]) == needs[kind];
}

/* Where in memory, in how many pieces: of most requests as Linux has it, of some not. */
static bool submit_transfer(Virtq *q, Slot *s, uint32_t type)
{
    uint64_t random = verify_mix(plan.seed ^ s->gen * 0x2545f4914f6cdd1dull);
    uint32_t left = s->op.n * SECTOR, offset = 0;
    Buffer pieces[PIECES_MAX];
    unsigned n = 0;

    if (s->gen && !(random & 3))
        offset = random & 4 ? (uint32_t)(random >> 8 & 7) * SECTOR
                            : (uint32_t)(random >> 8 & 127) * 16;
    s->data = (uint64_t *)(s->memory + offset);
    if (type == REQ_OUT)
        fill_slot(s);
    uint8_t *at = (uint8_t *)s->data;
    while (left) {
        uint32_t part = left;

        if (s->gen && random >> 16 & 1 && n < PIECES_MAX - 1 && left > SECTOR)
            part = (uint32_t)(random >> (20 + 12 * n) & 0xfff) % (left / SECTOR - 1) *
                       SECTOR +
                   SECTOR;
        pieces[n++] = (Buffer){at, part, type == REQ_IN};
        at += part;
        left -= part;
    }
    return disk_submit_pieces(q, &s->request, type,
                              verify_disk_sector(&plan, s->op.start), pieces, n);
}

static bool submit_range(Virtq *q, Slot *s, uint32_t type)
{
    s->segment = (Segment){verify_disk_sector(&plan, s->op.start), s->op.n,
                           type == REQ_WRITE_ZEROES && s->op.unmap};
    return disk_submit(q, &s->request, type, 0, &s->segment, sizeof(s->segment));
}

static bool submit(Virtq *q, Slot *s)
{
    switch (s->op.kind) {
    case VERIFY_READ:
        return submit_transfer(q, s, REQ_IN);
    case VERIFY_WRITE:
        return submit_transfer(q, s, REQ_OUT);
    case VERIFY_FLUSH:
        return disk_submit(q, &s->request, REQ_FLUSH, 0, NULL, 0);
    case VERIFY_DISCARD:
        return submit_range(q, s, REQ_DISCARD);
    case VERIFY_ZEROES:
        return submit_range(q, s, REQ_WRITE_ZEROES);
    }
    return false;
}

static Slot *free_slot(void)
{
    for (unsigned i = 0; i < n_slots; i++)
        if (!slots[i].busy)
            return &slots[i];
    return NULL;
}

/* Leaves it out if it cannot be done now: false only when it is to be tried again. */
static bool start(const VerifyOp *op, uint32_t gen)
{
    Slot *s = free_slot();

    if (!s)
        return false;
    if (!is_offered(op->kind) || is_busy(op)) {
        if (op->kind != VERIFY_READ && op->kind != VERIFY_FLUSH)
            log_add(gen | VERIFY_LEFT_OUT);
        return true;
    }
    s->op = *op;
    s->gen = gen;
    s->log_mark = log_end;
    if (!submit(&disk.queues[gen % disk.n_queues], s))
        return false;
    s->busy = true;
    in_flight++;
    memset(busy + op->start, 1, op->n);
    return true;
}

static void set_model(const VerifyOp *op, uint32_t holds)
{
    for (uint32_t i = 0; i < op->n; i++)
        model[op->start + i] = holds;
}

static void finish_changed(Slot *s)
{
    static const uint32_t holds[] = {
        [VERIFY_DISCARD] = VERIFY_ANY,
        [VERIFY_ZEROES] = VERIFY_ZERO,
    };
    set_model(&s->op, s->op.kind == VERIFY_WRITE ? s->gen : holds[s->op.kind]);
    log_add(s->gen);
}

static void finish(Slot *s)
{
    bool ok = s->request.status == STATUS_OK;

    s->busy = false;
    in_flight--;
    memset(busy + s->op.start, 0, s->op.n);
    answered[s->op.kind]++;
    if (!ok) {
        CHECK(tolerant && s->request.status == STATUS_IOERR,
              "generation %u, kind %u, %u sectors from %u: status %u", s->gen, s->op.kind,
              s->op.n, s->op.start, s->request.status);
        failures++;
        if (s->op.kind != VERIFY_READ && s->op.kind != VERIFY_FLUSH)
            set_model(&s->op, VERIFY_ANY); /* done in part, or not at all */
    } else if (s->op.kind == VERIFY_READ) {
        for (uint32_t i = 0; i < s->op.n; i++)
            expect_sector(s, i);
    } else if (s->op.kind == VERIFY_FLUSH) {
        if ((int32_t)(s->log_mark - log_flushed) > 0)
            log_flushed = s->log_mark;
    } else {
        finish_changed(s);
    }
}

/* Kicks, then takes what is done; fails when nothing comes any more. */
static void turn(void)
{
    static uint64_t last;
    bool any = false;
    uint32_t used;
    Slot *s;

    for (unsigned i = 0; i < disk.n_queues; i++) {
        Virtq *q = &disk.queues[i];

        if (q->added)
            virtq_kick(q);
        for (; (s = virtq_pop(q, &used)); any = true)
            finish(s);
    }
    journal_turn();
    if (any || !in_flight || !last)
        last = ticks();
    else
        pause();
    CHECK(ticks() - last < 8 * PATIENCE, "%u requests are not answered, %s", in_flight,
          virtio_needs_reset(disk.dev) ? "and the device needs a reset" : "");
}

/* ---- phases ---- */

static void drain(void)
{
    while (in_flight)
        turn();
}

static void flush_all(void)
{
    static const VerifyOp flush = {.kind = VERIFY_FLUSH};

    drain();
    if (is_volatile)
        start(&flush, 0);
    drain();
}

static void scan(void)
{
    uint32_t most = plan.max < plan.chunk ? plan.max : plan.chunk;

    for (uint32_t at = 0; at < plan.n_sectors;) {
        uint32_t room = plan.chunk - at % plan.chunk;
        VerifyOp op = {.kind = VERIFY_READ, .start = at, .n = room < most ? room : most};

        if (op.n > plan.n_sectors - at)
            op.n = plan.n_sectors - at;
        if (start(&op, 0))
            at += op.n;
        turn();
    }
    drain();
}

static void journal_all(void)
{
    while (!journal_full && (journal_busy || log_written != log_flushed))
        turn();
}

/* All is flushed and said to be, and nothing more comes for a while: whoever keeps
 * something back is found out when the monitor is killed now. */
static void rest(uint64_t time)
{
    flush_all();
    journal_all();
    for (uint64_t begin = ticks(); ticks() - begin < time;)
        pause();
}

static void write_on(uint64_t ops)
{
    uint32_t burst = (uint32_t)arg_number("burst", 0), last_rest = next_gen;
    uint32_t end = next_gen + (uint32_t)ops;

    while (!journal_full && (!ops || next_gen != end)) {
        if (log_end - log_written > LOG_SIZE / 2)
            flush_all();
        if (burst && next_gen - last_rest >= burst) {
            rest(arg_number("rest", 10000000));
            last_rest = next_gen;
        }
        for (unsigned i = 0;
             i < n_slots && next_gen - issued < VERIFY_AHEAD && (!ops || next_gen != end);
             i++) {
            VerifyOp op = verify_op(&plan, next_gen);

            if (!start(&op, next_gen))
                break;
            next_gen++;
        }
        turn();
    }
    flush_all();
    journal_all();
}

static void read_plan(void)
{
    static const char *const kinds[] = {"read", "write", "flush", "discard", "zeroes"};
    static const uint32_t usual[] = {30, 50, 6, 7, 7};

    plan.seed = arg_number("seed", 1);
    plan.n_sectors = (uint32_t)arg_number("sectors", 8192);
    plan.chunk = (uint32_t)arg_number("chunk", plan.n_sectors);
    plan.stride = arg_number("stride", plan.chunk);
    plan.max = (uint32_t)arg_number("max", 512);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        plan.weights[i] = (uint32_t)arg_number(kinds[i], usual[i]);
    base = next_gen = (uint32_t)arg_number("base", VERIFY_FIRST);
    CHECK(plan.n_sectors && plan.chunk && plan.max && plan.stride >= plan.chunk, "plan");
}

static void read_model(void)
{
    model = alloc(plan.n_sectors * sizeof(*model), 64);
    busy = alloc(plan.n_sectors, 64);
    CHECK(!boot.n_modules || boot.module_size == plan.n_sectors * sizeof(*model),
          "the module is of %lu bytes", boot.module_size);
    if (boot.n_modules)
        memcpy(model, map(boot.module, boot.module_size), boot.module_size);
    for (uint32_t i = 0; !boot.n_modules && i < plan.n_sectors; i++)
        model[i] = VERIFY_ANY;
}

static void test_verify(void)
{
    VirtioDevice *d = virtio_find(VIRTIO_BLK, (unsigned)arg_number("dev", 0));
    uint64_t ops = arg_number("ops", 0);

    is_volatile = arg_number("volatile", 1);
    tolerant = arg_number("errors", 0);
    read_plan();
    read_model();
    disk_start(&disk, d, best_ring_mode(d),
               F_MQ | F_DISCARD | F_WRITE_ZEROES | (is_volatile ? F_FLUSH : 0),
               (unsigned)arg_number("queues", 1));
    CHECK(verify_disk_sector(&plan, plan.n_sectors - 1) < disk.sectors,
          "the disk is too small: %lu sectors", disk.sectors);
    journal_start();
    n_slots = (unsigned)arg_number("qd", 32);
    CHECK(n_slots && n_slots <= SLOTS_MAX, "qd");
    for (unsigned i = 0; i < n_slots; i++)
        slots[i].memory = alloc(plan.max * SECTOR + SLACK, 4096);

    if (arg_number("scan", 1))
        scan();
    print("verify go base=%u queues=%u features=0x%lx\n", base, disk.n_queues,
          disk.dev->features);
    write_on(ops);
    scan();
    print("verify done next=%u reads=%lu writes=%lu flushes=%lu discards=%lu zeroes=%lu "
          "failures=%lu records=%u\n",
          next_gen, answered[0], answered[1], answered[2], answered[3], answered[4],
          failures, record.index);
}

const Test tests_verify[] = {
    {"blk-verify", test_verify},
    {NULL, NULL},
};
