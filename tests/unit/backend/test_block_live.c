/* Disks that change under a guest that goes on reading and writing. */
#include <stdlib.h>
#include <string.h>

#include "backend/blockjob.h"
#include "backend/image.h"
#include "tests/unit/backend/scratch.h"
#include "util/bits.h"

enum { BLOCK = 4096, BLOCKS = 4096, SLOTS = 8 };
#define SIZE ((uint64_t)BLOCK * BLOCKS)

/* ---- a guest: writes blocks that say who they are, and remembers ----------------------
 */

typedef struct Guest Guest;
typedef struct Slot {
    BlockReq req;
    Guest *guest;
    struct iovec iov;
    uint32_t block;
    uint64_t value; /* what the block is to say; 0: zeroes */
    bool busy;
} Slot;

struct Guest {
    BlockDev *dev;
    IoLoop *loop;
    BlockQueue *q;
    Slot slot[SLOTS];
    uint64_t said[BLOCKS]; /* the last that was answered */
    bool taken[BLOCKS];
    uint64_t generation, n_done, n_wrong;
    GRand *rand;
    bool stop;
    IoPost post;
    unsigned n_busy;
    int failed;
};

static void fill(uint64_t *buf, uint32_t block, uint64_t value)
{
    for (unsigned i = 0; i < BLOCK / 8; i++)
        buf[i] = value ? value * 0x9e3779b97f4a7c15 + block * 512ull + i : 0;
}

static bool says(const uint64_t *buf, uint32_t block, uint64_t value)
{
    for (unsigned i = 0; i < BLOCK / 8; i++)
        if (buf[i] != (value ? value * 0x9e3779b97f4a7c15 + block * 512ull + i : 0))
            return false;
    return true;
}

static void next(Slot *s);

static void on_done(BlockReq *req, int err)
{
    Slot *s = (Slot *)req;
    Guest *g = s->guest;

    if (err)
        g->failed = err;
    if (req->op == BLOCK_READ)
        g->n_wrong += !says(s->iov.iov_base, s->block, g->said[s->block]);
    else
        g->said[s->block] = s->value;
    g->taken[s->block] = false;
    s->busy = false;
    g->n_busy--;
    __atomic_fetch_add(&g->n_done, 1, __ATOMIC_RELAXED);
    if (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED))
        next(s);
}

static void next(Slot *s)
{
    Guest *g = s->guest;
    unsigned what = g_rand_int_range(g->rand, 0, 16);

    do
        s->block = (uint32_t)g_rand_int_range(g->rand, 0, BLOCKS);
    while (g->taken[s->block]);
    g->taken[s->block] = s->busy = true;
    g->n_busy++;
    s->req = (BlockReq){.op = what < 6    ? BLOCK_READ
                              : what == 6 ? BLOCK_WRITE_ZEROES
                                          : BLOCK_WRITE,
                        .offset = (uint64_t)s->block * BLOCK,
                        .len = BLOCK,
                        .iov = &s->iov,
                        .n_iov = 1,
                        .may_unmap = what & 1,
                        .done = on_done};
    s->value = s->req.op == BLOCK_WRITE ? ++g->generation : 0;
    if (s->req.op == BLOCK_WRITE)
        fill(s->iov.iov_base, s->block, s->value);
    block_submit(g->q, &s->req);
    block_commit(g->q);
}

static void make_queue(void *opaque)
{
    Guest *g = opaque;

    g->q = block_queue_new(g->dev, g->loop, SLOTS, NULL);
    g_assert_nonnull(g->q);
}

static void begin(void *opaque)
{
    Guest *g = opaque;

    for (unsigned i = 0; i < SLOTS; i++)
        next(&g->slot[i]);
}

static void end(void *opaque)
{
    Guest *g = opaque;

    block_drain(g->q);
}

static void check_all(void *opaque)
{
    Guest *g = opaque;
    Slot *s = &g->slot[0];

    for (s->block = 0; s->block < BLOCKS; s->block++) {
        s->req = (BlockReq){.op = BLOCK_READ,
                            .offset = (uint64_t)s->block * BLOCK,
                            .len = BLOCK,
                            .iov = &s->iov,
                            .n_iov = 1,
                            .done = on_done};
        g->n_busy++;
        block_submit(g->q, &s->req);
        block_drain(g->q);
    }
}

static void guest_start(Guest *g, BlockDev *dev)
{
    memset(g, 0, sizeof(*g));
    g->dev = dev;
    g->rand = g_rand_new_with_seed((guint32)g_test_rand_int());
    g->loop = ioloop_start("guest", NULL);
    for (unsigned i = 0; i < SLOTS; i++) {
        g->slot[i].guest = g;
        g->slot[i].iov = (struct iovec){aligned_alloc(4096, BLOCK), BLOCK};
    }
    ioloop_call(g->loop, make_queue, g);
    ioloop_call(g->loop, begin, g);
}

/* Waits until it has got on by n requests. */
static void guest_goes_on(Guest *g, uint64_t n)
{
    uint64_t from = __atomic_load_n(&g->n_done, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < 2000; i++) {
        if (__atomic_load_n(&g->n_done, __ATOMIC_RELAXED) >= from + n)
            return;
        g_usleep(5000);
    }
    g_error("the guest's requests stand still");
}

static void free_queue(void *opaque)
{
    block_queue_free(((Guest *)opaque)->q);
}

static void guest_stop(Guest *g)
{
    __atomic_store_n(&g->stop, true, __ATOMIC_RELAXED);
    ioloop_call(g->loop, end, g);
    g_assert_cmpuint(g->n_busy, ==, 0);
    ioloop_call(g->loop, check_all, g);
    g_assert_cmpint(g->failed, ==, 0);
    g_assert_cmpuint(g->n_wrong, ==, 0);
    ioloop_call(g->loop, free_queue, g);
    ioloop_free(g->loop);
    for (unsigned i = 0; i < SLOTS; i++)
        free(g->slot[i].iov.iov_base);
    g_rand_free(g->rand);
}

/* ---- images
 * ---------------------------------------------------------------------------- */

static char *new_image(const char *dir, const char *name, int format, const char *backing,
                       const char *backing_format)
{
    char *path = g_build_filename(dir, name, NULL);
    ImageCreate *how = param_new(&image_create_params);
    g_autoptr(GError) error = NULL;

    how->path = g_strdup(path);
    how->format = format;
    how->size = SIZE;
    how->backing = g_strdup(backing);
    how->backing_format = g_strdup(backing_format);
    image_create(how, &error);
    g_assert_no_error(error);
    param_free(&image_create_params, how);
    return path;
}

static BlockDev *open_disk(char *path, int format)
{
    BlockOptions o = {
        .path = path, .format = format, .lock = true, .cache = BLOCK_CACHE_WRITEBACK};
    g_autoptr(GError) error = NULL;
    BlockDev *dev = block_open(&o, &error);

    g_assert_no_error(error);
    return dev;
}

/* What the image's own file and what is below it say, opened anew. */
static void image_says(char *path, int format, const uint64_t said[BLOCKS])
{
    BlockOptions o = {.path = path,
                      .format = format,
                      .readonly = true,
                      .lock = true,
                      .cache = BLOCK_CACHE_WRITEBACK};
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockImage) img = image_open(&o, 0, &error);
    g_autofree uint64_t *buf = g_malloc(BLOCK);

    g_assert_no_error(error);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        g_assert_cmpint(image_read(img, (uint64_t)i * BLOCK, buf, BLOCK), ==, 0);
        if (!says(buf, i, said[i]))
            g_error("%s: block %u is not what the guest wrote last", path, i);
    }
}

static void image_is_sound(const char *path)
{
    g_autofree char *cmd = g_strdup_printf("qemu-img check -f qcow2 '%s'", path);
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status = 0;

    if (!g_spawn_command_line_sync(cmd, &out, &err, &status, &error))
        return; /* no qemu-img here; the other tests read it back */
    if (status)
        g_error("%s%s", out, err);
}

static void wait_job(BlockDev *dev)
{
    BlockJobInfo info;

    block_job_wait(dev);
    g_assert_true(block_job_info(dev, &info));
    g_assert_cmpstr(info.error, ==, NULL);
    g_assert_cmpint(info.status, ==, BLOCK_JOB_FINISHED);
    block_job_info_clear(&info);
}

static void start_job(BlockDev *dev, const BlockJobOptions *o)
{
    g_autoptr(GError) error = NULL;

    block_job_start(dev, o, &error);
    g_assert_no_error(error);
}

static unsigned depth(BlockDev *dev)
{
    json_t *chain = block_chain_info(dev);
    unsigned n = (unsigned)json_array_size(chain);

    json_decref(chain);
    return n;
}

/* ---- tests
 * ------------------------------------------------------------------------------ */

static void an_overlay_takes_new_writes_and_the_base_stays(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    g_autofree uint64_t *then = g_malloc(sizeof(uint64_t) * BLOCKS);
    BlockDev *dev = open_disk(base, BLOCK_FORMAT_RAW);
    Guest g;

    guest_start(&g, dev);
    for (unsigned i = 0; i < 4; i++) {
        g_autofree char *name = g_strdup_printf("%s/o%u.qcow2", dir, i);

        guest_goes_on(&g, 500);
        g_assert_true(block_overlay(dev, name, BLOCK_FORMAT_AUTO, false, &error));
        g_assert_no_error(error);
    }
    guest_goes_on(&g, 500);
    g_assert_cmpuint(depth(dev), ==, 5);
    guest_stop(&g);
    memcpy(then, g.said, sizeof(g.said));
    block_close(dev);
    {
        g_autofree char *top = g_build_filename(dir, "o3.qcow2", NULL);

        image_is_sound(top);
        image_says(top, BLOCK_FORMAT_QCOW2, then);
    }
    remove_dir(dir);
}

static void jobs_collapse_a_chain_under_writes(gconstpointer data)
{
    BlockJobType type = (BlockJobType)GPOINTER_TO_INT(data);
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base.qcow2", BLOCK_FORMAT_QCOW2, NULL, NULL);
    g_autofree char *top = g_strdup_printf("%s/o2.qcow2", dir);
    BlockDev *dev = open_disk(base, BLOCK_FORMAT_QCOW2);
    BlockJobOptions o = {.type = type, .id = "job0"};
    Guest g;

    guest_start(&g, dev);
    for (unsigned i = 0; i < 3; i++) {
        g_autofree char *name = g_strdup_printf("%s/o%u.qcow2", dir, i);

        guest_goes_on(&g, 1000);
        g_assert_true(block_overlay(dev, name, BLOCK_FORMAT_AUTO, false, &error));
    }
    guest_goes_on(&g, 300);
    start_job(dev, &o);
    wait_job(dev);
    guest_goes_on(&g, 300);
    g_assert_cmpuint(depth(dev), ==, 1);
    guest_stop(&g);
    block_close(dev);
    image_is_sound(type == BLOCK_JOB_STREAM ? top : base);
    image_says(type == BLOCK_JOB_STREAM ? top : base, BLOCK_FORMAT_QCOW2, g.said);
    remove_dir(dir);
}

static void layers_in_the_middle_are_committed(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    g_autofree char *o1 = g_strdup_printf("%s/o1.qcow2", dir);
    g_autofree char *o2 = g_strdup_printf("%s/o2.qcow2", dir);
    BlockDev *dev = open_disk(base, BLOCK_FORMAT_RAW);
    BlockJobOptions o = {.type = BLOCK_JOB_COMMIT, .top = o1, .base = base};
    Guest g;

    guest_start(&g, dev);
    for (unsigned i = 0; i < 3; i++) {
        g_autofree char *name = g_strdup_printf("%s/o%u.qcow2", dir, i);

        guest_goes_on(&g, 500);
        g_assert_true(block_overlay(dev, name, BLOCK_FORMAT_AUTO, false, &error));
    }
    guest_goes_on(&g, 300);
    start_job(dev, &o);
    wait_job(dev);
    g_assert_cmpuint(depth(dev), ==, 2);
    guest_stop(&g);
    block_close(dev);
    image_says(o2, BLOCK_FORMAT_QCOW2, g.said);
    remove_dir(dir);
}

static void a_mirror_becomes_the_disk_or_stays_a_copy(gconstpointer data)
{
    int format = GPOINTER_TO_INT(data);
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base", format, NULL, NULL);
    g_autofree char *copy = g_build_filename(dir, "copy", NULL);
    BlockDev *dev = open_disk(base, format);
    BlockJobOptions o = {.type = BLOCK_JOB_MIRROR,
                         .target = copy,
                         .target_format = format,
                         .wait_ready = true};
    BlockJobInfo info;
    Guest g;

    guest_start(&g, dev);
    guest_goes_on(&g, 2000);
    start_job(dev, &o);
    g_assert_false(block_resize(dev, SIZE * 2, &error)); /* not while it copies */
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    block_job_wait(dev);
    g_assert_true(block_job_info(dev, &info));
    g_assert_cmpint(info.status, ==, BLOCK_JOB_READY);
    guest_goes_on(&g, 500);
    g_assert_true(block_job_complete(dev, NULL));
    for (unsigned i = 0; i < 1000 && info.status != BLOCK_JOB_FINISHED; i++) {
        g_usleep(5000);
        block_job_info(dev, &info);
    }
    g_assert_cmpint(info.status, ==, BLOCK_JOB_FINISHED);
    g_assert_cmpstr(info.error, ==, NULL);
    guest_goes_on(&g, 500);
    guest_stop(&g);
    block_close(dev);
    image_says(copy, format, g.said);
    remove_dir(dir);
}

static void a_cancelled_job_leaves_the_disk_as_it_was(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    g_autofree char *top = g_strdup_printf("%s/o.qcow2", dir);
    BlockDev *dev = open_disk(base, BLOCK_FORMAT_RAW);
    BlockJobOptions o = {.type = BLOCK_JOB_COMMIT, .speed = 1 << 20};
    BlockJobInfo info;
    Guest g;

    guest_start(&g, dev);
    guest_goes_on(&g, 500);
    g_assert_true(block_overlay(dev, top, BLOCK_FORMAT_AUTO, false, &error));
    guest_goes_on(&g, 500);
    start_job(dev, &o);
    g_assert_false(block_job_start(dev, &o, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    guest_goes_on(&g, 200);
    g_assert_true(block_job_cancel(dev, NULL));
    block_job_wait(dev);
    g_assert_true(block_job_info(dev, &info));
    g_assert_true(info.cancelled);
    g_assert_cmpuint(depth(dev), ==, 2);
    guest_goes_on(&g, 200);
    guest_stop(&g);
    block_close(dev);
    image_says(top, BLOCK_FORMAT_QCOW2, g.said);
    remove_dir(dir);
}

static void count(void *opaque)
{
    __atomic_fetch_add((unsigned *)opaque, 1, __ATOMIC_RELAXED);
}

static void a_new_size_is_told(gconstpointer data)
{
    int format = GPOINTER_TO_INT(data);
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "base", format, NULL, NULL);
    BlockDev *dev = open_disk(base, format);
    unsigned told = 0;
    Guest g;

    block_on_resize(dev, count, &told);
    guest_start(&g, dev);
    guest_goes_on(&g, 300);
    g_assert_true(block_resize(dev, 3 * SIZE, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(told, ==, 1);
    g_assert_cmpuint(block_size(dev), ==, 3 * SIZE);
    g_assert_false(block_resize(dev, SIZE + 1, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    guest_goes_on(&g, 300);
    guest_stop(&g);
    block_close(dev);
    remove_dir(dir);
}

static void another_image_takes_its_place(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *a = new_image(dir, "a.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    g_autofree char *b = new_image(dir, "b.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    BlockOptions o = {.path = b, .lock = true};
    BlockDev *dev = open_disk(a, BLOCK_FORMAT_RAW);
    Guest g;

    guest_start(&g, dev);
    __atomic_store_n(&g.stop, true, __ATOMIC_RELAXED);
    ioloop_call(g.loop, end, &g);
    g_assert_true(block_change_image(dev, &o, &error));
    g_assert_no_error(error);
    memset(g.said, 0, sizeof(g.said)); /* what it sees now */
    guest_stop(&g);
    block_close(dev);
    remove_dir(dir);
}

/* ---- layers in steps ------------------------------------------------------------------
 */

/* As a machine that pauses does: nothing is in flight, and nothing comes. */
static void guest_pause(Guest *g)
{
    __atomic_store_n(&g->stop, true, __ATOMIC_RELAXED);
    ioloop_call(g->loop, end, g);
    g_assert_cmpuint(g->n_busy, ==, 0);
}

static void guest_resume(Guest *g)
{
    __atomic_store_n(&g->stop, false, __ATOMIC_RELAXED);
    ioloop_call(g->loop, begin, g);
}

typedef struct Layered {
    char *dir, *base, *top;
    int format;
    BlockDev *dev;
    BlockLayer *layer;
    Guest guest;
    uint64_t then[BLOCKS]; /* what the disk said at the switch */
} Layered;

/* A disk under a guest that is paused, with a layer that is prepared. */
static Layered *prepared(int format)
{
    Layered *t = g_new0(Layered, 1);
    g_autofree char *file = g_strdup_printf("base.%s", block_format_names[format]);
    g_autoptr(GError) error = NULL;

    t->dir = new_dir();
    t->format = format;
    t->base = new_image(t->dir, file, format, NULL, NULL);
    t->top = g_build_filename(t->dir, "top.qcow2", NULL);
    t->dev = open_disk(t->base, format);
    guest_start(&t->guest, t->dev);
    guest_goes_on(&t->guest, 500);
    t->layer = block_layer_prepare(t->dev, &(BlockLayerOptions){.path = t->top}, &error);
    g_assert_no_error(error);
    guest_goes_on(&t->guest, 500);
    guest_pause(&t->guest);
    memcpy(t->then, t->guest.said, sizeof(t->then));
    return t;
}

/* The same, switched in that pause. */
static Layered *switched(int format)
{
    Layered *t = prepared(format);

    block_layer_switch(t->layer);
    return t;
}

static void layered_free(Layered *t)
{
    remove_dir(t->dir);
    g_free(t->base);
    g_free(t->top);
    g_free(t);
}

static void settle(Layered *t)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(block_layer_settle(t->layer, &error));
    g_assert_no_error(error);
}

static void a_layer_stays_as_it_was_at_the_switch(gconstpointer data)
{
    Layered *t = switched(GPOINTER_TO_INT(data));

    guest_resume(&t->guest);
    guest_goes_on(&t->guest, 500);
    settle(t);
    if (t->format == BLOCK_FORMAT_QCOW2)
        image_is_sound(t->base); /* complete while the VM runs */
    image_says(t->base, t->format, t->then);
    block_layer_free(t->layer);
    guest_goes_on(&t->guest, 500);
    guest_stop(&t->guest);
    block_close(t->dev);
    image_says(t->base, t->format, t->then);
    image_says(t->top, BLOCK_FORMAT_QCOW2, t->guest.said);
    layered_free(t);
}

static void a_layer_that_was_not_switched_leaves_nothing(gconstpointer data)
{
    bool undone = GPOINTER_TO_INT(data); /* by who does not know how far it was */
    Layered *t = prepared(BLOCK_FORMAT_QCOW2);

    guest_resume(&t->guest);
    guest_goes_on(&t->guest, 500);
    if (undone)
        g_assert_true(block_layer_undo(t->layer, NULL));
    else
        block_layer_free(t->layer);
    g_assert_false(g_file_test(t->top, G_FILE_TEST_EXISTS));
    g_assert_cmpuint(depth(t->dev), ==, 1);
    guest_goes_on(&t->guest, 500);
    guest_stop(&t->guest);
    block_close(t->dev);
    image_is_sound(t->base);
    image_says(t->base, t->format, t->guest.said);
    layered_free(t);
}

static void a_layer_undone_later_loses_nothing(gconstpointer data)
{
    bool settled = GPOINTER_TO_INT(data);
    Layered *t = switched(BLOCK_FORMAT_QCOW2);
    g_autoptr(GError) error = NULL;

    guest_resume(&t->guest);
    guest_goes_on(&t->guest, 500);
    if (settled)
        settle(t);
    guest_goes_on(&t->guest, 500);
    g_assert_true(block_layer_undo(t->layer, &error));
    g_assert_no_error(error);
    g_assert_false(g_file_test(t->top, G_FILE_TEST_EXISTS));
    g_assert_cmpuint(depth(t->dev), ==, 1);
    guest_goes_on(&t->guest, 500);
    guest_stop(&t->guest);
    block_close(t->dev);
    image_is_sound(t->base);
    image_says(t->base, t->format, t->guest.said);
    layered_free(t);
}

static void a_layer_may_be_used_at_another_place(void)
{
    Layered *t = switched(BLOCK_FORMAT_QCOW2);
    g_autofree char *copy = g_build_filename(t->dir, "copy.qcow2", NULL);
    g_autofree char *cmd = g_strdup_printf("cp '%s' '%s'", t->base, copy);
    g_autoptr(GError) error = NULL;

    guest_resume(&t->guest);
    settle(t);
    g_assert_true(g_spawn_command_line_sync(cmd, NULL, NULL, NULL, NULL));
    g_assert_true(block_layer_move(t->layer, copy, copy, &error));
    g_assert_no_error(error);
    block_layer_free(t->layer);
    remove(t->base);
    guest_goes_on(&t->guest, 500);
    guest_stop(&t->guest);
    block_close(t->dev);
    image_says(copy, BLOCK_FORMAT_QCOW2, t->then);
    layered_free(t);
}

static bool opens(char *path, int format)
{
    BlockOptions o = {
        .path = path, .format = format, .lock = true, .cache = BLOCK_CACHE_WRITEBACK};
    BlockDev *dev = block_open(&o, NULL);

    block_close(dev);
    return dev != NULL;
}

/* A VM that is started again as it was the first time would spoil both. */
static void what_an_overlay_is_over_is_not_written_to_by_mistake(void)
{
    Layered *t = switched(BLOCK_FORMAT_RAW);
    const BlockJobOptions commit = {.type = BLOCK_JOB_COMMIT, .id = "job0"};

    guest_resume(&t->guest);
    settle(t);
    block_layer_free(t->layer);
    guest_stop(&t->guest);
    block_close(t->dev);
    g_assert_false(opens(t->base, t->format));
    t->dev = open_disk(t->top, BLOCK_FORMAT_QCOW2);
    start_job(t->dev, &commit);
    wait_job(t->dev);
    block_close(t->dev);
    g_assert_true(opens(t->base, t->format));
    layered_free(t);
}

/* The main thread closes it, and does not wait for who has it. */
static void a_disk_closed_in_use_stays_with_its_user(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = new_dir();
    g_autofree char *base = new_image(dir, "a.raw", BLOCK_FORMAT_RAW, NULL, NULL);
    BlockDev *dev = open_disk(base, BLOCK_FORMAT_RAW);

    block_use(dev);
    block_close(dev);
    g_assert_true(block_resize(dev, SIZE * 2, &error));
    g_assert_no_error(error);
    block_unuse(dev);
    block_close(open_disk(base, BLOCK_FORMAT_RAW)); /* it is not locked any more */
    remove_dir(dir);
}

int main(int argc, char **argv)
{
    /* What is tested is the order of what happens; a busy disk would make it minutes. */
    g_setenv("TMPDIR", "/dev/shm", TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block_live/an_overlay_takes_new_writes_and_the_base_stays",
                    an_overlay_takes_new_writes_and_the_base_stays);
    g_test_add_data_func("/block_live/stream_collapses_a_chain_under_writes",
                         GINT_TO_POINTER(BLOCK_JOB_STREAM),
                         jobs_collapse_a_chain_under_writes);
    g_test_add_data_func("/block_live/commit_collapses_a_chain_under_writes",
                         GINT_TO_POINTER(BLOCK_JOB_COMMIT),
                         jobs_collapse_a_chain_under_writes);
    g_test_add_func("/block_live/layers_in_the_middle_are_committed",
                    layers_in_the_middle_are_committed);
    g_test_add_data_func("/block_live/a_raw_mirror_becomes_the_disk",
                         GINT_TO_POINTER(BLOCK_FORMAT_RAW),
                         a_mirror_becomes_the_disk_or_stays_a_copy);
    g_test_add_data_func("/block_live/a_qcow2_mirror_becomes_the_disk",
                         GINT_TO_POINTER(BLOCK_FORMAT_QCOW2),
                         a_mirror_becomes_the_disk_or_stays_a_copy);
    g_test_add_func("/block_live/a_cancelled_job_leaves_the_disk_as_it_was",
                    a_cancelled_job_leaves_the_disk_as_it_was);
    g_test_add_data_func("/block_live/a_new_size_of_a_raw_disk_is_told",
                         GINT_TO_POINTER(BLOCK_FORMAT_RAW), a_new_size_is_told);
    g_test_add_data_func("/block_live/a_new_size_of_a_qcow2_disk_is_told",
                         GINT_TO_POINTER(BLOCK_FORMAT_QCOW2), a_new_size_is_told);
    g_test_add_func("/block_live/another_image_takes_its_place",
                    another_image_takes_its_place);
    g_test_add_data_func(
        "/block_live/a_layer_of_a_raw_disk_stays_as_it_was_at_the_switch",
        GINT_TO_POINTER(BLOCK_FORMAT_RAW), a_layer_stays_as_it_was_at_the_switch);
    g_test_add_data_func("/block_live/a_layer_stays_as_it_was_at_the_switch",
                         GINT_TO_POINTER(BLOCK_FORMAT_QCOW2),
                         a_layer_stays_as_it_was_at_the_switch);
    g_test_add_data_func("/block_live/a_layer_that_was_not_switched_leaves_nothing",
                         GINT_TO_POINTER(false),
                         a_layer_that_was_not_switched_leaves_nothing);
    g_test_add_data_func("/block_live/a_layer_undone_before_its_switch_leaves_nothing",
                         GINT_TO_POINTER(true),
                         a_layer_that_was_not_switched_leaves_nothing);
    g_test_add_data_func("/block_live/a_layer_undone_at_once_loses_nothing",
                         GINT_TO_POINTER(false), a_layer_undone_later_loses_nothing);
    g_test_add_data_func("/block_live/a_layer_undone_later_loses_nothing",
                         GINT_TO_POINTER(true), a_layer_undone_later_loses_nothing);
    g_test_add_func("/block_live/a_layer_may_be_used_at_another_place",
                    a_layer_may_be_used_at_another_place);
    g_test_add_func("/block_live/what_an_overlay_is_over_is_not_written_to_by_mistake",
                    what_an_overlay_is_over_is_not_written_to_by_mistake);
    g_test_add_func("/block_live/a_disk_closed_in_use_stays_with_its_user",
                    a_disk_closed_in_use_stays_with_its_user);
    return g_test_run();
}
