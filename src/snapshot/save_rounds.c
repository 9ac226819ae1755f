/* Guest RAM goes into a snapshot: which pages, and in which rounds.  The theory is at the
 * head of save.c. */
#include "save_private.h"

enum {
    RUN_PAGES = 256, /* copied at once, a MiB */
    MAX_ROUNDS = 30,
    PAUSE_NS = 2 * 1000 * 1000, /* what may be left to be copied in the pause */
    LEAST_PAGES = 64,           /* fewer are not worth another round */
};

bool save_fetch(Save *s, GError **error)
{
    PageSet fresh = {0};
    bool ok = pages_init(&fresh, machine_memory(s->m), error) &&
              machine_log_fetch(s->m, fresh.bits, error);

    if (fresh.bits) { /* also what was told before it failed */
        pages_add(&s->todo, &fresh);
        pages_add(&s->keeper->changed, &fresh);
    }
    pages_free(&fresh);
    return ok;
}

static bool is_ending(const Save *s, GError **error)
{
    return s->o->ending && __atomic_load_n(s->o->ending, __ATOMIC_RELAXED) &&
           !fail(error, VM_ERROR_BUSY, "the VM has ended");
}

bool save_copy_pages(Save *s, GError **error)
{
    const uint8_t *base = machine_memory(s->m)->base;
    unsigned n;

    for (uint64_t page = 0; pages_next(&s->todo, &page, &n, RUN_PAGES); page += n) {
        if (!snap_memory_write(s->memory, page, n, base + page * GM_PAGE_SIZE, error) ||
            is_ending(s, error))
            return false;
        s->f.pages += n;
        if (s->f.stage == SNAPSHOT_COPY && s->f.pages % 4096 < n)
            save_publish(s);
    }
    pages_clear(&s->todo);
    return true;
}

/* What the first round has to copy, beside what the logs tell. */
static bool list_pages(Save *s, GError **error)
{
    const GuestMem *gm = machine_memory(s->m);
    SnapMemory *memory = NULL;
    bool ok;

    if (s->o->diff) {
        if (!s->was_logging && !pages_add_changed(&s->keeper->changed, gm, error))
            return false;
        pages_add(&s->todo, &s->keeper->changed);
        return true;
    }
    if (s->arriving) {
        pages_fill(&s->todo); /* who reads them has them come */
        return true;
    }
    if (s->from && !(memory = snap_memory_open(s->from, error)))
        return false;
    ok = pages_add_used(&s->todo, gm, memory, error);
    snap_memory_close(memory);
    return ok;
}

static bool is_small(const Save *s, uint64_t n)
{
    return n <= LEAST_PAGES || (double)n * s->ns_per_page <= PAUSE_NS;
}

bool save_copy_rounds(Save *s, GError **error)
{
    uint64_t n, before = UINT64_MAX;

    if (!list_pages(s, error) || !save_fetch(s, error))
        return false;
    for (;;) {
        int64_t start = clock_ns();

        n = pages_count(&s->todo);
        /* The first round always runs: nothing else tells how fast pages are copied. */
        if (s->f.rounds &&
            (is_small(s, n) || n > before - before / 4 || s->f.rounds == MAX_ROUNDS))
            return true;
        before = n;
        s->f.total = s->f.pages + n;
        s->f.rounds++;
        save_publish(s);
        if (!save_copy_pages(s, error))
            return false;
        s->ns_per_page = n ? (double)(clock_ns() - start) / (double)n : 0;
        if (!save_fetch(s, error))
            return false;
    }
}
