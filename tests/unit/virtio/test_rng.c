/* virtio-rng (virtio 1.2, 5.4). */
#include "util/bits.h"
#include "virtio/devices.h"
#include "vq_guest.h"

static VqGuest g;

static void open_mode(unsigned mode)
{
    vqg_open(&g, &virtio_rng_ops, &(VqgSetup){.mode = mode});
}

static unsigned zero_bytes(const uint8_t *at, size_t len)
{
    unsigned n = 0;

    for (size_t i = 0; i < len; i++)
        n += !at[i];
    return n;
}

static void every_layout_gets_random_bytes(void)
{
    static uint8_t a[4096], b[4096];

    for (unsigned m = 0; m < 2 * VQG_N_MODES; m++) {
        open_mode(vqg_modes[m / 2] | (m % 2 ? VQG_THREAD : 0));
        g_assert_cmpuint(vqg_do(&g, 0, NULL, 0, a, sizeof(a)), ==, sizeof(a));
        g_assert_cmpuint(vqg_do(&g, 0, NULL, 0, b, sizeof(b)), ==, sizeof(b));
        g_assert_cmpuint(zero_bytes(a, sizeof(a)), <, 100);
        g_assert_cmpint(memcmp(a, b, sizeof(a)), !=, 0);
        vqg_finish(&g);
    }
}

static void all_pieces_are_filled(void)
{
    VqgUsed used;
    uint64_t at;

    open_mode(0);
    at = vqg_alloc(&g, 0x3000);
    vqg_chain(&g, 0, (VqgBuf[]){{at, 1000, IN}, {at + 0x1000, 2000, IN}}, 2);
    vqg_kick(&g);
    g_assert_true(vqg_take(&g, 0, &used));
    g_assert_cmpuint(used.len, ==, 3000);
    g_assert_cmpuint(zero_bytes(vqg_mem(&g, at, 1000), 1000), <, 100);
    g_assert_cmpuint(zero_bytes(vqg_mem(&g, at + 1000, 0xc00), 0xc00), ==, 0xc00);
    g_assert_cmpuint(zero_bytes(vqg_mem(&g, at + 0x1000, 2000), 2000), <, 100);
    g_assert_cmpuint(vqg_interrupts(&g, 0), ==, 1);
    vqg_finish(&g);
}

static void a_request_gets_64_kib_at_most(void)
{
    VqgUsed used;
    uint64_t at;

    open_mode(0);
    at = vqg_alloc(&g, 16 * MIB);
    vqg_chain(&g, 0, (VqgBuf[]){{at, 1000, IN}, {at, 16 * MIB, IN}}, 2);
    vqg_kick(&g);
    g_assert_true(vqg_take(&g, 0, &used));
    g_assert_cmpuint(used.len, ==, 64 * KIB);
    g_assert_cmpuint(zero_bytes(vqg_mem(&g, at + 64 * KIB, MIB), MIB), ==, MIB);
    vqg_finish(&g);
}

/* Each request is answered, also one that asks for nothing. */
static void what_the_driver_wrote_is_left_alone(void)
{
    VqgUsed used;

    open_mode(0);
    memset(vqg_mem(&g, 0x300000, 16), 0, 16);
    vqg_offer(&g, 0x300000, 16, OUT);
    vqg_kick(&g);
    g_assert_true(vqg_take(&g, 0, &used));
    g_assert_cmpuint(used.len, ==, 0);
    g_assert_cmpuint(zero_bytes(vqg_mem(&g, 0x300000, 16), 16), ==, 16);
    g_assert_false(vqg_broken(&g));
    vqg_finish(&g);
}

static void buffer_outside_ram_breaks_the_device_not_the_monitor(void)
{
    open_mode(0);
    vqg_offer(&g, UINT64_MAX - 8, 64, IN);
    vqg_kick(&g);
    g_assert_true(vqg_broken(&g));
    g_assert_cmpuint(vqg_used(&g), ==, 0);
    vqg_finish(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/rng/" #fn, fn)
    TEST(every_layout_gets_random_bytes);
    TEST(all_pieces_are_filled);
    TEST(a_request_gets_64_kib_at_most);
    TEST(what_the_driver_wrote_is_left_alone);
    TEST(buffer_outside_ram_breaks_the_device_not_the_monitor);
    return g_test_run();
}
