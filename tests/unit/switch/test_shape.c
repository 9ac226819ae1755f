/* Token buckets. */
#include "src/switch/shape.h"

#include <glib.h>

static const int64_t s = 1000000000, begin = 77 * s;

static Frame frame_of(size_t len)
{
    return (Frame){.len = len};
}

/* How much of a flood of frames of `len` bytes passes within `ns`. */
static uint64_t flood(Shape *shape, size_t len, int64_t from_ns, int64_t ns)
{
    Frame f = frame_of(len);
    uint64_t passed = 0;

    for (int64_t t = from_ns; t < from_ns + ns; t += 1000)
        passed += shape_admit(shape, &f, t) ? len : 0;
    return passed;
}

static void a_flood_is_cut_to_the_rate(void)
{
    static const size_t lens[] = {60, 1514, 65549};

    for (unsigned i = 0; i < G_N_ELEMENTS(lens); i++) {
        ShapeOptions o = {.bytes_per_s = 10000000, .burst_bytes = 20000};
        Shape *shape = shape_new(&o, NULL);
        uint64_t passed = flood(shape, lens[i], begin, s);

        g_assert_cmpuint(passed, >=, 10000000 - lens[i]);
        g_assert_cmpuint(passed, <=, 10000000 + 20000 + lens[i]);
        shape_free(shape);
    }
}

static void a_burst_passes_at_once_and_is_filled_again(void)
{
    ShapeOptions o = {.frames_per_s = 100, .burst_frames = 25};
    Shape *shape = shape_new(&o, NULL);
    Frame f = frame_of(60);
    unsigned n = 0;

    while (shape_admit(shape, &f, begin))
        n++;
    g_assert_cmpuint(n, ==, 25);
    n = (unsigned)flood(shape, 1, begin, s);
    g_assert_cmpuint(n, >=, 100);
    g_assert_cmpuint(n, <=, 101);
    for (n = 0; shape_admit(shape, &f, begin + 60 * s); n++)
        ;
    g_assert_cmpuint(n, ==, 25); /* a minute of silence saves no more */
    shape_free(shape);
}

static void a_burst_that_is_not_given_is_a_tenth_of_a_second(void)
{
    ShapeOptions o = {.bytes_per_s = 150000};
    Shape *shape = shape_new(&o, NULL);
    Frame f = frame_of(1500);
    unsigned n = 0;

    while (shape_admit(shape, &f, begin))
        n++;
    g_assert_cmpuint(n, ==, 10);
    shape_free(shape);
}

/* 64 KiB as one segment are no way around a limit of frames, nor of bytes. */
static void a_segment_counts_as_its_frames(void)
{
    ShapeOptions o = {.frames_per_s = 1000, .burst_frames = 100};
    Shape *shape = shape_new(&o, NULL);
    Frame f = frame_of(54 + 45 * 1000);
    unsigned n = 0;

    f.hdr.gso_type = VNET_GSO_TCPV4;
    f.hdr.gso_size = 1000;
    f.p.transport = 34;
    f.p.payload = 54;
    while (shape_admit(shape, &f, begin))
        n++;
    g_assert_cmpuint(n, ==, 3); /* 45, 90, 135 */
    g_assert_false(shape_admit(shape, &f, begin + 34 * s / 1000));
    g_assert_true(shape_admit(shape, &f, begin + 36 * s / 1000));
    shape_free(shape);
}

static void a_new_rate_gives_no_second_burst(void)
{
    ShapeOptions o = {.frames_per_s = 100, .burst_frames = 10};
    Shape *old = shape_new(&o, NULL), *shape;
    Frame f = frame_of(60);

    while (shape_admit(old, &f, begin))
        ;
    o.frames_per_s = 1000;
    shape = shape_new(&o, old);
    shape_free(old);
    g_assert_cmpuint(shape_options(shape)->frames_per_s, ==, 1000);
    g_assert_false(shape_admit(shape, &f, begin));
    g_assert_true(shape_admit(shape, &f, begin + 2 * s / 1000));
    shape_free(shape);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shape/a_flood_is_cut_to_the_rate", a_flood_is_cut_to_the_rate);
    g_test_add_func("/shape/a_burst_passes_at_once_and_is_filled_again",
                    a_burst_passes_at_once_and_is_filled_again);
    g_test_add_func("/shape/a_burst_that_is_not_given_is_a_tenth_of_a_second",
                    a_burst_that_is_not_given_is_a_tenth_of_a_second);
    g_test_add_func("/shape/a_segment_counts_as_its_frames",
                    a_segment_counts_as_its_frames);
    g_test_add_func("/shape/a_new_rate_gives_no_second_burst",
                    a_new_rate_gives_no_second_burst);
    return g_test_run();
}
