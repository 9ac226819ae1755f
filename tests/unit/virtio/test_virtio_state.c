/* Any virtio device in a saved state: virtio/state.c and virtq.c, by an echo device over
 * the same guest memory before and after. */
#include "echo.h"
#include "state_edit.h"
#include "util/bits.h"
#include "util/log.h"
#include "vq_guest.h"

#include <string.h>

static VqGuest g;

static void open_mode(unsigned mode, uint16_t queue_size)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = mode, .queue_size = queue_size});
}

/* ---- what a driver sees -------------------------------------------------------------
 */

enum { MANY = 400, ROOM = 16 };

/* Each request carries its number there and back. */
typedef struct Traffic {
    uint64_t out, in; /* ROOM slots of 4 bytes */
    uint32_t number[VQ_MAX_SIZE];
    unsigned slot[VQ_MAX_SIZE];
    bool busy[ROOM];
    bool answered[MANY];
    unsigned sent, done;
} Traffic;

static void send(Traffic *t)
{
    unsigned slot = 0, token;

    while (slot < ROOM && t->busy[slot])
        slot++;
    if (slot == ROOM || t->sent == MANY || g.q[0].n_free < 2)
        return;
    t->busy[slot] = true;
    memcpy(vqg_mem(&g, t->out + 4 * slot, 4), &t->sent, 4);
    memset(vqg_mem(&g, t->in + 4 * slot, 4), 0xff, 4);
    token = vqg_chain(
        &g, 0, (VqgBuf[]){{t->out + 4 * slot, 4, OUT}, {t->in + 4 * slot, 4, IN}}, 2);
    t->number[token] = t->sent++;
    t->slot[token] = slot;
}

static void collect(Traffic *t)
{
    VqgUsed used;

    while (vqg_used(&g) && vqg_take(&g, 0, &used)) {
        uint32_t number = t->number[used.token];

        g_assert_cmpuint(used.len, ==, 4);
        g_assert_cmpmem(vqg_mem(&g, t->in + 4 * t->slot[used.token], 4), 4, &number, 4);
        g_assert_false(t->answered[number]);
        t->answered[number] = true;
        t->busy[t->slot[used.token]] = false;
        t->done++;
    }
}

static void traffic(unsigned mode, uint16_t queue_size)
{
    static Traffic t;
    unsigned idle = 0;

    open_mode(mode, queue_size);
    memset(&t, 0, sizeof(t));
    t.out = vqg_alloc(&g, 4 * ROOM);
    t.in = vqg_alloc(&g, 4 * ROOM);
    while (t.done < MANY && idle < 1000) {
        unsigned before = t.done;

        switch (g_test_rand_int_range(0, 6)) {
        case 0:
            vqg_kick(&g);
            break;
        case 1:
            vqg_restore(&g);
            break;
        case 2:
            collect(&t);
            break;
        default:
            send(&t);
        }
        idle = t.done > before ? 0 : idle + 1;
    }
    g_assert_cmpuint(t.done, ==, MANY);
    g_assert_false(vqg_broken(&g));
    vqg_finish(&g);
}

static void no_request_is_lost_or_done_twice(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        traffic(vqg_modes[m], 0);
        traffic(vqg_modes[m], 4);
        traffic(vqg_modes[m] | VQG_THREAD, 8);
        if (vqg_modes[m] & VQG_PACKED)
            traffic(vqg_modes[m], 7);
    }
}

/* The interrupt that was wanted comes, and one that was not, does not. */
static void interrupts_go_on_as_they_were(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        char answer[4];

        open_mode(vqg_modes[m], 8);
        for (unsigned i = 0; i < 20; i++) {
            unsigned before = vqg_interrupts(&g, 0);

            vqg_restore(&g);
            g_assert_cmpuint(vqg_interrupts(&g, 0), ==, before);
            vqg_want_interrupts(&g, 0, i % 2);
            vqg_do(&g, 0, "ping", 4, answer, 4);
            g_assert_cmpuint(vqg_interrupts(&g, 0), ==, before + i % 2);
        }
        vqg_finish(&g);
    }
}

static void registers_before_the_driver_runs_are_kept(void)
{
    VirtioDevice *v;
    char answer[4];

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.stop_early = true, .queue_size = 16});
    g.vdev->feature_select[0] = 7;
    vqg_restore(&g);
    v = g.vdev;
    g_assert_cmphex(virtio_status(v), ==, 0xb);
    g_assert_cmpuint(v->feature_select[0], ==, 7);
    g_assert_cmpuint(virtio_queue_peek(v, 0)->size, ==, 16);
    g_assert_cmphex(virtio_queue_peek(v, 1)->desc, ==, g.q[1].desc_gpa);
    virtio_set_status(v, 0xf);
    g_assert_cmpuint(vqg_do(&g, 0, "ping", 4, answer, 4), ==, 4);
    vqg_finish(&g);
}

static void a_broken_device_stays_broken_until_it_is_reset(void)
{
    char answer[4];

    open_mode(0, 0);
    vqg_offer(&g, UINT64_MAX - 8, 64, IN);
    vqg_kick(&g);
    g_assert_true(vqg_broken(&g));
    vqg_restore(&g);
    g_assert_true(vqg_broken(&g));
    vqg_reset(&g);
    vqg_start(&g);
    g_assert_cmpuint(vqg_do(&g, 0, "ping", 4, answer, 4), ==, 4);
    vqg_finish(&g);
}

/* ---- what a hostile state can do ----------------------------------------------------
 */

enum { OUTSIDE = 0x7f000000 };

static const struct {
    const char *path;
    unsigned index;
    uint64_t value;
    const char *refused; /* part of the sentence; NULL: only the device breaks */
} lies[] = {
    {"status", 0, 0x07, "without features agreed on"},
    {"status", 0, 0x0b, "queue 0 runs"},
    {"status", 0, 0x4f, "queue 0 runs"},
    {"features", 0, BIT64(VIRTIO_F_VERSION_1) | 1 << 5, "does not have here (bits 0x20)"},
    {"features", 0, 1, "older than virtio 1.0"},
    {"device", 0, 2, "of kind 2"},
    {"queue.avail_idx", 0, 303, "no position in it"},
    {"queue.avail_idx", 0, 5, "has 2 entries in flight, and the state tells of 0"},
    {"queue.used_idx", 0, 1, "has 2 entries in flight"},
    {"queue.avail_wrap", 0, 1, "no position in it"},
    {"queue.enabled", 0, 0, "queue 0 runs"},
    {"queue.size", 0, 3, NULL},
    {"queue.size", 0, 512, NULL},
    {"queue.desc", 0, OUTSIDE, NULL},
    {"queue.desc", 0, 0x10008, NULL},
    {"queue.driver", 0, UINT64_MAX - 1, NULL},
    {"queue.device", 0, VQG_LOW_SIZE - 4, NULL},
};

/* A device that has done three requests, in a state, and gone. */
static GBytes *saved(unsigned mode)
{
    GBytes *state;
    char answer[4];

    open_mode(mode, 16);
    for (unsigned i = 0; i < 3; i++)
        vqg_do(&g, 0, "ping", 4, answer, 4);
    state = vqg_save(&g);
    vqg_replace(&g, NULL);
    return state;
}

static void works_after_a_reset(void)
{
    char answer[4];

    vqg_reset(&g);
    vqg_start(&g);
    g_assert_cmpuint(vqg_do(&g, 0, "ping", 4, answer, 4), ==, 4);
}

static void a_state_that_lies_is_refused_or_breaks_the_device(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(GBytes) state = saved(0);
        g_autoptr(GBytes) lie = edit_state(state, "echo/virtio", lies[i].path,
                                           lies[i].index, lies[i].value);
        g_autoptr(GError) error = NULL;
        bool loaded = vqg_load(&g, lie, &error);

        g_assert_cmpint(loaded, ==, !lies[i].refused);
        if (lies[i].refused) {
            g_assert_nonnull(strstr(error->message, lies[i].refused));
            g_assert_true(g_str_has_prefix(error->message, "echo: "));
        } else {
            unsigned told = vqg_config_interrupts(&g);

            g_assert_true(vqg_broken(&g));
            vqg_resume(&g);
            g_assert_cmpuint(vqg_config_interrupts(&g), ==, told + 1);
            works_after_a_reset();
        }
        vqg_finish(&g);
    }
}

/* Both indices far from the driver's: nothing in the state says so. */
static void an_index_far_away_breaks_the_device_when_it_goes_on(void)
{
    g_autoptr(GBytes) state = saved(0);
    g_autoptr(GBytes) half = edit_state(state, "echo/virtio", "queue.used_idx", 0, 1000);
    g_autoptr(GBytes) lie = edit_state(half, "echo/virtio", "queue.avail_idx", 0, 1000);
    GError *error = NULL;

    vqg_load(&g, lie, &error);
    g_assert_no_error(error);
    g_assert_false(vqg_broken(&g));
    vqg_resume(&g);
    g_assert_true(vqg_broken(&g));
    works_after_a_reset();
    vqg_finish(&g);
}

/* Any integers in any fields: refused, broken, or served; never worse. */
static void random_states_do_no_harm(void)
{
    static const char *const paths[] = {
        "status",        "features",       "device",           "queue.desc",
        "queue.driver",  "queue.device",   "queue.size",       "queue.avail_idx",
        "queue.enabled", "queue.used_idx", "queue.avail_wrap", "queue.used_wrap",
    };

    for (unsigned i = 0; i < 300; i++) {
        g_autoptr(GBytes) state = saved(vqg_modes[i % VQG_N_MODES]);

        for (int n = g_test_rand_int_range(1, 4); n > 0; n--) {
            uint64_t value = (uint64_t)(uint32_t)g_test_rand_int() >>
                             g_test_rand_int_range(0, 32);
            const char *path = paths[g_test_rand_int_range(0, G_N_ELEMENTS(paths))];
            GBytes *next = edit_state(
                state, "echo/virtio", path, 0,
                strstr(path, "wrap") || strstr(path, "enabled") ? value & 1 : value);

            if (next) {
                g_bytes_unref(state);
                state = next;
            }
        }
        if (vqg_load(&g, state, NULL)) {
            vqg_resume(&g);
            works_after_a_reset();
        }
        vqg_finish(&g);
    }
}

static void another_number_of_queues_is_refused(void)
{
    g_autoptr(GBytes) state = saved(0);
    g_autoptr(GError) error = NULL;

    g.vdev->n_queues--;
    g_assert_false(vqg_load(&g, state, &error));
    g_assert_nonnull(strstr(error->message, "queues, and this one has 2"));
    g.vdev->n_queues++;
    vqg_finish(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR); /* broken on purpose, many times */
    g_test_add_func("/virtio-state/traffic", no_request_is_lost_or_done_twice);
    g_test_add_func("/virtio-state/interrupts", interrupts_go_on_as_they_were);
    g_test_add_func("/virtio-state/registers", registers_before_the_driver_runs_are_kept);
    g_test_add_func("/virtio-state/broken",
                    a_broken_device_stays_broken_until_it_is_reset);
    g_test_add_func("/virtio-state/lies",
                    a_state_that_lies_is_refused_or_breaks_the_device);
    g_test_add_func("/virtio-state/far-index",
                    an_index_far_away_breaks_the_device_when_it_goes_on);
    g_test_add_func("/virtio-state/random", random_states_do_no_harm);
    g_test_add_func("/virtio-state/queues", another_number_of_queues_is_refused);
    return g_test_run();
}
