/* Virtqueues with a driver that breaks the rules.  Each case is one rule broken once; for
 * all of them the promise is the same: the device is broken and says so (virtio 1.2,
 * 2.1.2), nothing was returned to the driver, nothing is served any more, and a reset
 * makes the device as good as new. */
#include "echo.h"
#include "util/bits.h"
#include "vq_guest.h"

static VqGuest g;

enum {
    SIZE = 8, /* of the queues here */
    A = 0x300000,
    B = 0x310000,
    TABLE = 0x320000,
};

typedef struct Case {
    const char *name;
    unsigned mode;
    unsigned queue; /* that breaks; 0 echoes, 2 keeps requests in flight */
    void (*act)(void);
} Case;

/* ---- split rings ------------------------------------------------------------------ */

static void desc(unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    vqg_desc(&g, 0, i, gpa, len, flags, next);
}

static void row(unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    vqg_desc_at(&g, TABLE + 16 * i, gpa, len, flags, next);
}

static void publish(uint16_t head)
{
    vqg_publish_split(&g, 0, head, 1);
}

static void s_head_past_the_table(void)
{
    publish(SIZE);
}

static void s_head_far_past_the_table(void)
{
    publish(0xffff);
}

static void s_next_past_the_table(void)
{
    desc(0, A, 4, VQG_F_NEXT, SIZE);
    publish(0);
}

static void s_descriptor_loop(void)
{
    desc(0, A, 4, VQG_F_NEXT, 1);
    desc(1, B, 4, VQG_F_NEXT, 0);
    publish(0);
}

static void s_descriptor_points_to_itself(void)
{
    desc(2, A, 4, VQG_F_NEXT, 2);
    publish(2);
}

static void s_loop_of_empty_pieces(void)
{
    desc(0, A, 0, VQG_F_NEXT, 1);
    desc(1, A, 0, VQG_F_NEXT, 0);
    publish(0);
}

static void s_available_index_jumps(void)
{
    desc(0, A, 4, 0, 0);
    vqg_publish_split(&g, 0, 0, SIZE + 1);
}

static void s_available_index_goes_back(void)
{
    desc(0, A, 4, 0, 0);
    vqg_publish_split(&g, 0, 0, (uint16_t)-1);
}

static void s_head_in_flight_is_offered_again(void)
{
    vqg_desc(&g, 2, 1, A, 4, VQG_F_WRITE, 0);
    vqg_publish_split(&g, 2, 1, 1);
    vqg_publish_split(&g, 2, 1, 1);
}

static void s_indirect_table_inside_another(void)
{
    desc(0, TABLE, 16, VQG_F_INDIRECT, 0);
    row(0, TABLE, 16, VQG_F_INDIRECT, 0);
    publish(0);
}

/* Found by fuzzing: it ran for ever while the two were told apart by their address. */
static void s_indirect_table_is_the_descriptor_table(void)
{
    desc(0, g.q[0].desc_gpa, 16 * SIZE, VQG_F_INDIRECT, 0);
    publish(0);
}

static void s_indirect_and_next(void)
{
    desc(0, TABLE, 16, VQG_F_INDIRECT | VQG_F_NEXT, 1);
    row(0, A, 4, 0, 0);
    desc(1, B, 4, 0, 0);
    publish(0);
}

static void s_indirect_next_past_its_table(void)
{
    desc(0, TABLE, 32, VQG_F_INDIRECT, 0);
    row(0, A, 4, VQG_F_NEXT, 1);
    row(1, A, 4, VQG_F_NEXT, 2);
    row(2, A, 4, 0, 0);
    publish(0);
}

static void s_indirect_loop(void)
{
    desc(0, TABLE, 32, VQG_F_INDIRECT, 0);
    row(0, A, 4, VQG_F_NEXT, 1);
    row(1, A, 4, VQG_F_NEXT, 0);
    publish(0);
}

static void s_indirect_loop_of_empty_pieces(void)
{
    desc(0, TABLE, 0x100000, VQG_F_INDIRECT, 0);
    row(0, A, 0, VQG_F_NEXT, 0);
    publish(0);
}

static void s_chain_longer_than_any_queue(void)
{
    desc(0, TABLE, 16 * (ECHO_QUEUE_SIZE + 1), VQG_F_INDIRECT, 0);
    for (unsigned i = 0; i <= ECHO_QUEUE_SIZE; i++)
        row(i, A, 4, i < ECHO_QUEUE_SIZE ? VQG_F_NEXT : 0, (uint16_t)(i + 1));
    publish(0);
}

/* ---- both layouts, in one descriptor ---------------------------------------------- */

static void one(uint64_t gpa, uint32_t len, uint16_t flags)
{
    desc(0, gpa, len, flags, 0);
    if (!g.q[0].packed)
        publish(0);
}

static void address_plus_length_wraps(void)
{
    one(UINT64_MAX - 8, 64, VQG_F_WRITE);
}

static void longest_buffer_at_the_last_address(void)
{
    one(UINT64_MAX, UINT32_MAX, 0);
}

static void buffer_outside_ram(void)
{
    one(8 * GIB, 64, VQG_F_WRITE);
}

static void buffer_in_the_hole(void)
{
    one(VQG_LOW_SIZE, 1, 0);
}

static void buffer_reaches_past_the_end_of_ram(void)
{
    one(VQG_LOW_SIZE - 8, 9, VQG_F_WRITE);
}

static void buffer_reaches_past_the_last_region(void)
{
    one(VQG_HIGH_BASE + VQG_HIGH_SIZE - 8, 9, VQG_F_WRITE);
}

static void indirect_not_negotiated(void)
{
    row(0, A, 4, 0, 0);
    one(TABLE, 16, VQG_F_INDIRECT);
}

static void indirect_length_0(void)
{
    row(0, A, 4, 0, 0);
    one(TABLE, 0, VQG_F_INDIRECT);
}

static void indirect_length_not_a_multiple_of_16(void)
{
    row(0, A, 4, 0, 0);
    one(TABLE, 17, VQG_F_INDIRECT);
}

static void indirect_length_8(void)
{
    row(0, A, 4, 0, 0);
    one(TABLE, 8, VQG_F_INDIRECT);
}

static void indirect_table_outside_ram(void)
{
    one(8 * GIB, 16, VQG_F_INDIRECT);
}

static void indirect_table_reaches_past_the_end_of_ram(void)
{
    one(VQG_LOW_SIZE - 16, 32, VQG_F_INDIRECT);
}

static void indirect_table_wraps(void)
{
    one(UINT64_MAX - 15, 32, VQG_F_INDIRECT);
}

static void indirect_row_outside_ram(void)
{
    row(0, A, 4, VQG_F_NEXT, 1);
    row(1, UINT64_MAX - 3, 4, 0, 0);
    one(TABLE, 32, VQG_F_INDIRECT);
}

static void readable_after_writable(void)
{
    row(0, A, 4, VQG_F_NEXT | VQG_F_WRITE, 1);
    row(1, B, 4, 0, 0);
    one(TABLE, 32, VQG_F_INDIRECT);
}

static void chain_of_more_than_4_gib(void)
{
    unsigned n = 4 * GIB / VQG_LOW_SIZE + 1;

    for (unsigned i = 0; i < n; i++)
        row(i, 0, VQG_LOW_SIZE, i < n - 1 ? VQG_F_NEXT : 0, (uint16_t)(i + 1));
    one(TABLE, 16 * n, VQG_F_INDIRECT);
}

/* ---- packed rings ----------------------------------------------------------------- */

static void p_id_past_the_queue(void)
{
    desc(0, A, 4, 0, SIZE);
}

static void p_id_far_past_the_queue(void)
{
    desc(0, A, 4, 0, 0xffff);
}

static void p_id_in_flight_is_offered_again(void)
{
    vqg_desc(&g, 2, 0, A, 4, VQG_F_WRITE, 3);
    vqg_desc(&g, 2, 1, A, 4, VQG_F_WRITE, 3);
}

static void p_chain_goes_round_the_ring(void)
{
    for (unsigned i = SIZE; i-- > 0;)
        desc(i, A, 4, VQG_F_NEXT, 0);
}

static void p_chain_runs_into_what_is_in_flight(void)
{
    vqg_desc(&g, 2, 0, A, 4, 0, 0);
    vqg_poke(&g, 2);
    vqg_desc(&g, 2, 0, A, 4, 0, 5); /* is not the driver's to write now */
    for (unsigned i = SIZE; i-- > 1;)
        vqg_desc(&g, 2, i, A, 4, VQG_F_NEXT, 1);
}

static void p_indirect_in_the_middle_of_a_chain(void)
{
    row(0, A, 4, 0, 0);
    desc(1, TABLE, 16, VQG_F_INDIRECT, 0);
    desc(0, A, 4, VQG_F_NEXT, 0);
}

static void p_indirect_and_next(void)
{
    row(0, A, 4, 0, 0);
    desc(1, A, 4, 0, 0);
    desc(0, TABLE, 16, VQG_F_INDIRECT | VQG_F_NEXT, 0);
}

static void p_indirect_table_inside_another(void)
{
    row(0, TABLE, 16, VQG_F_INDIRECT, 0);
    desc(0, TABLE, 16, VQG_F_INDIRECT, 0);
}

static void p_indirect_table_is_the_ring(void)
{
    desc(0, g.q[0].desc_gpa, 16 * SIZE, VQG_F_INDIRECT, 0);
}

static void p_table_longer_than_any_queue(void)
{
    for (unsigned i = 0; i <= ECHO_QUEUE_SIZE; i++)
        row(i, A, 0, 0, 0);
    desc(0, TABLE, 16 * (ECHO_QUEUE_SIZE + 1), VQG_F_INDIRECT, 0);
}

static void p_endless_table(void)
{
    desc(0, 0, (uint32_t)VQG_LOW_SIZE, VQG_F_INDIRECT, 0);
}

#define SPLIT(fn)                                                                        \
    {                                                                                    \
        "split/" #fn, VQG_INDIRECT, 0, s_##fn                                            \
    }
#define PACKED(fn)                                                                       \
    {                                                                                    \
        "packed/" #fn, VQG_PACKED | VQG_INDIRECT, 0, p_##fn                              \
    }
#define BOTH(fn)                                                                         \
    {"split/" #fn, VQG_INDIRECT, 0, fn},                                                 \
    {                                                                                    \
        "packed/" #fn, VQG_PACKED | VQG_INDIRECT, 0, fn                                  \
    }

static const Case cases[] = {
    SPLIT(head_past_the_table),
    SPLIT(head_far_past_the_table),
    SPLIT(next_past_the_table),
    SPLIT(descriptor_loop),
    SPLIT(descriptor_points_to_itself),
    SPLIT(loop_of_empty_pieces),
    SPLIT(available_index_jumps),
    SPLIT(available_index_goes_back),
    {"split/head_in_flight_is_offered_again", 0, 2, s_head_in_flight_is_offered_again},
    SPLIT(indirect_table_inside_another),
    SPLIT(indirect_table_is_the_descriptor_table),
    SPLIT(indirect_and_next),
    SPLIT(indirect_next_past_its_table),
    SPLIT(indirect_loop),
    SPLIT(indirect_loop_of_empty_pieces),
    SPLIT(chain_longer_than_any_queue),
    BOTH(address_plus_length_wraps),
    BOTH(longest_buffer_at_the_last_address),
    BOTH(buffer_outside_ram),
    BOTH(buffer_in_the_hole),
    BOTH(buffer_reaches_past_the_end_of_ram),
    BOTH(buffer_reaches_past_the_last_region),
    {"split/indirect_not_negotiated", 0, 0, indirect_not_negotiated},
    {"packed/indirect_not_negotiated", VQG_PACKED, 0, indirect_not_negotiated},
    BOTH(indirect_length_0),
    BOTH(indirect_length_not_a_multiple_of_16),
    BOTH(indirect_length_8),
    BOTH(indirect_table_outside_ram),
    BOTH(indirect_table_reaches_past_the_end_of_ram),
    BOTH(indirect_table_wraps),
    BOTH(indirect_row_outside_ram),
    BOTH(readable_after_writable),
    BOTH(chain_of_more_than_4_gib),
    PACKED(id_past_the_queue),
    PACKED(id_far_past_the_queue),
    {"packed/id_in_flight_is_offered_again", VQG_PACKED, 2,
     p_id_in_flight_is_offered_again},
    PACKED(chain_goes_round_the_ring),
    {"packed/chain_runs_into_what_is_in_flight", VQG_PACKED, 2,
     p_chain_runs_into_what_is_in_flight},
    PACKED(indirect_in_the_middle_of_a_chain),
    PACKED(indirect_and_next),
    PACKED(indirect_table_inside_another),
    PACKED(indirect_table_is_the_ring),
    PACKED(table_longer_than_any_queue),
    PACKED(endless_table),
};

/* The used part of a queue as the driver finds it: unchanged if nothing was pushed. */
static uint64_t used_part(unsigned queue)
{
    const VqgQueue *q = &g.q[queue];
    uint64_t sum = 0;

    if (!q->packed)
        return load_le16(q->device + 2);
    for (unsigned i = 0; i < q->size; i++)
        sum = sum * 31 + load_le64(q->desc + 16 * i) + load_le64(q->desc + 16 * i + 8);
    return sum;
}

static void breaks_the_device_until_it_is_reset(const void *opaque)
{
    const Case *c = opaque;
    char answer[5] = "";
    uint64_t before;

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = c->mode, .queue_size = SIZE});
    g_assert_cmpuint(vqg_do(&g, 0, "hello", 5, answer, 5), ==, 5);
    vqg_reset(&g); /* to begin at the ring's first entry */
    vqg_start(&g);

    c->act();
    before = used_part(c->queue);
    vqg_poke(&g, c->queue);
    g_assert_true(vqg_broken(&g));
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    g_assert_cmpuint(used_part(c->queue), ==, before);
    g_assert_cmpuint(vqg_interrupts(&g, c->queue), ==, 0);

    vqg_chain(&g, 1, &(VqgBuf){A, 4, IN}, 1); /* no fault of this queue */
    g_assert_false(vq_pop(&g.vdev->queues[1].vq, &(VqReq){0}));
    vqg_poke(&g, c->queue);
    g_assert_cmpuint(used_part(c->queue), ==, before);

    vqg_reset(&g);
    g_assert_cmpuint(used_part(c->queue), ==, before); /* what was in flight is dropped */
    vqg_start(&g);
    g_assert_cmpuint(vqg_do(&g, 0, "hello", 5, answer, 5), ==, 5);
    g_assert_cmpmem(answer, 5, "hello", 5);
    g_assert_false(vqg_broken(&g));
    vqg_finish(&g);
}

/* ---- rings ------------------------------------------------------------------------ */

typedef struct Geometry {
    const char *name;
    unsigned mode;
    void (*act)(VqConfig *reg);
} Geometry;

static void size_0(VqConfig *reg)
{
    reg->size = 0;
}

static void size_3(VqConfig *reg)
{
    reg->size = 3;
}

static void size_more_than_offered(VqConfig *reg)
{
    reg->size = 2 * ECHO_QUEUE_SIZE;
}

static void size_65535(VqConfig *reg)
{
    reg->size = 0xffff;
}

static void descriptors_not_aligned(VqConfig *reg)
{
    reg->desc += 8;
}

static void driver_area_not_aligned(VqConfig *reg)
{
    reg->driver += 1;
}

static void device_area_not_aligned(VqConfig *reg)
{
    reg->device += 2;
}

static void descriptors_end_past_ram(VqConfig *reg)
{
    reg->desc = VQG_LOW_SIZE - 16;
}

static void driver_area_ends_past_ram(VqConfig *reg)
{
    reg->driver = VQG_LOW_SIZE - (reg->size > 1 ? 4 : 0);
}

static void driver_area_not_in_ram(VqConfig *reg)
{
    reg->driver = VQG_LOW_SIZE;
}

static void device_area_not_in_ram(VqConfig *reg)
{
    reg->device = 0xfec00000;
}

static void used_ring_ends_past_ram(VqConfig *reg)
{
    reg->device = VQG_LOW_SIZE - 4 - 8 * SIZE + 4;
}

static void used_event_ends_past_ram(VqConfig *reg)
{
    reg->driver = VQG_LOW_SIZE - 4 - 2 * SIZE;
}

static void descriptors_wrap(VqConfig *reg)
{
    reg->desc = UINT64_MAX - 15;
}

static void device_area_wraps(VqConfig *reg)
{
    reg->device = UINT64_MAX - 3;
}

#define GEOMETRY(fn)                                                                     \
    {"split/" #fn, 0, fn},                                                               \
    {                                                                                    \
        "packed/" #fn, VQG_PACKED, fn                                                    \
    }
static const Geometry geometries[] = {
    GEOMETRY(size_0),
    {"split/size_3", 0, size_3},
    GEOMETRY(size_more_than_offered),
    GEOMETRY(size_65535),
    GEOMETRY(descriptors_not_aligned),
    GEOMETRY(driver_area_not_aligned),
    GEOMETRY(device_area_not_aligned),
    GEOMETRY(descriptors_end_past_ram),
    {"split/driver_area_ends_past_ram", 0, driver_area_ends_past_ram},
    GEOMETRY(driver_area_not_in_ram),
    GEOMETRY(device_area_not_in_ram),
    {"split/used_ring_ends_past_ram", 0, used_ring_ends_past_ram},
    {"split/used_event_ends_past_ram", VQG_EVENT_IDX, used_event_ends_past_ram},
    GEOMETRY(descriptors_wrap),
    GEOMETRY(device_area_wraps),
};

static void breaks_the_device_at_driver_ok(const void *opaque)
{
    const Geometry *c = opaque;
    char answer;

    vqg_open(&g, &virtio_echo_ops,
             &(VqgSetup){
                 .mode = c->mode | VQG_THREAD, .queue_size = SIZE, .stop_early = true});
    c->act(virtio_queue_config(g.vdev, 1));
    virtio_set_status(g.vdev, virtio_status(g.vdev) | VIRTIO_STATUS_DRIVER_OK);
    g_assert_true(vqg_broken(&g));
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    vqg_chain(&g, 0, &(VqgBuf){A, 4, OUT}, 1);
    vqg_poke(&g, 0); /* no queue of a broken device is served */
    g_assert_cmpuint(vqg_used(&g), ==, 0);

    vqg_reset(&g);
    g.setup.stop_early = false;
    vqg_start(&g);
    g_assert_cmpuint(vqg_do(&g, 0, "x", 1, &answer, 1), ==, 1);
    vqg_finish(&g);
}

/* Without EVENT_IDX the two bytes behind the available ring are the driver's own. */
static void a_ring_may_end_where_ram_ends(void)
{
    char answer;

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.queue_size = SIZE, .stop_early = true});
    virtio_queue_config(g.vdev, 1)->driver = VQG_LOW_SIZE - 4 - 2 * SIZE;
    virtio_queue_config(g.vdev, 2)->device = VQG_HIGH_BASE + VQG_HIGH_SIZE - 4 - 8 * SIZE;
    virtio_set_status(g.vdev, virtio_status(g.vdev) | VIRTIO_STATUS_DRIVER_OK);
    g_assert_false(vqg_broken(&g));
    g_assert_cmpuint(vqg_do(&g, 0, "x", 1, &answer, 1), ==, 1);
    vqg_finish(&g);
}

/* Five entries from `start` on, as the driver would offer them in that turn of the ring.
 */
static void offer_five(unsigned start, bool wrap, uint16_t id)
{
    for (unsigned i = 0; i < 5; i++)
        vqg_desc_at(&g, g.q[1].desc_gpa + 16 * ((start + i) % SIZE), A, 4,
                    VQG_F_WRITE | (i < 4 ? VQG_F_NEXT : 0) | (wrap ? 0x80 : 0x8000), id);
}

/* Until the flush the driver cannot know that they are used.  When they were counted as
 * its own again, a batch could come to more entries than the ring has, and the next to be
 * returned was written behind its end. */
static void entries_not_yet_flushed_cannot_be_offered_again(void)
{
    static VqReq req;
    Virtqueue *vq;

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_PACKED, .queue_size = SIZE});
    vq = &g.vdev->queues[1].vq;
    offer_five(0, true, 0);
    g_assert_true(vq_pop(vq, &req));
    vq_fill(vq, &req, 4);
    offer_five(5, true, 1);
    g_assert_false(vq_pop(vq, &req));
    g_assert_true(vqg_broken(&g));
    vqg_finish(&g);
}

static void add(const char *what, const char *name, const void *data,
                void (*fn)(const void *))
{
    g_autofree char *path = g_strdup_printf("/virtq_rules/%s/%s", what, name);

    g_test_add_data_func(path, data, fn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++)
        add("breaks_the_device_until_it_is_reset", cases[i].name, &cases[i],
            breaks_the_device_until_it_is_reset);
    for (unsigned i = 0; i < G_N_ELEMENTS(geometries); i++)
        add("breaks_the_device_at_driver_ok", geometries[i].name, &geometries[i],
            breaks_the_device_at_driver_ok);
    g_test_add_func("/virtq_rules/a_ring_may_end_where_ram_ends",
                    a_ring_may_end_where_ram_ends);
    g_test_add_func("/virtq_rules/entries_not_yet_flushed_cannot_be_offered_again",
                    entries_not_yet_flushed_cannot_be_offered_again);
    return g_test_run();
}
