/* Which pages a snapshot has to hold. */
#include <sys/mman.h>
#include <unistd.h>

#include "src/snapshot/pages.h"
#include "util/bits.h"
#include "util/fd.h"

enum { N_PAGES = 300 };

static void ram(GuestMem *gm)
{
    const GuestMemOptions o = {.size = N_PAGES * GM_PAGE_SIZE};

    g_assert_true(gm_init(gm, &o, NULL));
    g_assert_true(gm_add(gm, 0, o.size, NULL));
}

static void expect_runs(const PageSet *s, const char *wanted)
{
    g_autoptr(GString) got = g_string_new(NULL);
    unsigned n;

    for (uint64_t page = 0; pages_next(s, &page, &n, 100); page += n)
        g_string_append_printf(got, "%s%u+%u", got->len ? " " : "", (unsigned)page, n);
    g_assert_cmpstr(got->str, ==, wanted);
}

static void runs_end_at_gaps_at_the_limit_and_at_the_end_of_ram(void)
{
    PageSet s = {0}, other = {0};
    GuestMem gm;

    ram(&gm);
    g_assert_true(pages_init(&s, &gm, NULL));
    g_assert_true(pages_init(&other, &gm, NULL));
    expect_runs(&s, "");
    s.bits[0] = BIT64(0) | BIT64(63);
    s.bits[1] = BIT64(0) | BIT64(2);
    expect_runs(&s, "0+1 63+2 66+1");
    other.bits[4] = BIT64(N_PAGES - 1 - 256);
    pages_add(&s, &other);
    g_assert_cmpuint(pages_count(&s), ==, 5);
    expect_runs(&s, "0+1 63+2 66+1 299+1");
    pages_fill(&s);
    g_assert_cmpuint(pages_count(&s), ==, N_PAGES);
    expect_runs(&s, "0+100 100+100 200+100");
    pages_clear(&s);
    expect_runs(&s, "");
    pages_free(&s);
    pages_free(&other);
    gm_finish(&gm);
}

static void pages_that_nobody_touched_are_left_out(void)
{
    PageSet s = {0};
    GuestMem gm;

    ram(&gm);
    gm.base[5 * GM_PAGE_SIZE] = 1;
    gm.base[298 * GM_PAGE_SIZE] = 1;
    g_assert_true(pages_init(&s, &gm, NULL));
    g_assert_true(pages_add_used(&s, &gm, NULL, NULL));
    expect_runs(&s, "5+1 298+1");
    pages_free(&s);
    gm_finish(&gm);
}

/* A snapshot's file is mapped: pages that were only read are the file's, those that were
 * written are not, whatever was written. */
static void pages_of_a_file_are_changed_when_they_are_written(void)
{
    autofd fd = fd_memory("snapshot", N_PAGES * GM_PAGE_SIZE, 0);
    PageSet s = {0};
    GuestMem gm;

    ram(&gm);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, "old", 3, 7 * GM_PAGE_SIZE), ==, 3);
    g_assert_true(mmap(gm.base, gm.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                       fd, 0) == gm.base);
    gm_set_backed(&gm);
    for (unsigned i = 0; i < 20; i++)
        g_assert_cmphex(gm.base[i * GM_PAGE_SIZE], ==, i == 7 ? 'o' : 0);
    gm.base[7 * GM_PAGE_SIZE] = 'o';
    gm.base[100 * GM_PAGE_SIZE] = 0;
    g_assert_true(pages_init(&s, &gm, NULL));
    g_assert_true(pages_add_changed(&s, &gm, NULL));
    expect_runs(&s, "7+1 100+1");
    gm_clear(&gm);
    g_assert_cmpuint(gm.base[7 * GM_PAGE_SIZE], ==, 0);
    g_assert_true(pages_add_changed(&s, &gm, NULL));
    g_assert_cmpuint(pages_count(&s), ==, N_PAGES);
    pages_free(&s);
    gm_finish(&gm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pages/runs", runs_end_at_gaps_at_the_limit_and_at_the_end_of_ram);
    g_test_add_func("/pages/used", pages_that_nobody_touched_are_left_out);
    g_test_add_func("/pages/changed", pages_of_a_file_are_changed_when_they_are_written);
    return g_test_run();
}
