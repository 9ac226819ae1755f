/* virtio/blk.c, from the driver's side. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/bits.h"
#include "virtio/devices.h"
#include "vq_guest.h"

enum { DISK_SIZE = 1024 * 1024, SECTORS = DISK_SIZE / 512 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_UNTOUCHED = 0xaa };
enum { F_RO = 5, F_FLUSH = 9, F_WCE = 11, F_MQ = 12, F_DISCARD = 13, F_ZEROES = 14 };
enum { C_CAPACITY = 0, C_SEG_MAX = 12, C_BLK_SIZE = 20, C_WRITEBACK = 32, C_QUEUES = 34 };

/* Counts instead of waiting for the host's disk: takes the place of the C library's. */
static unsigned n_flushes;

int fdatasync(int fd)
{
    __atomic_fetch_add(&n_flushes, 1, __ATOMIC_SEQ_CST);
    return 0;
}

/* As slow as a host's disk may be, while told to. */
static bool is_slow;

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (__atomic_load_n(&is_slow, __ATOMIC_SEQ_CST))
        g_usleep(20000);
    return (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

static off_t disk_size = DISK_SIZE;

typedef struct Bed {
    VqGuest g;
    char *dir, *path;
    void *options;
} Bed;

static Bed bed; /* big */

/* `extra` is options as on the command line, with a leading comma. */
static void bed_open(const char *extra, VqgSetup setup)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    int fd;

    bed.dir = g_dir_make_tmp("hutch-blk-XXXXXX", NULL);
    bed.path = g_build_filename(bed.dir, "disk", NULL);
    fd = open(bed.path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(fd, disk_size), ==, 0);
    close(fd);
    text = g_strconcat(bed.path, extra, NULL);
    bed.options = param_new(virtio_blk_ops.params);
    param_parse(virtio_blk_ops.params, bed.options, text, &error);
    g_assert_no_error(error);
    setup.options = bed.options;
    vqg_open(&bed.g, &virtio_blk_ops, &setup);
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

static uint64_t put(const void *data, uint64_t len)
{
    uint64_t gpa = vqg_alloc(&bed.g, len);

    memcpy(vqg_mem(&bed.g, gpa, len), data, len);
    return gpa;
}

static uint64_t put_header(uint32_t type, uint64_t sector)
{
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } h = {type, 0, sector};

    return put(&h, sizeof(h));
}

static uint64_t put_status(void)
{
    return put(&(uint8_t){S_UNTOUCHED}, 1);
}

static uint8_t byte_at(uint64_t gpa)
{
    return *(uint8_t *)vqg_mem(&bed.g, gpa, 1);
}

/* Kicks and waits for one answer. */
static VqgUsed one_answer(void)
{
    VqgUsed used;

    vqg_kick(&bed.g);
    g_assert_true(vqg_wait(&bed.g, 0, 1));
    g_assert_true(vqg_take(&bed.g, 0, &used));
    g_assert_false(vqg_take(&bed.g, 0, &used));
    return used;
}

/* A request in the usual three pieces; returns its status. */
static unsigned request(uint32_t type, uint64_t sector, uint64_t data, uint32_t len,
                        bool in)
{
    uint64_t status = put_status();
    VqgBuf bufs[] = {
        {put_header(type, sector), 16, OUT}, {data, len, in}, {status, 1, IN}};

    if (!len)
        bufs[1] = bufs[2];
    vqg_chain(&bed.g, 0, bufs, len ? 3 : 2);
    g_assert_cmpuint(one_answer().len, ==, in ? len + 1 : 1);
    return byte_at(status);
}

static unsigned range(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
    struct {
        uint64_t sector;
        uint32_t n, flags;
    } r = {sector, n, flags};

    return request(type, 0, put(&r, sizeof(r)), sizeof(r), OUT);
}

static unsigned write_byte(uint64_t sector, uint8_t byte)
{
    uint8_t data[512];

    memset(data, byte, sizeof(data));
    return request(T_OUT, sector, put(data, 512), 512, OUT);
}

static uint8_t read_byte(uint64_t sector)
{
    uint64_t gpa = vqg_alloc(&bed.g, 512);

    g_assert_cmpuint(request(T_IN, sector, gpa, 512, IN), ==, S_OK);
    return byte_at(gpa + 511);
}

/* ---- requests
 * --------------------------------------------------------------------------
 */

static void reads_and_writes_in_every_ring_layout(void)
{
    static const char *const aio[] = {",aio=auto", ",aio=threads"};

    for (unsigned i = 0; i < 2 * VQG_N_MODES; i++) {
        uint8_t data[8192];
        uint64_t in;

        bed_open(aio[i & 1], (VqgSetup){.mode = vqg_modes[i / 2]});
        for (unsigned k = 0; k < sizeof(data); k++)
            data[k] = (uint8_t)(k * 7 + i);
        g_assert_cmpuint(request(T_OUT, 5, put(data, 8192), 8192, OUT), ==, S_OK);
        in = vqg_alloc(&bed.g, 8192);
        g_assert_cmpuint(request(T_IN, 5, in, 8192, IN), ==, S_OK);
        g_assert_cmpmem(vqg_mem(&bed.g, in, 8192), 8192, data, 8192);
        g_assert_cmpuint(read_byte(4), ==, 0);
        g_assert_cmpuint(read_byte(SECTORS - 1), ==, 0);
        g_assert_cmpuint(request(T_FLUSH, 0, 0, 0, OUT), ==, S_OK);
        g_assert_false(vqg_broken(&bed.g));
        bed_close();
    }
}

/* 2.7.4.2: no assumption about where pieces begin. */
static void a_request_may_be_cut_anywhere(void)
{
    uint8_t data[1024];
    uint64_t h, d, in;

    bed_open("", (VqgSetup){0});
    for (unsigned k = 0; k < sizeof(data); k++)
        data[k] = (uint8_t)(k * 3);

    h = put_header(T_OUT, 2);
    d = put(data, 1024);
    in = put_status();
    vqg_chain(&bed.g, 0,
              (VqgBuf[]){{h, 1, OUT},
                         {h + 1, 15, OUT},
                         {d, 700, OUT},
                         {d + 700, 324, OUT},
                         {in, 1, IN}},
              5);
    one_answer();
    g_assert_cmpuint(byte_at(in), ==, S_OK);

    /* Header and data in one piece; data and status in one piece. */
    h = vqg_alloc(&bed.g, 16 + 1024);
    memcpy(vqg_mem(&bed.g, h, 16), vqg_mem(&bed.g, put_header(T_OUT, 4), 16), 16);
    memcpy(vqg_mem(&bed.g, h + 16, 1024), data, 1024);
    vqg_chain(&bed.g, 0, (VqgBuf[]){{h, 16 + 1024, OUT}, {in, 1, IN}}, 2);
    one_answer();
    g_assert_cmpuint(byte_at(in), ==, S_OK);

    in = vqg_alloc(&bed.g, 2048 + 1);
    *(uint8_t *)vqg_mem(&bed.g, in + 2048, 1) = S_UNTOUCHED;
    vqg_chain(
        &bed.g, 0,
        (VqgBuf[]){{put_header(T_IN, 2), 16, OUT}, {in, 100, IN}, {in + 100, 1949, IN}},
        3);
    g_assert_cmpuint(one_answer().len, ==, 2049);
    g_assert_cmpuint(byte_at(in + 2048), ==, S_OK);
    g_assert_cmpmem(vqg_mem(&bed.g, in, 1024), 1024, data, 1024);
    g_assert_cmpmem(vqg_mem(&bed.g, in + 1024, 1024), 1024, data, 1024);
    g_assert_cmpuint(write_byte(0, 1), ==, S_OK); /* in the same slot, with nothing cut */
    bed_close();
}

static void the_id_is_the_serial_number(void)
{
    uint64_t gpa;

    bed_open(",serial=12345678901234567890", (VqgSetup){0});
    gpa = vqg_alloc(&bed.g, 20);
    g_assert_cmpuint(request(T_GET_ID, 0, gpa, 20, IN), ==, S_OK);
    g_assert_cmpmem(vqg_mem(&bed.g, gpa, 20), 20, "12345678901234567890", 20);
    g_assert_cmpuint(request(T_GET_ID, 0, vqg_alloc(&bed.g, 5), 5, IN), ==, S_OK);
    g_assert_cmpuint(request(T_GET_ID, 0, 0, 0, IN), ==, S_OK);
    bed_close();

    bed_open(",serial=ab", (VqgSetup){0});
    gpa = vqg_alloc(&bed.g, 20);
    memset(vqg_mem(&bed.g, gpa, 20), 0xff, 20);
    g_assert_cmpuint(request(T_GET_ID, 0, gpa, 20, IN), ==, S_OK);
    g_assert_cmpmem(vqg_mem(&bed.g, gpa, 20), 20,
                    "ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    bed_close();
}

static void what_we_do_not_know_is_unsupported(void)
{
    static const uint32_t types[] = {2,  3,  5,  7,          9,         10,
                                     14, 15, 16, 0x80000000, UINT32_MAX};

    bed_open("", (VqgSetup){0});
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++)
        g_assert_cmpuint(request(types[i], 0, vqg_alloc(&bed.g, 512), 512, IN), ==,
                         S_UNSUPP);
    g_assert_cmpuint(vqg_interrupts(&bed.g, 0), ==, G_N_ELEMENTS(types));
    g_assert_false(vqg_broken(&bed.g));
    bed_close();
}

static void requests_outside_the_disk_are_io_errors(void)
{
    uint64_t gpa;

    bed_open("", (VqgSetup){0});
    gpa = vqg_alloc(&bed.g, 1024);
    g_assert_cmpuint(request(T_IN, SECTORS, gpa, 512, IN), ==, S_IOERR);
    g_assert_cmpuint(request(T_OUT, SECTORS - 1, gpa, 1024, OUT), ==, S_IOERR);
    g_assert_cmpuint(request(T_IN, UINT64_MAX, gpa, 512, IN), ==, S_IOERR);
    g_assert_cmpuint(request(T_IN, 1ull << 55, gpa, 512, IN), ==,
                     S_IOERR); /* wraps to 0 */
    g_assert_cmpuint(request(T_OUT, (1ull << 55) + 1, gpa, 512, OUT), ==, S_IOERR);
    g_assert_cmpuint(request(T_IN, 0, gpa, 513, IN), ==, S_IOERR);
    g_assert_cmpuint(request(T_OUT, 0, gpa, 100, OUT), ==, S_IOERR);
    g_assert_cmpuint(request(T_OUT, 0, 0, 0, OUT), ==, S_OK);
    g_assert_cmpuint(read_byte(1), ==, 0);
    bed_close();
}

static void a_readonly_disk_says_so_and_stays_as_it_is(void)
{
    bed_open(",readonly", (VqgSetup){0});
    g_assert_true(virtio_has_feature(bed.g.vdev, F_RO));
    g_assert_false(virtio_has_feature(bed.g.vdev, F_DISCARD));
    g_assert_false(virtio_has_feature(bed.g.vdev, F_ZEROES));
    g_assert_cmpuint(write_byte(0, 1), ==, S_IOERR);
    g_assert_cmpuint(range(T_DISCARD, 0, 8, 0), ==, S_UNSUPP);
    g_assert_cmpuint(range(T_ZEROES, 0, 8, 0), ==, S_UNSUPP);
    g_assert_cmpuint(request(T_FLUSH, 0, 0, 0, OUT), ==, S_OK);
    g_assert_cmpuint(read_byte(0), ==, 0);
    bed_close();
}

static void ranges_are_zeroed_and_discarded_as_told(void)
{
    uint8_t two[32] = {0};

    bed_open("", (VqgSetup){0});
    for (unsigned i = 0; i < 4; i++)
        g_assert_cmpuint(write_byte(i, (uint8_t)(i + 1)), ==, S_OK);
    g_assert_cmpuint(range(T_ZEROES, 1, 1, 0), ==, S_OK);
    g_assert_cmpuint(range(T_ZEROES, 2, 1, 1), ==, S_OK);
    g_assert_cmpuint(read_byte(0), ==, 1);
    g_assert_cmpuint(read_byte(1), ==, 0);
    g_assert_cmpuint(read_byte(2), ==, 0);
    g_assert_cmpuint(read_byte(3), ==, 4);
    g_assert_cmpuint(range(T_ZEROES, 0, 1, 2), ==, S_UNSUPP);
    g_assert_cmpuint(range(T_ZEROES, 0, SECTORS + 1, 0), ==, S_IOERR);
    g_assert_cmpuint(range(T_ZEROES, UINT64_MAX, 1, 0), ==, S_IOERR);
    g_assert_cmpuint(range(T_ZEROES, 0, UINT32_MAX, 0), ==, S_IOERR);
    if (virtio_has_feature(bed.g.vdev, F_DISCARD)) {
        g_assert_cmpuint(range(T_DISCARD, 8, 8, 0), ==, S_OK);
        g_assert_cmpuint(range(T_DISCARD, 8, 8, 1), ==, S_UNSUPP); /* 5.2.6.2 */
        g_assert_cmpuint(range(T_DISCARD, SECTORS, 1, 0), ==, S_IOERR);
        g_assert_cmpuint(range(T_DISCARD, 0, 0, 0), ==, S_OK);
        g_assert_cmpuint(request(T_DISCARD, 0, put(two, 32), 32, OUT), ==, S_IOERR);
        g_assert_cmpuint(request(T_DISCARD, 0, put(two, 15), 15, OUT), ==, S_IOERR);
    }
    g_assert_cmpuint(request(T_ZEROES, 0, 0, 0, OUT), ==, S_IOERR);
    bed_close();

    bed_open("", (VqgSetup){.refuse = BIT64(F_DISCARD) | BIT64(F_ZEROES)});
    g_assert_cmpuint(range(T_DISCARD, 8, 8, 0), ==, S_UNSUPP);
    g_assert_cmpuint(range(T_ZEROES, 8, 8, 0), ==, S_UNSUPP);
    bed_close();
}

/* ---- the write cache
 * ---------------------------------------------------------------------
 */

static unsigned flushes_of_a_write(void)
{
    unsigned before = n_flushes;

    g_assert_cmpuint(write_byte(7, 1), ==, S_OK);
    return n_flushes - before;
}

static void set_writeback(uint8_t on)
{
    virtio_config_write(bed.g.vdev, C_WRITEBACK, &on, 1);
}

static void without_a_write_cache_every_write_is_flushed_first(void)
{
    unsigned before;

    bed_open(",aio=threads", (VqgSetup){0});
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 1);
    g_assert_cmpuint(flushes_of_a_write(), ==, 0);
    before = n_flushes;
    g_assert_cmpuint(request(T_FLUSH, 0, 0, 0, OUT), ==, S_OK);
    g_assert_cmpuint(n_flushes, ==, before + 1);

    set_writeback(0);
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 0);
    g_assert_cmpuint(flushes_of_a_write(), ==, 1);
    before = n_flushes;
    g_assert_cmpuint(range(T_ZEROES, 0, 8, 0), ==, S_OK);
    g_assert_cmpuint(n_flushes, ==, before + 1);
    g_assert_cmpuint(read_byte(7), ==, 0);
    g_assert_cmpuint(n_flushes, ==, before + 1);
    set_writeback(1);
    g_assert_cmpuint(flushes_of_a_write(), ==, 0);

    set_writeback(0);
    vqg_reset(&bed.g);
    vqg_start(&bed.g);
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 1);
    bed_close();

    bed_open(",aio=threads", (VqgSetup){.refuse = BIT64(F_FLUSH)});
    g_assert_cmpuint(vqg_config(&bed.g, C_WRITEBACK, 1), ==, 0);
    set_writeback(1);
    g_assert_cmpuint(flushes_of_a_write(), ==, 1);
    bed_close();

    bed_open(",aio=threads", (VqgSetup){.refuse = BIT64(F_WCE)});
    set_writeback(0);
    g_assert_cmpuint(flushes_of_a_write(), ==, 0);
    bed_close();

    bed_open(",aio=threads,cache=unsafe", (VqgSetup){0});
    before = n_flushes;
    g_assert_cmpuint(request(T_FLUSH, 0, 0, 0, OUT), ==, S_OK);
    g_assert_cmpuint(n_flushes, ==, before);
    bed_close();
}

/* ---- configuration
 * ------------------------------------------------------------------------
 */

static void the_config_space_describes_the_disk(void)
{
    bed_open(",queues=3", (VqgSetup){0});
    g_assert_cmpuint(vqg_config(&bed.g, C_CAPACITY, 8), ==, SECTORS);
    g_assert_cmpuint(vqg_config(&bed.g, C_SEG_MAX, 4), ==, 126);
    g_assert_cmpuint(vqg_config(&bed.g, C_BLK_SIZE, 4), ==, 512);
    g_assert_cmpuint(vqg_config(&bed.g, C_QUEUES, 2), ==, 3);
    g_assert_cmpuint(bed.g.vdev->n_queues, ==, 3);
    g_assert_true(virtio_has_feature(bed.g.vdev, F_MQ));
    bed_close();

    bed_open("", (VqgSetup){0}); /* two CPUs */
    g_assert_cmpuint(bed.g.vdev->n_queues, ==, 2);
    bed_close();
    bed_open(",queues=1", (VqgSetup){0});
    g_assert_false(virtio_has_feature(bed.g.vdev, F_MQ));
    bed_close();
}

static void writes_to_the_rest_of_the_config_space_change_nothing(void)
{
    uint8_t ones_[60], before[60], after[60];

    memset(ones_, 0xff, sizeof(ones_));
    bed_open("", (VqgSetup){0});
    virtio_config_read(bed.g.vdev, 0, before, 60);
    virtio_config_write(bed.g.vdev, 0, ones_, 60);
    virtio_config_read(bed.g.vdev, 0, after, 60);
    g_assert_cmpmem(after, 60, before, 60);
    bed_close();
}

static void options_that_make_no_sense_are_refused(void)
{
    static const struct {
        const char *options, *says;
    } cases[] = {
        {"/x,serial=123456789012345678901", "serial"},
        {"/x,queues=65", "queues"},
        {"/x,aio=magic", "aio"},
        {"", "path"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        void *options = param_new(virtio_blk_ops.params);
        g_autoptr(GError) error = NULL;

        g_assert_false(
            param_parse(virtio_blk_ops.params, options, cases[i].options, &error));
        g_assert_nonnull(strstr(error->message, cases[i].says));
        param_free(virtio_blk_ops.params, options);
    }
}

static void a_disk_that_cannot_be_opened_is_an_error_of_the_device(void)
{
    void *options = param_new(virtio_blk_ops.params);
    g_autoptr(GError) error = NULL;
    VirtioEnv env = {.n_cpus = 1};

    g_assert_true(param_parse(virtio_blk_ops.params, options, "/missing/disk", NULL));
    g_assert_null(virtio_new(&virtio_blk_ops, "blk7", options, &env, &error));
    g_assert_cmpstr(error->message, ==,
                    "blk7: '/missing/disk': No such file or directory");
    param_free(virtio_blk_ops.params, options);
}

/* ---- a driver that breaks rules
 * ------------------------------------------------------------
 */

static void a_request_without_header_or_status_breaks_the_device_alone(void)
{
    uint64_t h;

    bed_open("", (VqgSetup){0});
    h = put_header(T_IN, 0);
    for (unsigned i = 0; i < 4; i++) {
        VqgBuf no_status[] = {{h, 16, OUT}, {h, 16, OUT}};
        VqgBuf short_header[] = {{h, 15, OUT}, {h, 1, IN}};
        VqgBuf no_header[] = {{h, 16, IN}, {h, 1, IN}};
        VqgBuf nothing[] = {{h, 16, OUT}, {h, 0, IN}};
        const VqgBuf *chains[] = {no_status, short_header, no_header, nothing};

        vqg_chain(&bed.g, 0, chains[i], 2);
        vqg_kick(&bed.g);
        g_assert_true(vqg_broken(&bed.g));
        g_assert_cmpuint(vqg_used(&bed.g), ==, 0);
        vqg_reset(&bed.g);
        vqg_start(&bed.g);
        g_assert_cmpuint(write_byte(1, 9), ==, S_OK);
        g_assert_cmpuint(read_byte(1), ==, 9);
        *(uint32_t *)vqg_mem(&bed.g, h, 4) = T_IN;
    }
    bed_close();
}

/* Whatever the header says: one answer per request. */
static void random_requests_are_answered_once_each(void)
{
    bed_open("", (VqgSetup){.mode = VQG_EVENT_IDX | VQG_INDIRECT});
    for (unsigned round = 0; round < 400; round++) {
        unsigned n = (unsigned)g_test_rand_int_range(1, 8);
        bool seen[VQ_MAX_SIZE] = {0};
        VqgUsed used;

        for (unsigned i = 0; i < n; i++) {
            uint32_t type = (uint32_t)g_test_rand_int_range(0, 16);
            uint64_t sector = g_test_rand_bit()
                                  ? (uint64_t)g_test_rand_int_range(0, SECTORS)
                                  : (uint64_t)g_test_rand_int() << 33;
            uint32_t len = (uint32_t)g_test_rand_int_range(1, 9) *
                           (g_test_rand_bit() ? 512 : 333);

            vqg_chain(&bed.g, 0,
                      (VqgBuf[]){{put_header(type, sector), 16, OUT},
                                 {vqg_alloc(&bed.g, len), len, g_test_rand_bit()},
                                 {put_status(), 1, IN}},
                      3);
        }
        vqg_kick(&bed.g);
        g_assert_true(vqg_wait(&bed.g, 0, n));
        for (unsigned i = 0; i < n; i++) {
            g_assert_true(vqg_take(&bed.g, 0, &used));
            g_assert_false(seen[used.token]);
            seen[used.token] = true;
        }
        g_assert_false(vqg_take(&bed.g, 0, &used));
    }
    g_assert_false(vqg_broken(&bed.g));
    bed_close();
}

/* ---- in flight
 * ------------------------------------------------------------------------------
 */

enum { MANY = 64 };

static void offer_many_reads(unsigned queue, uint64_t status[MANY])
{
    for (unsigned i = 0; i < MANY; i++) {
        status[i] = put_status();
        vqg_chain(&bed.g, queue,
                  (VqgBuf[]){{put_header(T_IN, i * 8), 16, OUT},
                             {align_up(vqg_alloc(&bed.g, 8192), 4096), 4096, IN},
                             {status[i], 1, IN}},
                  3);
    }
}

static void deep_queues_share_batches_and_interrupts(void)
{
    static const unsigned modes[] = {0, VQG_THREAD,
                                     VQG_THREAD | VQG_EVENT_IDX | VQG_PACKED};

    for (unsigned m = 0; m < G_N_ELEMENTS(modes); m++) {
        uint64_t status[2][MANY];
        VqgUsed used;

        bed_open(",queues=2", (VqgSetup){.mode = modes[m]});
        for (unsigned q = 0; q < 2; q++)
            offer_many_reads(q, status[q]);
        for (unsigned q = 0; q < 2; q++)
            vqg_kick_queue(&bed.g, q);
        for (unsigned q = 0; q < 2; q++) {
            g_assert_true(vqg_wait(&bed.g, q, MANY));
            for (unsigned i = 0; i < MANY; i++) {
                g_assert_true(vqg_take(&bed.g, q, &used));
                g_assert_cmpuint(byte_at(status[q][i]), ==, S_OK);
            }
            if (!modes[m])
                g_assert_cmpuint(vqg_interrupts(&bed.g, q), <, MANY / 2);
        }
        bed_close();
    }
}

static void quiesce_completes_what_is_in_flight_and_then_rests(void)
{
    uint64_t status[MANY];

    bed_open(",aio=threads", (VqgSetup){.mode = VQG_THREAD});
    offer_many_reads(0, status);
    virtio_queue_kick(bed.g.vdev, 0);
    virtio_quiesce(bed.g.vdev);
    g_assert_cmpuint(bed.g.vdev->queues[0].vq.in_flight, ==, 0);
    g_usleep(20000);
    for (unsigned i = 0, done = vqg_used(&bed.g); i < MANY; i++)
        g_assert_cmpuint(byte_at(status[i]), ==, i < done ? S_OK : S_UNTOUCHED);
    virtio_resume(bed.g.vdev);
    g_assert_true(vqg_wait(&bed.g, 0, MANY));
    bed_close();
}

static void reset_in_the_middle_leaves_a_device_that_works(void)
{
    uint64_t status[MANY];

    for (unsigned i = 0; i < 20; i++) {
        bed_open(i & 1 ? ",aio=threads" : "", (VqgSetup){.mode = i & 2 ? VQG_THREAD : 0});
        offer_many_reads(0, status);
        virtio_queue_kick(bed.g.vdev, 0);
        vqg_settle(&bed.g);
        vqg_reset(&bed.g);
        vqg_start(&bed.g);
        g_assert_cmpuint(write_byte(3, 4), ==, S_OK);
        g_assert_cmpuint(read_byte(3), ==, 4);
        bed_close();
    }
}

/* A guest would otherwise decide how long it takes to pause or to end its VM. */
static void no_more_than_so_many_bytes_are_in_flight_and_the_rest_waits(void)
{
    enum { N = 10, LEN = 128 << 20, MOST = 2 };
    struct {
        uint64_t sector;
        uint32_t n, flags;
    } all = {0, LEN / 512, 1};
    uint64_t status[N];
    VqgUsed used;

    disk_size = LEN;
    bed_open("", (VqgSetup){0});
    disk_size = DISK_SIZE;
    __atomic_store_n(&is_slow, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < N; i++) {
        VqgBuf bufs[] = {{put_header(T_ZEROES, 0), 16, OUT},
                         {put(&all, sizeof(all)), sizeof(all), OUT},
                         {status[i] = put_status(), 1, IN}};

        vqg_chain(&bed.g, 0, bufs, 3);
    }
    for (unsigned i = 0; i < N; i++) {
        vqg_kick(&bed.g);
        g_assert_cmpuint(bed.g.vdev->queues[0].vq.in_flight, <=, MOST);
        g_assert_true(vqg_wait(&bed.g, 0, 1));
        g_assert_true(vqg_take(&bed.g, 0, &used));
    }
    __atomic_store_n(&is_slow, false, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < N; i++)
        g_assert_cmpuint(byte_at(status[i]), ==, S_OK);
    bed_close();
}

static void a_full_host_disk_is_an_io_error_and_no_more(void)
{
    struct rlimit old, limit;
    unsigned status;

    signal(SIGXFSZ, SIG_IGN);
    bed_open("", (VqgSetup){0});
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = 4096;
    setrlimit(RLIMIT_FSIZE, &limit);
    status = write_byte(100, 1);
    setrlimit(RLIMIT_FSIZE, &old);
    g_assert_cmpuint(status, ==, S_IOERR);
    g_assert_cmpuint(write_byte(100, 1), ==, S_OK);
    g_assert_cmpuint(read_byte(100), ==, 1);
    g_assert_false(vqg_broken(&bed.g));
    bed_close();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/blk/" #fn, fn)
    T(reads_and_writes_in_every_ring_layout);
    T(a_request_may_be_cut_anywhere);
    T(the_id_is_the_serial_number);
    T(what_we_do_not_know_is_unsupported);
    T(requests_outside_the_disk_are_io_errors);
    T(a_readonly_disk_says_so_and_stays_as_it_is);
    T(ranges_are_zeroed_and_discarded_as_told);
    T(without_a_write_cache_every_write_is_flushed_first);
    T(the_config_space_describes_the_disk);
    T(writes_to_the_rest_of_the_config_space_change_nothing);
    T(options_that_make_no_sense_are_refused);
    T(a_disk_that_cannot_be_opened_is_an_error_of_the_device);
    T(a_request_without_header_or_status_breaks_the_device_alone);
    T(random_requests_are_answered_once_each);
    T(deep_queues_share_batches_and_interrupts);
    T(quiesce_completes_what_is_in_flight_and_then_rests);
    T(reset_in_the_middle_leaves_a_device_that_works);
    T(no_more_than_so_many_bytes_are_in_flight_and_the_rest_waits);
    T(a_full_host_disk_is_an_io_error_and_no_more);
#undef T
    return g_test_run();
}
