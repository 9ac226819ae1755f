/* Counters and histograms. */
#include "util/counter.h"

#include <glib.h>
#include <pthread.h>
#include <string.h>

static void every_duration_is_in_the_bucket_whose_bounds_hold_it(void)
{
    const uint64_t interesting[] = {0, 1, 1023, 1024, 1025, 1000000, UINT64_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(interesting); i++) {
        unsigned b = histogram_bucket(interesting[i]);

        g_assert_cmpuint(interesting[i], <=,
                         histogram_bound(b) - (b < HISTOGRAM_BUCKETS - 1));
        g_assert_true(!b || interesting[i] >= histogram_bound(b - 1));
    }
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS - 1; b++) {
        g_assert_cmpuint(histogram_bucket(histogram_bound(b) - 1), ==, b);
        g_assert_cmpuint(histogram_bucket(histogram_bound(b)), ==, b + 1);
    }
}

static void bounds_go_from_a_microsecond_to_seconds(void)
{
    g_assert_cmpuint(histogram_bound(0), ==, 1024);
    g_assert_cmpuint(histogram_bound(HISTOGRAM_BUCKETS - 2), ==, 1ull << 33);
    g_assert_cmpuint(histogram_bound(HISTOGRAM_BUCKETS - 1), ==, UINT64_MAX);
}

static void a_histogram_counts_each_once(void)
{
    Histogram h = {0};
    uint64_t sum = 0;

    for (uint64_t ns = 1; ns; ns <<= 1)
        histogram_add(&h, ns);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        sum += h.bucket[i];
    g_assert_cmpuint(sum, ==, 64);
    g_assert_cmpuint(h.bucket[0], ==, 10); /* 1 to 512 */
    g_assert_cmpuint(h.bucket[1], ==, 1);
    g_assert_cmpuint(h.bucket[HISTOGRAM_BUCKETS - 1], ==, 31); /* 2^33 and on */
}

enum { STEPS = 1000000 };

static void *count_up(void *counter)
{
    for (unsigned i = 0; i < STEPS; i++)
        counter_add(counter, 1);
    return NULL;
}

/* Under ThreadSanitizer, too. */
static void a_reader_sees_a_counter_only_grow(void)
{
    uint64_t counter = 0, before = 0;
    pthread_t writer;

    pthread_create(&writer, NULL, count_up, &counter);
    while (before < STEPS) {
        uint64_t now = counter_read(&counter);

        g_assert_cmpuint(now, >=, before);
        before = now;
    }
    pthread_join(writer, NULL);
    g_assert_cmpuint(counter, ==, STEPS);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/util/counter/" #name, name)
    TEST(every_duration_is_in_the_bucket_whose_bounds_hold_it);
    TEST(bounds_go_from_a_microsecond_to_seconds);
    TEST(a_histogram_counts_each_once);
    TEST(a_reader_sees_a_counter_only_grow);
    return g_test_run();
}
