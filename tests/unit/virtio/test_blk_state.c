/* A block device in a saved state: requests under way, and those that an error stopped.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "state_edit.h"
#include "util/bits.h"
#include "util/log.h"
#include "virtio/devices.h"
#include "vq_guest.h"

enum { SECTORS = 2048, T_IN = 0, T_OUT = 1, F_WCE = 11, C_WRITEBACK = 32 };

/* In the C library's place: a host's disk that fails while it is told to. */
static bool disk_fails;

int fdatasync(int fd)
{
    if (!__atomic_load_n(&disk_fails, __ATOMIC_SEQ_CST))
        return 0;
    errno = EIO;
    return -1;
}

static unsigned n_holes;

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    __atomic_fetch_add(&n_holes, 1, __ATOMIC_SEQ_CST);
    return 0;
}

typedef struct Bed {
    VqGuest g;
    char *dir, *path;
    void *options;
    unsigned stops;
} Bed;

static Bed bed; /* big */

static void on_stop(void *opaque, const char *id)
{
    __atomic_fetch_add(&bed.stops, 1, __ATOMIC_SEQ_CST);
}

static void resize(off_t bytes)
{
    int fd = open(bed.path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, bytes), ==, 0);
    close(fd);
}

static void bed_open(const char *extra, unsigned mode)
{
    VqgSetup setup = {.mode = mode};
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;

    memset(&bed, 0, sizeof(bed));
    bed.dir = g_dir_make_tmp("hutch-blk-XXXXXX", NULL);
    bed.path = g_build_filename(bed.dir, "disk", NULL);
    resize(SECTORS * 512);
    text = g_strconcat(bed.path, ",aio=threads,queues=1", extra, NULL);
    setup.options = bed.options = param_new(virtio_blk_ops.params);
    param_parse(virtio_blk_ops.params, bed.options, text, &error);
    g_assert_no_error(error);
    vqg_open(&bed.g, &virtio_blk_ops, &setup);
    bed.g.env.stop = on_stop;
}

static void bed_close(void)
{
    vqg_finish(&bed.g);
    param_free(virtio_blk_ops.params, bed.options);
    g_remove(bed.path);
    g_rmdir(bed.dir);
    g_free(bed.path);
    g_free(bed.dir);
}

/* ---- writes that are all there afterwards -------------------------------------------
 */

enum { WRITES = 150, DEPTH = 24 };

/* One place in guest memory per write under way; write n goes to sector n. */
typedef struct Place {
    uint64_t header, data, status;
    bool busy;
} Place;

typedef struct Writer {
    Place place[DEPTH];
    Place *of[VQ_MAX_SIZE];
    unsigned sent, done;
} Writer;

static void fill(uint8_t data[512], unsigned n)
{
    for (unsigned i = 0; i < 512; i++)
        data[i] = (uint8_t)(n * 13 + i * 7 + 1);
}

/* Header and data are cut in odd places, so that serving has to cut pieces too. */
static void write_next(Writer *w)
{
    uint64_t header[2] = {T_OUT, w->sent};
    VqGuest *g = &bed.g;
    unsigned i = 0, token;
    Place *p;

    while (i < DEPTH && w->place[i].busy)
        i++;
    if (i == DEPTH || w->sent == WRITES || g->q[0].n_free < 4)
        return;
    p = &w->place[i];
    p->busy = true;
    memcpy(vqg_mem(g, p->header, 16), header, 16);
    fill(vqg_mem(g, p->data, 512), w->sent);
    memmove(vqg_mem(g, p->header + 16, 100), vqg_mem(g, p->data, 100), 100);
    *(uint8_t *)vqg_mem(g, p->status, 1) = 0xaa;
    if (w->sent % 2)
        token = vqg_chain(g, 0,
                          (VqgBuf[]){{p->header, 116, OUT},
                                     {p->data + 100, 412, OUT},
                                     {p->status, 1, IN}},
                          3);
    else
        token = vqg_chain(g, 0,
                          (VqgBuf[]){{p->header, 7, OUT},
                                     {p->header + 7, 9, OUT},
                                     {p->data, 512, OUT},
                                     {p->status, 1, IN}},
                          4);
    w->of[token] = p;
    w->sent++;
}

static void collect(Writer *w)
{
    VqgUsed used;

    while (vqg_used(&bed.g) && vqg_take(&bed.g, 0, &used)) {
        Place *p = w->of[used.token];

        g_assert_true(p->busy);
        g_assert_cmpuint(*(uint8_t *)vqg_mem(&bed.g, p->status, 1), ==, 0);
        p->busy = false;
        w->done++;
    }
}

static void check_disk(void)
{
    int fd = open(bed.path, O_RDONLY | O_CLOEXEC);

    for (unsigned n = 0; n < WRITES; n++) {
        uint8_t is[512], should[512];

        g_assert_cmpint(pread(fd, is, 512, n * 512), ==, 512);
        fill(should, n);
        g_assert_cmpmem(is, 512, should, 512);
    }
    close(fd);
}

static void writes(unsigned mode)
{
    static Writer w;
    int64_t end = clock_ns() + 20000000000;

    memset(&w, 0, sizeof(w));
    bed_open(",cache=writethrough,werror=stop", mode);
    for (unsigned i = 0; i < DEPTH; i++)
        w.place[i] = (Place){.header = vqg_alloc(&bed.g, 128),
                             .data = vqg_alloc(&bed.g, 512),
                             .status = vqg_alloc(&bed.g, 1)};
    while (w.done < WRITES && clock_ns() < end) {
        switch (g_test_rand_int_range(0, 8)) {
        case 0:
            vqg_kick(&bed.g);
            break;
        case 1:
            vqg_restore(&bed.g);
            break;
        case 2:
            collect(&w);
            break;
        case 3:
            __atomic_store_n(&disk_fails, w.sent < WRITES && g_test_rand_bit(),
                             __ATOMIC_RELAXED);
            break;
        default:
            write_next(&w);
        }
    }
    g_assert_cmpuint(w.done, ==, WRITES);
    g_assert_cmpuint(bed.stops, >, 0);
    g_assert_false(vqg_broken(&bed.g));
    check_disk();
    bed_close();
}

static void writes_that_an_error_stopped_are_done_after_a_restore(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++)
        writes(vqg_modes[m] | (m % 2 ? VQG_THREAD : 0));
}

/* ---- the rest -----------------------------------------------------------------------
 */

/* A device with one write that an error stopped, in a state, and gone. */
static GBytes *saved_with_a_stopped_write(void)
{
    static Writer w;
    GBytes *state;

    memset(&w, 0, sizeof(w));
    bed_open(",cache=writethrough,werror=stop", 0);
    w.place[0] = (Place){.header = vqg_alloc(&bed.g, 128),
                         .data = vqg_alloc(&bed.g, 512),
                         .status = vqg_alloc(&bed.g, 1)};
    __atomic_store_n(&disk_fails, true, __ATOMIC_RELAXED);
    write_next(&w);
    vqg_kick(&bed.g);
    state = vqg_save(&bed.g);
    g_assert_cmpuint(bed.stops, ==, 1);
    __atomic_store_n(&disk_fails, false, __ATOMIC_RELAXED);
    vqg_replace(&bed.g, bed.options);
    return state;
}

static const struct {
    const char *section, *path;
    uint64_t value;
    const char *refused; /* NULL: the device breaks; "": no writer takes it */
} lies[] = {
    {"blk/queue0", "request.id", 256, ""},
    {"blk/queue0", "request.n_desc", 5, "tells of 5"},
    {"blk/queue0", "request.n_read", 9, ""},
    {"blk/queue0", "request.n_pieces", 3, ""},
    {"blk/queue0", "piece.gpa", 0x7f000000, NULL},
    {"blk/queue0", "piece.len", UINT32_MAX, NULL},
    {"blk/virtio", "queue.avail_idx", 0, "has 0 entries in flight"},
    {"blk/virtio", "queue.used_idx", 2, "no position in it"},
    {"blk/blk", "size", SECTORS * 512 - 512, "it is another disk, or was resized since"},
};

static void a_state_that_lies_is_refused_or_breaks_the_device(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(GBytes) state = saved_with_a_stopped_write();
        g_autoptr(GBytes)
            lie = edit_state(state, lies[i].section, lies[i].path, 0, lies[i].value);
        g_autoptr(GError) error = NULL;

        if (lies[i].refused && !*lies[i].refused) {
            g_assert_null(lie);
        } else if (lies[i].refused) {
            g_assert_false(vqg_load(&bed.g, lie, &error));
            g_assert_nonnull(strstr(error->message, lies[i].refused));
        } else {
            vqg_load(&bed.g, lie, &error);
            g_assert_no_error(error);
            vqg_resume(&bed.g);
            g_assert_true(vqg_broken(&bed.g));
        }
        bed_close();
    }
}

static void a_disk_of_another_size_is_refused(void)
{
    g_autoptr(GBytes) state = saved_with_a_stopped_write();
    g_autoptr(GError) error = NULL;

    resize(SECTORS * 512 * 2);
    vqg_replace(&bed.g, bed.options);
    g_assert_false(vqg_load(&bed.g, state, &error));
    g_assert_nonnull(strstr(error->message, "blk: the disk has 2097152 bytes, and had "
                                            "1048576 when the state was saved"));
    bed_close();
}

/* The driver was told that it may, by the disk of then. */
static void nothing_is_discarded_on_a_disk_that_is_readonly_now(void)
{
    struct {
        uint64_t sector;
        uint32_t n, flags;
    } range = {0, 8, 0};
    g_autoptr(GBytes) state = NULL;
    g_autofree char *text = NULL;
    uint32_t header[4] = {11 /* DISCARD */};
    uint64_t at, status;
    GError *error = NULL;
    VqgUsed used;

    bed_open("", 0);
    virtio_set_status(bed.g.vdev, 0);
    bed.g.setup.refuse = BIT64(14); /* WRITE_ZEROES, without which it is let in */
    vqg_start(&bed.g);
    state = vqg_save(&bed.g);
    virtio_free(bed.g.vdev);
    bed.g.vdev = NULL;
    param_free(virtio_blk_ops.params, bed.options);
    bed.options = param_new(virtio_blk_ops.params);
    text = g_strconcat(bed.path, ",aio=threads,queues=1,readonly", NULL);
    param_parse(virtio_blk_ops.params, bed.options, text, &error);
    g_assert_no_error(error);
    vqg_replace(&bed.g, bed.options);
    vqg_load(&bed.g, state, &error);
    g_assert_no_error(error);
    vqg_resume(&bed.g);

    n_holes = 0; /* opening it looks whether there can be some */
    at = vqg_alloc(&bed.g, 32);
    status = vqg_alloc(&bed.g, 1);
    memcpy(vqg_mem(&bed.g, at, 16), header, 16);
    memcpy(vqg_mem(&bed.g, at + 16, 16), &range, 16);
    vqg_chain(&bed.g, 0, (VqgBuf[]){{at, 32, OUT}, {status, 1, IN}}, 2);
    vqg_kick(&bed.g);
    g_assert_true(vqg_wait(&bed.g, 0, 1));
    vqg_take(&bed.g, 0, &used);
    g_assert_cmpuint(*(uint8_t *)vqg_mem(&bed.g, status, 1), ==, 1);
    g_assert_cmpuint(n_holes, ==, 0);
    bed_close();
}

static void the_cache_mode_that_the_driver_chose_is_kept(void)
{
    bed_open("", 0);
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 1);
    virtio_config_write(bed.g.vdev, C_WRITEBACK, &(uint8_t){0}, 1);
    vqg_restore(&bed.g);
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 0);
    vqg_reset(&bed.g);
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 1);
    bed_close();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR); /* a disk that fails, many times */
    g_test_add_func("/blk-state/stopped",
                    writes_that_an_error_stopped_are_done_after_a_restore);
    g_test_add_func("/blk-state/lies", a_state_that_lies_is_refused_or_breaks_the_device);
    g_test_add_func("/blk-state/size", a_disk_of_another_size_is_refused);
    g_test_add_func("/blk-state/readonly",
                    nothing_is_discarded_on_a_disk_that_is_readonly_now);
    g_test_add_func("/blk-state/cache", the_cache_mode_that_the_driver_chose_is_kept);
    return g_test_run();
}
