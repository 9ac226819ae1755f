/* src/block: which files are disks, in which format, and by which engine. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <seccomp.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/block.h"
#include "tests/unit/backend/scratch.h"

static void refused(const BlockOptions *options, const char *needle)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockDev) dev = block_open(options, &error);

    g_assert_null(dev);
    g_assert_nonnull(error);
    if (!strstr(error->message, needle) || !strstr(error->message, options->path))
        g_error("\"%s\" does not say \"%s\" of %s", error->message, needle,
                options->path);
}

static void accepted(const BlockOptions *options, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockDev) dev = block_open(options, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(block_size(dev), ==, size);
}

static void what_is_no_disk_is_refused_by_name(void)
{
    char *dir = new_dir();
    g_autofree char *missing = g_build_filename(dir, "missing", NULL);
    g_autofree char *fifo = g_build_filename(dir, "fifo", NULL);
    g_autofree char *empty = new_file(dir, "empty", 0);
    g_autofree char *small = new_file(dir, "small", 511);
    g_autofree char *closed = new_file(dir, "closed", 4096);

    mkfifo(fifo, 0600);
    refused(&(BlockOptions){.path = missing}, "No such file");
    refused(&(BlockOptions){.path = dir}, "is a directory");
    refused(&(BlockOptions){.path = fifo}, "neither a file nor a block device");
    refused(&(BlockOptions){.path = (char *)"/dev/null"}, "neither a file nor a block");
    refused(&(BlockOptions){.path = empty}, "empty");
    refused(&(BlockOptions){.path = small}, "too small");
    g_chmod(closed, 0400);
    if (getuid() != 0) {
        refused(&(BlockOptions){.path = closed}, "readonly");
        g_chmod(closed, 0);
        refused(&(BlockOptions){.path = closed, .readonly = true}, "Permission denied");
    }
    remove_dir(dir);
}

static void a_partial_last_sector_is_left_out(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "odd", 3 * 512 + 100);

    accepted(&(BlockOptions){.path = path, .lock = true}, 3 * 512);
    remove_dir(dir);
}

static void put(const char *path, unsigned offset, const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(pwrite(fd, bytes, len, offset), ==, (ssize_t)len);
    close(fd);
}

static void another_formats_magic_needs_format_raw(void)
{
    static const struct {
        const char *name, *bytes;
        unsigned offset, len;
    } magics[] = {
        {"qcow2", "QFI\xfb", 0, 4}, {"VMDK", "KDMV", 0, 4},
        {"VMDK", "COWD", 0, 4},     {"VHDX", "vhdxfile", 0, 8},
        {"VHD", "conectix", 0, 8},  {"VDI", "\x7f\x10\xda\xbe", 0x40, 4},
        {"QED", "QED\0", 0, 4},     {"VMDK", "# Disk DescriptorFile", 0, 21},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(magics); i++) {
        char *dir = new_dir();
        g_autofree char *path = new_file(dir, "disk.img", 8192);
        BlockOptions options = {.path = path, .lock = true};

        put(path, magics[i].offset, magics[i].bytes, magics[i].len);
        refused(&options, magics[i].name);
        refused(&options, "format=raw");
        options.format = BLOCK_FORMAT_RAW;
        accepted(&options, 8192);
        remove_dir(dir);
    }
}

static void an_encrypted_disk_is_a_raw_disk(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "luks", 8192);

    put(path, 0, "LUKS\xba\xbe", 6);
    accepted(&(BlockOptions){.path = path}, 8192);
    remove_dir(dir);
}

static void store_err(BlockReq *req, int err)
{
    *(int *)req->iov[1].iov_base = err;
}

static int do_io(BlockDev *dev, BlockOp op, void *buf, uint64_t len)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    BlockQueue *q = block_queue_new(dev, loop, 1, NULL);
    int err = -1;
    struct iovec iov[] = {{buf, len}, {&err, 0}};
    BlockReq req = {.op = op, .len = len, .iov = iov, .n_iov = 1, .done = store_err};

    block_submit(q, &req);
    block_drain(q);
    block_queue_free(q);
    return err;
}

/* The guest writes a qcow2 header, which might name any file as its backing file. */
static void a_guest_that_writes_a_magic_gains_nothing(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "disk.img", 8192);
    BlockOptions options = {.path = path, .lock = true};
    BlockDev *dev = block_open(&options, NULL);
    char out[4096] = "QFI\xfb\0\0\0\3", in[4096];

    g_assert_cmpint(do_io(dev, BLOCK_WRITE, out, 4096), ==, 0);
    g_assert_cmpuint(block_size(dev), ==, 8192);
    g_assert_cmpint(do_io(dev, BLOCK_READ, in, 4096), ==, 0);
    g_assert_cmpmem(in, 4096, out, 4096);
    block_close(dev);
    refused(&options, "format=raw");
    options.format = BLOCK_FORMAT_RAW;
    accepted(&options, 8192);
    remove_dir(dir);
}

static void qcow2_goes_by_the_name_and_has_to_be_one(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "disk.qcow2", 8192);
    g_autofree char *other = new_file(dir, "disk.img", 8192);

    refused(&(BlockOptions){.path = path}, "not a qcow2 image");
    refused(&(BlockOptions){.path = other, .format = BLOCK_FORMAT_QCOW2},
            "not a qcow2 image");
    accepted(&(BlockOptions){.path = path, .format = BLOCK_FORMAT_RAW}, 8192);
    remove_dir(dir);
}

static void a_readonly_disk_refuses_every_change(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "disk", 8192);
    BlockOptions options = {.path = path, .readonly = true, .lock = true};
    BlockDev *dev = block_open(&options, NULL);
    char buf[4096] = {0};

    g_assert_true(block_readonly(dev));
    g_assert_false(block_can_discard(dev));
    g_assert_cmpint(do_io(dev, BLOCK_READ, buf, 4096), ==, 0);
    g_assert_cmpint(do_io(dev, BLOCK_WRITE, buf, 4096), ==, EPERM);
    g_assert_cmpint(do_io(dev, BLOCK_DISCARD, NULL, 4096), ==, EPERM);
    g_assert_cmpint(do_io(dev, BLOCK_WRITE_ZEROES, NULL, 4096), ==, EPERM);
    g_assert_cmpint(do_io(dev, BLOCK_FLUSH, NULL, 0), ==, 0);
    block_close(dev);
    remove_dir(dir);
}

static void an_engine_that_cannot_work_is_refused_not_replaced(void)
{
    char *dir = new_dir();
    g_autofree char *path = new_file(dir, "disk", 8192);

    refused(&(BlockOptions){.path = path,
                            .aio = BLOCK_AIO_LIBAIO,
                            .cache = BLOCK_CACHE_WRITEBACK},
            "O_DIRECT");
    remove_dir(dir);
}

static void forbid(const char *syscall_name)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);

    seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM),
                     seccomp_syscall_resolve_name(syscall_name), 0);
    g_assert_cmpint(seccomp_load(ctx), ==, 0);
    seccomp_release(ctx);
}

static void auto_takes_the_first_engine_that_works(void)
{
    char *dir;
    g_autofree char *path = NULL;
    BlockOptions options = {.lock = true};
    BlockDev *dev;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
        g_test_trap_assert_passed();
        return;
    }
    dir = new_dir();
    options.path = path = new_file(dir, "disk", 8192);
    options.cache = BLOCK_CACHE_UNSAFE;
    dev = block_open(&options, NULL);
    g_assert_cmpstr(block_engine_name(dev), !=, "libaio");
    block_close(dev);
    forbid("io_uring_setup");
    dev = block_open(&options, NULL);
    g_assert_cmpstr(block_engine_name(dev), ==, "threads");
    block_close(dev);
    options.aio = BLOCK_AIO_IO_URING;
    refused(&options, "io_uring");
    options.aio = BLOCK_AIO_AUTO;
    options.cache = BLOCK_CACHE_NONE;
    dev = block_open(&options, NULL);
    if (dev) /* else this file system has no O_DIRECT */
        g_assert_cmpstr(block_engine_name(dev), ==, "libaio");
    block_close(dev);
    options.cache = BLOCK_CACHE_AUTO;
    forbid("io_setup");
    dev = block_open(&options, NULL);
    g_assert_cmpstr(block_engine_name(dev), ==, "threads");
    block_close(dev);
    remove_dir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/block_open/" #fn, fn)
    T(what_is_no_disk_is_refused_by_name);
    T(a_partial_last_sector_is_left_out);
    T(another_formats_magic_needs_format_raw);
    T(an_encrypted_disk_is_a_raw_disk);
    T(a_guest_that_writes_a_magic_gains_nothing);
    T(qcow2_goes_by_the_name_and_has_to_be_one);
    T(a_readonly_disk_refuses_every_change);
    T(an_engine_that_cannot_work_is_refused_not_replaced);
    T(auto_takes_the_first_engine_that_works);
#undef T
    return g_test_run();
}
