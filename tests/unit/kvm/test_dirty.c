/* KVM's dirty log on this host: what guest code writes is reported, in the right place,
 * and nothing is lost while it goes on writing. */
#include <string.h>

#include "small_guest.h"
#include "util/bits.h"

enum {
    PAGES = (GUEST_LOW + GUEST_HIGH_SIZE) / GM_PAGE_SIZE,
    LOW_PAGES = GUEST_LOW / GM_PAGE_SIZE,
    FIRST = 0x20000 / GM_PAGE_SIZE, /* what the guest writes to, after tables and stack */
    HOT_LOW = 256,                  /* pages of each slot, powers of two */
    HOT_HIGH = 512,
};

/* Each step writes a number of its own to two pages, one in each slot, that it picks by
 * it. rbx counts; rcx is GUEST_HIGH_AT. */
extern const uint8_t writer_guest[], writer_guest_end[];
__asm__(".pushsection .rodata\n"
        "writer_guest:\n"
        "    mov $0x100000000, %rcx\n"
        "1:  inc %rbx\n"
        "    imul $73, %rbx, %rax\n"
        "    and $511, %eax\n"
        "    shl $12, %rax\n"
        "    mov %rbx, 0x18(%rcx, %rax)\n"
        "    and $0xfffff, %eax\n"
        "    mov %rbx, 0x20010(%rax)\n"
        "    mov %rbx, (%rsi)\n"
        "    jmp 1b\n"
        "writer_guest_end:\n"
        ".popsection\n");

typedef uint64_t Bitmap[PAGES / 64];

static bool has_page(const Bitmap bits, unsigned page)
{
    return bits[page / 64] & BIT64(page % 64);
}

static void fetch(SmallGuest *g, Bitmap bits)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(kvm_dirty_fetch(g->kvm, bits, &error));
    g_assert_no_error(error);
}

static void start(SmallGuest *g)
{
    g_autoptr(GError) error = NULL;

    guest_put(g, GUEST_CODE, writer_guest, (size_t)(writer_guest_end - writer_guest));
    g_assert_true(kvm_dirty_start(g->kvm, &error));
    g_assert_no_error(error);
}

static void wait_for(SmallGuest *g, uint64_t count)
{
    while (guest_word(g, GUEST_DATA) < count)
        g_usleep(100);
}

static void pages_that_the_guest_wrote_are_reported_where_they_are(void)
{
    Bitmap bits = {0}, again = {0};
    SmallGuest g;

    if (!guest_set_up(&g))
        return;
    start(&g);
    guest_run(&g);
    wait_for(&g, 100);
    guest_park(&g);
    fetch(&g, bits);
    for (uint64_t n = 1; n <= 100; n++) {
        g_assert_true(has_page(bits, FIRST + (unsigned)(n * 73 % HOT_LOW)));
        g_assert_true(has_page(bits, LOW_PAGES + (unsigned)(n * 73 % HOT_HIGH)));
    }
    for (unsigned page = FIRST + HOT_LOW; page < LOW_PAGES; page++)
        g_assert_false(has_page(bits, page));
    fetch(&g, again);
    for (unsigned i = 0; i < G_N_ELEMENTS(again); i++)
        g_assert_cmphex(again[i], ==, 0);
    guest_tear_down(&g);
}

static void copy_reported(SmallGuest *g, const Bitmap bits, uint8_t *copy)
{
    for (size_t page = 0; page < PAGES; page++)
        if (has_page(bits, (unsigned)page))
            memcpy(copy + page * GM_PAGE_SIZE, g->gm.base + page * GM_PAGE_SIZE,
                   GM_PAGE_SIZE);
}

/* What a snapshot does: it fetches while the guest runs, and once more in a pause.  A
 * copy of what was reported must then be the memory.  The pause follows at once, before
 * the guest comes round to a page that was lost and writes it again. */
static void nothing_is_lost_while_the_guest_writes(void)
{
    enum { ROUNDS = 500, RUN_US = 300 };
    g_autofree uint8_t *copy = g_malloc((size_t)PAGES * GM_PAGE_SIZE);
    SmallGuest g;

    if (!guest_set_up(&g))
        return;
    start(&g);
    memcpy(copy, g.gm.base, (size_t)PAGES * GM_PAGE_SIZE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        Bitmap bits = {0};

        guest_run(&g);
        g_usleep(RUN_US);
        fetch(&g, bits);
        guest_park(&g);
        fetch(&g, bits);
        copy_reported(&g, bits, copy);
        g_assert_cmpint(memcmp(copy, g.gm.base, (size_t)PAGES * GM_PAGE_SIZE), ==, 0);
    }
    g_assert_cmpuint(guest_word(&g, GUEST_DATA), >, HOT_HIGH);
    guest_tear_down(&g);
}

static void a_log_that_was_stopped_can_be_started_again(void)
{
    Bitmap bits = {0};
    g_autoptr(GError) error = NULL;
    SmallGuest g;

    if (!guest_set_up(&g))
        return;
    g_assert_false(kvm_dirty_fetch(g.kvm, bits, NULL));
    start(&g);
    g_assert_false(kvm_dirty_start(g.kvm, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    kvm_dirty_stop(g.kvm);
    kvm_dirty_stop(g.kvm);
    start(&g);
    guest_run(&g);
    wait_for(&g, 1);
    guest_park(&g);
    fetch(&g, bits);
    g_assert_true(has_page(bits, GUEST_DATA / GM_PAGE_SIZE));
    guest_tear_down(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/dirty/" #name, name)
    TEST(pages_that_the_guest_wrote_are_reported_where_they_are);
    TEST(nothing_is_lost_while_the_guest_writes);
    TEST(a_log_that_was_stopped_can_be_started_again);
    return g_test_run();
}
