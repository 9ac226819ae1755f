/* Guest RAM. */
#include "core/guestmem.h"

#include <stdio.h>
#include <string.h>

#include "util/bits.h"

static void two_regions(GuestMem *gm, bool shared)
{
    GuestMemOptions o = {.size = 4 * MIB, .shared = shared};

    g_assert_true(gm_init(gm, &o, NULL));
    g_assert_true(gm_add(gm, 0, 1 * MIB, NULL));
    g_assert_true(gm_add(gm, 4 * GIB, 3 * MIB, NULL));
}

static void only_ranges_wholly_in_one_region_have_an_address(void)
{
    static const struct {
        uint64_t gpa, len;
        bool ok;
    } cases[] = {
        {0, 1, true},
        {0, 1 * MIB, true},
        {0, 1 * MIB + 1, false},
        {1 * MIB - 1, 1, true},
        {1 * MIB - 1, 2, false},
        {1 * MIB, 0, false},
        {1 * MIB, 1, false},
        {4 * GIB, 0, true},
        {4 * GIB + 3 * MIB - 8, 8, true},
        {4 * GIB + 3 * MIB - 8, 9, false},
        {4 * GIB - 1, 2, false},
        {UINT64_MAX, 1, false},
        {UINT64_MAX - 7, 16, false},
        {0, UINT64_MAX, false},
        {4 * GIB, UINT64_MAX, false},
    };
    GuestMem gm;

    two_regions(&gm, false);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        g_assert_cmpint(gm_at(&gm, cases[i].gpa, cases[i].len) != NULL, ==, cases[i].ok);
    gm_finish(&gm);
    gm_finish(&gm);
}

/* A huge page of the host can be one of the guest's only if both begin at the same place
 * in 2 MiB: KVM maps it by small pages else, with an exit for each. */
static void host_addresses_are_the_guests_but_for_whole_huge_pages(void)
{
    for (int shared = 0; shared < 2; shared++) {
        for (uint64_t size = 1 * MIB; size < 8 * MIB; size += 1 * MIB + GM_PAGE_SIZE) {
            GuestMemOptions o = {.size = size, .shared = shared};
            GuestMem gm;

            g_assert_true(gm_init(&gm, &o, NULL));
            g_assert_true(gm_add(&gm, 0, size, NULL));
            g_assert_cmpuint((uintptr_t)gm_at(&gm, 0, size) % (2 * MIB), ==, 0);
            gm_finish(&gm);
        }
    }
}

/* One page more than a page of the log has bits for. */
static void the_log_of_other_processes_has_a_bit_for_the_last_page_too(void)
{
    enum { BITS = 8 * GM_PAGE_SIZE, PAGES = BITS + 1 };
    GuestMemOptions o = {.size = PAGES * (uint64_t)GM_PAGE_SIZE, .shared = true};
    g_autofree uint64_t *dirty = g_new0(uint64_t, PAGES / 64 + 1);
    GuestMem gm;

    g_assert_true(gm_init(&gm, &o, NULL));
    g_assert_true(gm_add(&gm, 0, o.size, NULL));
    g_assert_true(gm_log_start(&gm, NULL));
    g_assert_cmpuint(gm.remote_log->size * 8, >=, PAGES);
    gm.remote_log->bits[BITS / 64] = 1;
    gm_log_fetch(&gm, dirty);
    g_assert_cmphex(dirty[BITS / 64], ==, 1);
    gm_log_stop(&gm);
    gm_finish(&gm);
}

/* What is reserved to find an aligned place in it is given back: `size` more is mapped.
 */
static uint64_t mapped_bytes(void)
{
    g_autofree char *text = NULL;
    uint64_t pages = 0;

    g_assert_true(g_file_get_contents("/proc/self/statm", &text, NULL, NULL));
    g_assert_cmpint(sscanf(text, "%" G_GUINT64_FORMAT, &pages), ==, 1);
    return pages * GM_PAGE_SIZE;
}

static void no_address_space_is_kept_that_is_not_ram(void)
{
    GuestMemOptions o = {.size = 64 * MIB};
    GuestMem gm;
    uint64_t before = mapped_bytes();

    for (int i = 0; i < 100; i++) {
        g_assert_true(gm_init(&gm, &o, NULL));
        g_assert_cmpuint(mapped_bytes(), <=, before + o.size + 1 * MIB);
        gm_finish(&gm);
        g_assert_cmpuint(mapped_bytes(), <=, before + 1 * MIB);
    }
}

static void what_is_written_is_read_back_and_cleared(void)
{
    char back[6];
    GuestMem gm;

    for (int shared = 0; shared < 2; shared++) {
        two_regions(&gm, shared);
        g_assert_true(gm_write(&gm, 4 * GIB + 100, "hutch", 6));
        g_assert_true(gm_read(&gm, 4 * GIB + 100, back, 6));
        g_assert_cmpstr(back, ==, "hutch");
        g_assert_false(gm_write(&gm, 1 * MIB - 2, "hutch", 6));
        gm_clear(&gm);
        g_assert_true(gm_read(&gm, 4 * GIB + 100, back, 6));
        g_assert_cmpstr(back, ==, "");
        gm_finish(&gm);
    }
}

static void our_own_writes_are_logged_once_each_page(void)
{
    uint64_t bits[4 * MIB / GM_PAGE_SIZE / 64] = {0};
    GuestMem gm;

    two_regions(&gm, false);
    gm_mark_dirty_host(&gm, gm_at(&gm, 0, 1), 1);
    g_assert_true(gm_log_start(&gm, NULL));
    g_assert_false(gm_log_start(&gm, NULL));
    gm_mark_dirty_host(&gm, gm_at(&gm, 0x1fff, 2),
                       2); /* the pages on either side of a border */
    g_assert_true(gm_write(&gm, 4 * GIB, "x", 1));
    gm_log_fetch(&gm, bits);
    g_assert_cmphex(bits[0], ==, 0x6);
    g_assert_cmphex(bits[4], ==, 0x1); /* 4 GiB is at 1 MiB in the file */
    memset(bits, 0, sizeof(bits));
    gm_log_fetch(&gm, bits);
    g_assert_cmphex(bits[0] | bits[4], ==, 0);
    gm_finish(&gm);
}

static void sizes_that_are_no_pages_or_too_large_are_errors(void)
{
    GuestMemOptions zero = {0}, odd = {.size = 4095}, vast = {.size = BIT64(60)};
    g_autoptr(GError) error = NULL;
    GuestMem gm;

    g_assert_false(gm_init(&gm, &zero, NULL));
    g_assert_false(gm_init(&gm, &odd, NULL));
    g_assert_false(gm_init(&gm, &vast, &error));
    g_assert_nonnull(strstr(error->message, "--memory"));
    two_regions(&gm, false);
    g_assert_false(gm_add(&gm, 8 * GIB, 1 * MIB, NULL));
    gm_finish(&gm);
}

/* Not a bus error when they are first touched. */
static void huge_pages_that_the_host_does_not_have_are_an_error(void)
{
    GuestMemOptions o = {.size = BIT64(43), .hugepages = true};
    GuestMem gm;

    for (int shared = 0; shared < 2; shared++) {
        g_autoptr(GError) error = NULL;

        o.shared = shared;
        g_assert_false(gm_init(&gm, &o, &error));
        g_assert_nonnull(strstr(error->message, "huge pages"));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/guestmem/" #name, name)
    TEST(only_ranges_wholly_in_one_region_have_an_address);
    TEST(host_addresses_are_the_guests_but_for_whole_huge_pages);
    TEST(the_log_of_other_processes_has_a_bit_for_the_last_page_too);
    TEST(no_address_space_is_kept_that_is_not_ram);
    TEST(what_is_written_is_read_back_and_cleared);
    TEST(our_own_writes_are_logged_once_each_page);
    TEST(sizes_that_are_no_pages_or_too_large_are_errors);
    TEST(huge_pages_that_the_host_does_not_have_are_an_error);
    return g_test_run();
}
