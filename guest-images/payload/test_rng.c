/* virtio-rng: virtio 1.2, 5.4.  The bytes must come, and must differ. */
#include "virtio.h"

static void exercise(VirtioDevice *d, uint64_t mode)
{
    static Virtq q;
    static uint8_t first[64], second[64];
    Buffer into_first = {first, sizeof(first), true};
    Buffer into_second[] = {{second, 32, true}, {second + 32, 32, true}};

    virtio_start(d, mode);
    virtq_init(&q, d, 0, 0);
    virtio_driver_ok(d);

    memset(first, 0, sizeof(first));
    memset(second, 0, sizeof(second));
    uint32_t got = virtq_do(&q, &into_first, 1);
    CHECK(got > 0 && got <= 64, "%s: %u bytes of 64", ring_mode_name(mode), got);
    uint32_t more = virtq_do(&q, into_second, 2);
    CHECK(more > 0 && more <= 64, "%s: %u bytes of 64", ring_mode_name(mode), more);
    CHECK(memcmp(first, second, got < more ? got : more), "the same bytes twice");
    print("rng %s first=%u second=%u\n", ring_mode_name(mode), got, more);
}

static void test_rng(void)
{
    in_every_ring_mode(virtio_find(VIRTIO_RNG, (unsigned)arg_number("dev", 0)), exercise);
}

const Test tests_rng[] = {
    {"rng", test_rng},
    {NULL, NULL},
};
