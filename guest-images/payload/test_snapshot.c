/* snapshot: everything at once, for as long as it is let.  A disk, a network card, a
 * console, the local APIC's timer, interrupts from CPU to CPU, memory and clocks are kept
 * busy, and each checks itself: a request that is lost or answered twice, a sector, page
 * or clock that is older than it was, ends the run.  The host may save the VM and restore
 * it at any moment: nothing here may tell.
 *
 *   cpus=N pages=N lines=N (0: for ever) blk=0|1 net=0|1 con=0|1 seed=N
 *
 * Nothing waits by the clock: a restored VM's may have jumped. */
#include "blk.h"
#include "net.h"
#include "smp.h"
#include "verify.h"

enum {
    IRQ_TIMER = 3, /* index of the interrupt; those of disks come before */
    IRQ_RING = 4,  /* of CPU 0; then of CPU 1... */
    CPUS_MAX = 1 + AP_INTERRUPTS,
    SLOTS = 8,
    REGIONS = 128,
    REGION = 8, /* sectors */
    PAGE = 4096,
    TURNS = 40,      /* between two lines */
    LOST = 1u << 28, /* polls: half a minute, or more */
    RESEND = 1u << 9,
};

#define LAPIC_LVT_TIMER     (LAPIC + 0x320)
#define LAPIC_TIMER_INITIAL (LAPIC + 0x380)
#define LAPIC_TIMER_DIVIDE  (LAPIC + 0x3e0)
#define LVT_PERIODIC        0x20000
#define DIVIDE_BY_16        3

static uint64_t seed, random_state;

static uint64_t random(void)
{
    return verify_mix(random_state += 0x9e3779b97f4a7c15ull);
}

/* ---- the disk ---- */

typedef struct Slot {
    Request request; /* first: the token */
    bool busy;
    uint32_t region, gen, age;
    uint64_t data[REGION][VERIFY_WORDS] __attribute__((aligned(4096)));
} Slot;

static Disk disk;
static Slot slots[SLOTS];
static uint32_t holds[REGIONS]; /* the generation that each region has; 0: unknown */
static bool taken[REGIONS];
static uint32_t next_gen = VERIFY_FIRST;
static uint64_t blk_sent, blk_done;

static uint64_t sector_of(uint32_t region, unsigned i)
{
    return (uint64_t)region * REGION * 3 + i; /* with gaps */
}

static void check_read(const Slot *s)
{
    for (unsigned i = 0; holds[s->region] && i < REGION; i++) {
        uint32_t got = verify_read(s->data[i], seed, sector_of(s->region, i));

        CHECK(got == holds[s->region], "sector %lu holds generation %u, not %u",
              sector_of(s->region, i), got, holds[s->region]);
    }
}

static void blk_finish(Slot *s)
{
    CHECK(s->busy, "a request was answered twice");
    CHECK(s->request.status == STATUS_OK, "request %u: status %u", s->request.type,
          s->request.status);
    if (s->request.type == REQ_IN)
        check_read(s);
    else if (s->request.type == REQ_OUT)
        holds[s->region] = s->gen;
    if (s->request.type != REQ_FLUSH)
        taken[s->region] = false;
    s->busy = false;
    blk_done++;
}

static void blk_begin(Virtq *q, Slot *s)
{
    uint64_t what = random();
    bool write = what % 10 < 6;

    s->region = (uint32_t)(what >> 32) % REGIONS;
    s->age = 0;
    if (what % 10 == 9 && disk.dev->features & F_FLUSH) {
        s->busy = disk_submit(q, &s->request, REQ_FLUSH, 0, NULL, 0);
    } else if (!taken[s->region]) {
        s->gen = next_gen;
        for (unsigned i = 0; write && i < REGION; i++)
            verify_fill(s->data[i], seed, sector_of(s->region, i), s->gen);
        s->busy = disk_submit(q, &s->request, write ? REQ_OUT : REQ_IN,
                              sector_of(s->region, 0), s->data, sizeof(s->data));
        taken[s->region] = s->busy;
        next_gen += s->busy;
    }
    blk_sent += s->busy;
}

static void blk_turn(void)
{
    Virtq *q = &disk.queues[random() % disk.n_queues];
    uint32_t used;
    Slot *s;

    for (unsigned i = 0; i < disk.n_queues; i++)
        while ((s = virtq_pop(&disk.queues[i], &used)))
            blk_finish(s);
    for (unsigned i = 0; i < SLOTS; i++) {
        CHECK(!slots[i].busy || ++slots[i].age < LOST, "a request of the disk is lost");
        if (!slots[i].busy && random() % 4 == 0)
            blk_begin(q, &slots[i]);
    }
    virtq_kick(q);
}

/* ---- the card ---- */

static uint16_t ping;
static uint32_t ping_age;
static bool ping_sent;
static uint64_t net_done, net_again;

static void net_turn(void)
{
    uint16_t number;

    while (net_take_pong(&number)) {
        if (number != ping || !ping_sent)
            continue; /* of one that was sent again */
        ping_sent = false;
        ping++;
        net_done++;
    }
    /* A network may lose a frame, and ours may with the host's process. */
    if (ping_sent && ++ping_age % RESEND && !net_is_asked())
        return;
    CHECK(!ping_sent || ping_age < LOST, "the network is gone");
    net_again += ping_sent;
    if (!net_send_ping(ping))
        return;
    if (!ping_sent)
        ping_age = 0;
    ping_sent = true;
}

/* ---- the console ---- */

static Virtq con;
static char con_line[16] = "con 00000000\n";
static bool con_busy;
static uint32_t con_number, con_age;

static void con_start(VirtioDevice *d)
{
    virtio_start(d, best_ring_mode(d));
    virtq_init(&con, d, 1, 0);
    virtio_driver_ok(d);
}

static void con_turn(void)
{
    Buffer buffer = {con_line, 13, false};
    uint32_t used;

    if (con_busy && !virtq_pop(&con, &used)) {
        CHECK(++con_age < LOST, "a line on the console is lost");
        return;
    }
    for (unsigned i = 0, n = con_number++; i < 8; i++, n >>= 4)
        con_line[11 - i] = "0123456789abcdef"[n & 15];
    con_age = 0;
    con_busy = virtq_add(&con, &buffer, 1, con_line);
    virtq_kick(&con);
}

/* ---- memory: each CPU has pages of its own ---- */

typedef struct Stirred {
    uint64_t *pages;
    uint32_t *gens; /* that each has; 0: zeroes */
    uint64_t random_state, done;
} Stirred;

static Stirred stirred[CPUS_MAX];
static uint32_t n_pages;

/* What went wrong on a CPU other than the first, which tells. */
static volatile uint32_t bad_cpu, bad_page, bad_kind;

static void stir(uint32_t cpu)
{
    Stirred *s = &stirred[cpu];
    uint64_t r = verify_mix(s->random_state += 0x9e3779b97f4a7c15ull), x;
    uint32_t page = (uint32_t)(r % n_pages), gen = s->gens[page];
    uint64_t *w = s->pages + (uint64_t)page * (PAGE / 8);
    bool same = true;

    x = verify_mix(seed ^ (uint64_t)cpu << 56 ^ (uint64_t)page << 32 ^ gen);
    for (unsigned i = 0; i < PAGE / 8; i++)
        same &= w[i] == (gen ? x + i * 0x9e3779b97f4a7c15ull : 0);
    if (!same) {
        bad_page = page;
        bad_cpu = cpu;
        bad_kind = 1;
    }
    s->gens[page] = ++gen;
    x = verify_mix(seed ^ (uint64_t)cpu << 56 ^ (uint64_t)page << 32 ^ gen);
    for (unsigned i = 0; i < PAGE / 8; i++)
        w[i] = x + i * 0x9e3779b97f4a7c15ull;
    s->done++;
}

/* ---- clocks ---- */

static uint64_t last_ticks[CPUS_MAX];

static void clock_turn(uint32_t cpu)
{
    uint64_t now = ticks();

    if (now < last_ticks[cpu]) {
        bad_cpu = cpu;
        bad_kind = 2;
    }
    last_ticks[cpu] = now;
}

static uint32_t timer_seen, timer_age;

static void timer_start(void)
{
    *(volatile uint32_t *)(uintptr_t)LAPIC_TIMER_DIVIDE = DIVIDE_BY_16;
    *(volatile uint32_t *)(uintptr_t)LAPIC_LVT_TIMER = LVT_PERIODIC |
                                                       (VECTOR_IRQ + IRQ_TIMER);
    *(volatile uint32_t *)(uintptr_t)LAPIC_TIMER_INITIAL = 100000; /* 1.6 ms */
}

static void timer_turn(void)
{
    if (irq_count[IRQ_TIMER] != timer_seen) {
        timer_seen = irq_count[IRQ_TIMER];
        timer_age = 0;
    }
    CHECK(++timer_age < LOST, "the timer stands still");
}

/* ---- one interrupt that goes round among the CPUs ---- */

static uint32_t n_cpus, ring_taken[CPUS_MAX];
static uint32_t ring_age;

static void ring_turn(uint32_t cpu)
{
    uint32_t pending = irq_count[IRQ_RING + cpu] - ring_taken[cpu];

    if (!pending)
        return;
    if (pending != 1) {
        bad_cpu = cpu;
        bad_kind = 3;
    }
    ring_taken[cpu]++;
    if (cpu == 0)
        ring_age = 0;
    smp_interrupt((cpu + 1) % n_cpus, IRQ_RING + (cpu + 1) % n_cpus);
}

static volatile uint32_t ring0_lock, aps_ready;

static void work(uint32_t cpu)
{
    uint32_t one = 1;

    if (cpu >= n_cpus)
        for (;;)
            pause();
    do /* ring0() serves one CPU at a time */
        asm volatile("xchgl %0, %1" : "+r"(one), "+m"(ring0_lock));
    while (one);
    interrupts_enable();
    asm volatile("lock; incl %0" : "+m"(aps_ready));
    ring0_lock = 0;
    for (;;) {
        stir(cpu);
        clock_turn(cpu);
        ring_turn(cpu);
    }
}

/* ---- all of it ---- */

static void look_at_others(void)
{
    static const char *const kinds[] = {"", "a page is not as it was written",
                                        "the clock went backwards",
                                        "an interrupt came twice"};

    CHECK(!bad_kind, "CPU %u: %s (page %u)", bad_cpu, kinds[bad_kind], bad_page);
    CHECK(++ring_age < LOST, "an interrupt from CPU to CPU is lost");
}

static void start_cpus(void)
{
    n_cpus = (uint32_t)arg_number("cpus", 1);
    n_pages = (uint32_t)arg_number("pages", 256);
    CHECK(n_cpus && n_cpus <= CPUS_MAX && n_pages, "cpus, pages");
    for (uint32_t i = 0; i < n_cpus; i++)
        stirred[i] = (Stirred){.pages = alloc((uint64_t)n_pages * PAGE, PAGE),
                               .gens = alloc(n_pages * sizeof(uint32_t), 64),
                               .random_state = seed + i};
    interrupts_enable();
    if (n_cpus == 1)
        return;
    CHECK(smp_start(n_cpus, work) >= n_cpus, "CPUs are missing");
    CHECK(WAIT_UNTIL(aps_ready == n_cpus - 1), "CPUs are not ready");
    smp_interrupt(1, IRQ_RING + 1);
}

static void test_snapshot(void)
{
    bool blk = arg_number("blk", 1), net = arg_number("net", 1), c = arg_number("con", 1);
    uint32_t lines = (uint32_t)arg_number("lines", 0);

    seed = random_state = arg_number("seed", 1);
    if (blk) {
        VirtioDevice *d = virtio_find(VIRTIO_BLK, 0);

        disk_start(&disk, d, best_ring_mode(d), F_FLUSH | F_MQ, IRQ_TIMER);
        CHECK(sector_of(REGIONS, 0) <= disk.sectors, "the disk is too small");
    }
    if (net) {
        VirtioDevice *d = virtio_find(VIRTIO_NET, 0);

        net_open(d, best_ring_mode(d));
    }
    if (c)
        con_start(virtio_find(VIRTIO_CONSOLE, 0));
    start_cpus();
    timer_start();
    print("snapshot go\n");
    for (uint32_t line = 1; !lines || line <= lines; line++) {
        for (unsigned turn = 0; turn < TURNS; turn++) {
            if (blk)
                blk_turn();
            if (net)
                net_turn();
            if (c)
                con_turn();
            stir(0);
            clock_turn(0);
            timer_turn();
            if (n_cpus > 1)
                ring_turn(0);
            if (n_cpus > 1)
                look_at_others();
            CHECK(!bad_kind, "page %u is not as it was written, or the clock went back",
                  bad_page);
        }
        print("at %u blk=%lu net=%lu con=%u timer=%u ring=%u pages=%lu\n", line, blk_done,
              net_done, con_number, irq_count[IRQ_TIMER], ring_taken[0], stirred[0].done);
    }
}

/* dirty: for each byte that is typed, writes one word in each page of a range, and says
 * so; between that it only looks whether there is a byte.  pages=N */
static void test_dirty(void)
{
    uint64_t pages = arg_number("pages", 1), round = 0;
    volatile uint64_t *at = alloc(0, 1 << 21);

    map((uintptr_t)at, pages * PAGE);
    print("dirty ready\n");
    for (;;) {
        while (!(inb(COM1 + COM_LSR) & LSR_RX))
            pause();
        inb(COM1);
        round++;
        for (uint64_t i = 0; i < pages; i++)
            at[i * (PAGE / 8)] += round;
        print("dirty %lu\n", round);
    }
}

const Test tests_snapshot[] = {
    {"snapshot", test_snapshot},
    {"dirty", test_dirty},
    {NULL, NULL},
};
