/* Walks over a disk, and what they tell of their progress. */
#include <string.h>

#include "src/cli/image.h"
#include "util/bits.h"
#include "util/lock.h"

enum { UNIT = 65536 };

/* A disk of stretches: kinds[i] from i * step on.  What is done to it is written down by
 * sector. */
typedef struct Disk {
    uint64_t step;
    const WalkKind *kinds;
    uint8_t *done; /* 1: zeroed, 2: data */
    uint64_t fail_at;
    Lock lock;
} Disk;

static bool look(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                 uint64_t *ret_len, GError **error)
{
    const Disk *d = w->opaque;

    *kind = d->kinds[offset / d->step];
    *ret_len = d->step - offset % d->step;
    return true;
}

static bool work(Walk *w, WalkKind kind, uint64_t offset, uint64_t len, uint8_t *buf[2],
                 GError **error)
{
    Disk *d = w->opaque;

    g_assert_true(is_aligned(offset, w->unit));
    g_assert_true(is_aligned(len, w->unit) || offset + len == w->size);
    g_assert_true(kind != WALK_SKIP);
    if (kind == WALK_DATA) {
        g_assert_cmpuint(len, <=, w->chunk);
        memset(buf[0], 1, len); /* each thread has its own: for the sanitizers */
        memset(buf[1], 2, len);
    }
    if (d->fail_at >= offset && d->fail_at < offset + len)
        return fail(error, VM_ERROR_IO, "no luck at %" G_GUINT64_FORMAT, offset);
    LOCK_GUARD(&d->lock);
    for (uint64_t at = offset; at < offset + len; at += 512) {
        g_assert_cmpuint(d->done[at / 512], ==, 0); /* nothing twice */
        d->done[at / 512] = kind == WALK_ZERO ? 1 : 2;
    }
    return true;
}

static bool walk(Disk *d, uint64_t size, uint64_t unit, unsigned threads, Progress *p,
                 GError **error)
{
    Walk w = {.size = size,
              .unit = unit,
              .look = look,
              .work = work,
              .threads = threads,
              .progress = p,
              .opaque = d};
    bool ok;

    *p = (Progress){.what = "walk", .total = size};
    d->done = g_malloc0(size / 512 + 1);
    lock_init(&d->lock);
    ok = walk_run(&w, error);
    lock_finish(&d->lock);
    return ok;
}

static const WalkKind kinds[] = {WALK_SKIP, WALK_DATA, WALK_DATA, WALK_ZERO,
                                 WALK_SKIP, WALK_ZERO, WALK_DATA, WALK_SKIP};

static void every_byte_is_taken_once_and_as_what_it_is(void)
{
    const uint64_t steps[] = {512, 4096, 65536, 65536 * 3 + 512, 5 * MIB};

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++)
        for (unsigned threads = 1; threads <= 4; threads += 3) {
            uint64_t size = 8 * steps[i] - 512;
            Disk d = {.step = steps[i], .kinds = kinds, .fail_at = UINT64_MAX};
            Progress p;

            g_assert_true(walk(&d, size, 512, threads, &p, NULL));
            for (uint64_t at = 0; at < size; at += 512) {
                WalkKind kind = kinds[at / steps[i]];

                g_assert_cmpint(d.done[at / 512], ==,
                                kind == WALK_SKIP   ? 0
                                : kind == WALK_ZERO ? 1
                                                    : 2);
            }
            g_assert_cmpuint(atomic_load(&p.done), ==, size);
            g_free(d.done);
        }
}

static void a_unit_of_two_kinds_is_data(void)
{
    Disk d = {.step = UNIT / 2 * 3, .kinds = kinds, .fail_at = UINT64_MAX};
    uint64_t size = 8 * d.step;
    Progress p;

    g_assert_true(walk(&d, size, UNIT, 2, &p, NULL));
    for (uint64_t at = 0; at < size; at += UNIT) {
        bool data = false;

        for (uint64_t s = at; s < MIN(at + UNIT, size); s += 512)
            data |= kinds[s / d.step] == WALK_DATA;
        for (uint64_t s = at; data && s < MIN(at + UNIT, size); s += 512)
            g_assert_cmpint(d.done[s / 512], ==, 2);
    }
    g_free(d.done);
}

static void the_first_error_ends_it_and_is_told(void)
{
    g_autoptr(GError) error = NULL;
    Disk d = {.step = 16 * MIB, .kinds = kinds, .fail_at = 20 * MIB};
    Progress p;

    g_assert_false(walk(&d, 128 * MIB, 512, 4, &p, &error));
    g_assert_nonnull(strstr(error->message, "no luck at 20971520"));
    g_assert_cmpuint(atomic_load(&p.done), <, 128 * MIB);
    g_free(d.done);
}

static void zeroes_are_seen_and_nothing_else_taken_for_them(void)
{
    static uint8_t buf[3 * 4096 + 7];
    const size_t lengths[] = {1, 511, 512, 4096, 4097, sizeof(buf)};

    for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_assert_true(is_zero(buf, lengths[i]));
        for (size_t at = 0; at < lengths[i]; at += MAX(lengths[i] / 7, 1)) {
            buf[at] = 1;
            g_assert_false(is_zero(buf, lengths[i]));
            buf[at] = 0;
        }
        buf[lengths[i] - 1] = 0x80;
        g_assert_false(is_zero(buf, lengths[i]));
        buf[lengths[i] - 1] = 0;
    }
}

static void a_progress_line_fits_and_says_what_is_left(void)
{
    g_autofree char *text = progress_text(0.5, GIB, 2 * GIB, 64.0 * MIB, 100);

    g_assert_nonnull(
        strstr(text, "[##########..........]   50%  1 GiB of 2 GiB  64 MiB/s"));
    g_assert_nonnull(strstr(text, "0:16 left"));
    for (unsigned width = 0; width < 120; width++) {
        g_autofree char *line = progress_text(0.999, GIB, 1000 * GIB, 1.0, width);

        g_assert_cmpuint(strlen(line), <=, width);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/walk/" #fn, fn)
    T(every_byte_is_taken_once_and_as_what_it_is);
    T(a_unit_of_two_kinds_is_data);
    T(the_first_error_ends_it_and_is_told);
    T(zeroes_are_seen_and_nothing_else_taken_for_them);
    T(a_progress_line_fits_and_says_what_is_left);
    return g_test_run();
}
