/* A guest whose whole state is checked by itself: for snapshots.
 *
 * It counts, and writes each number into one of many pages, round and round, after it has
 * looked that the page still has the number that belonged there.  Pages, registers and
 * the count are of one instant, or it says so.  The rest of RAM has a pattern, which
 * never changes.  Typed at its serial port:
 *
 *     s   says the count, after looking at every page
 *     h   holds still until the next letter
 *     q   as s, and ends */
#include "payload.h"

#define MAX_PAGES 16384
#define PATTERN   0x9e3779b97f4a7c15

static uint64_t where[MAX_PAGES]; /* addresses of the pages */
static unsigned n_pages, n_still; /* those counted in; behind them those with a pattern */

/* Spread over all RAM, what lies above 4 GiB too. */
static void find_pages(unsigned wanted)
{
    uint64_t total = 0, step, ours;
    unsigned n = 0;

    for (unsigned i = 0; i < boot.n_memory; i++)
        if (boot.memory[i].type == 1) {
            total += boot.memory[i].size;
            map(boot.memory[i].start, boot.memory[i].size);
        }
    ours = (uintptr_t)alloc(0x1000, 0x1000); /* the last that is given out */
    step = total / wanted & ~0xfffull;
    if (step < 0x1000)
        step = 0x1000;
    for (unsigned i = 0; i < boot.n_memory; i++) {
        MemoryRange r = boot.memory[i];

        if (r.type != 1 || r.size < 0x200000)
            continue;
        for (uint64_t at = (r.start + 0xfff) & ~0xfffull; at + 0x1000 <= r.start + r.size;
             at += step)
            if (at > ours && n < MAX_PAGES)
                where[n++] = at;
    }
    CHECK(n > 16, "only %u pages", n);
    n_pages = n / 2;
    n_still = n - n_pages;
}

/* Every other one is counted in, so that both kinds are everywhere. */
static volatile uint64_t *page_at(unsigned i)
{
    return (void *)(uintptr_t)where[2 * i];
}

static volatile uint64_t *still_at(unsigned i)
{
    return (void *)(uintptr_t)where[2 * i + 1];
}

/* The last number at or below `count` that went to page i; 0: none did. */
static uint64_t belongs(unsigned i, uint64_t count)
{
    uint64_t last = count - (count + n_pages - i) % n_pages;

    return count < i || last == 0 ? 0 : last;
}

static void check_all(uint64_t count)
{
    for (unsigned i = 0; i < n_pages; i++) {
        uint64_t has = *page_at(i), want = belongs(i, count);

        CHECK(has == want && page_at(i)[511] == ~want,
              "page %u at 0x%lx has %lu, not %lu, at %lu", i, where[2 * i], has, want,
              count);
    }
    for (unsigned i = 0; 2 * i + 1 < n_pages + n_still; i++)
        CHECK(*still_at(i) == i * PATTERN, "still page %u at 0x%lx has 0x%lx", i,
              where[2 * i + 1], *still_at(i));
}

static char typed(void)
{
    return inb(COM1 + COM_LSR) & LSR_RX ? (char)inb(COM1) : 0;
}

static void test_count(void)
{
    uint64_t count = 0, slow = arg_number("slow", 0);
    char letter = 0;

    find_pages((unsigned)arg_number("pages", 2048));
    for (unsigned i = 0; i < n_pages; i++)
        page_at(i)[511] = ~0ull;
    for (unsigned i = 0; 2 * i + 1 < n_pages + n_still; i++)
        *still_at(i) = i * PATTERN;
    print("count ready pages=%u\n", n_pages);
    while (letter != 'q') {
        unsigned i = (unsigned)((count + 1) % n_pages);
        uint64_t want = belongs(i, count);

        CHECK(*page_at(i) == want, "page %u has %lu, not %lu, at %lu", i, *page_at(i),
              want, count);
        count++;
        *page_at(i) = count;
        page_at(i)[511] = ~count;
        for (uint64_t n = 0; n < slow; n++)
            pause();
        if (count % 64)
            continue;
        letter = typed();
        if (letter == 's' || letter == 'q' || letter == 'h') {
            check_all(count);
            print("count %lu good\n", count);
        }
        while (letter == 'h')
            if ((letter = typed()) == 0)
                letter = 'h';
            else
                print("goes on\n");
    }
}

const Test tests_count[] = {{"count", test_count}, {NULL, NULL}};
