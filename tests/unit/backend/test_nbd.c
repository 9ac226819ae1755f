/* src/block: NBD exports as disks, over the servers that people use. */
#include "tests/unit/backend/nbd_work.h"

static void sixteen_threads_read_what_they_wrote(void)
{
    g_autofree char *uri = NULL;
    NbdServer s;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    random_requests(uri);
    server_end(&s);
}

static void the_servers_block_sizes_are_kept(void)
{
    g_autofree char *uri = NULL;
    BlockFile *f;
    NbdServer s;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, DISK, NBDKIT, "-U", "@/sock", "--filter=blocksize-policy", "file",
                 "@/disk", "blocksize-error-policy=error", "blocksize-minimum=4096",
                 "blocksize-preferred=16384", "blocksize-maximum=65536", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpuint(f->io_align, ==, 4096);
    g_assert_cmpuint(f->logical, ==, 4096);
    g_assert_cmpuint(f->physical, ==, 16384);
    block_file_close(f);
    random_requests(uri);
    /* with room for more than small pieces in a command */
    server_change(&s, NBDKIT, "-U", "@/sock", "--filter=blocksize-policy", "memory", "4M",
                  "blocksize-error-policy=error", "blocksize-minimum=4096", NULL);
    random_requests(uri);
    server_end(&s);
}

static void a_server_that_can_do_little_is_enough(void)
{
    g_autofree char *uri = NULL;
    BlockFile *f;
    NbdServer s;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "--no-sr", "--filter=nozero",
                 "--filter=noextents", "memory", "4M", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpuint(f->io_align, ==, 1);
    block_file_close(f);
    random_requests(uri);
    server_end(&s);
}

static void requests_above_the_servers_maximum_are_split(void)
{
    const size_t size = 40 * MIB, step = 100 * 1000;
    struct iovec iov[512];
    unsigned n = 0;
    g_autofree char *uri = NULL;
    uint8_t *out = g_malloc(size), *in = g_malloc0(size);
    NbdServer s;
    BlockFile *f;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "memory", "41M", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(i * 7 + i / 4099);
    for (size_t at = 0; at < size; at += step)
        iov[n++] = (struct iovec){in + at, MIN(step, size - at)};
    g_assert_cmpint(block_file_write(f, 1000, out, size), ==, 0);
    g_assert_cmpint(block_file_rw(f, false, 1000, iov, n, 0, size), ==, 0);
    g_assert_cmpmem(in, size, out, size);
    /* from within the list on */
    g_assert_cmpint(block_file_rw(f, false, 1000, iov, n, size - 5000, 5000), ==, 0);
    g_assert_cmpmem(in + size - 5000, 5000, out, 5000);
    g_assert_cmpint(block_file_rw(f, true, 0, iov, 1, 0, step + 1), ==, EINVAL);
    block_file_close(f);
    server_end(&s);
    g_free(in);
    g_free(out);
}

static void ranges_beyond_the_export_are_errors(void)
{
    g_autofree char *uri = NULL;
    char buf[1024];
    NbdServer s;
    BlockFile *f;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "memory", "1000", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpuint(f->size, ==, 1000);
    g_assert_true(f->is_device);
    g_assert_cmpint(block_file_read(f, 0, buf, 1001), ==, EIO);
    g_assert_cmpint(block_file_write(f, UINT64_MAX - 1, buf, 10), ==, ENOSPC);
    g_assert_cmpint(block_file_zero(f, 999, 2, true), ==, ENOSPC);
    g_assert_cmpint(block_file_discard(f, 999, 2), ==, ENOSPC);
    g_assert_cmpint(block_file_truncate(f, 2000), ==, ENOTSUP);
    f->zero_tail = true;
    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(block_file_read(f, 990, buf, 20), ==, 0);
    for (int i = 0; i < 20; i++)
        g_assert_cmpint(buf[i], ==, 0);
    block_file_close(f);
    server_end(&s);
}

/* ---- what a server allows
 * -------------------------------------------------------------- */

static void a_readonly_export_is_only_read(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *uri = NULL;
    char buf[512];
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, 65536, QEMU_NBD, "-r", "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    refused(uri, false, "add readonly");
    f = open_disk(uri, true);
    g_assert_false(f->can_discard);
    g_assert_cmpint(block_file_read(f, 0, buf, 512), ==, 0);
    g_assert_cmpint(block_file_write(f, 0, buf, 512), ==, EPERM);
    g_assert_cmpint(block_file_zero(f, 0, 512, true), ==, EPERM);
    g_assert_cmpint(block_file_discard(f, 0, 512), ==, EPERM);
    g_assert_false(f->ops->reopen(f, false, &error));
    g_assert_nonnull(strstr(error->message, "add readonly"));
    g_assert_true(f->readonly);
    g_assert_cmpint(block_file_read(f, 0, buf, 512), ==, 0);

    /* It may change its mind. */
    server_change(&s, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    g_assert_true(f->ops->reopen(f, false, NULL));
    g_assert_cmpint(block_file_write(f, 0, buf, 512), ==, 0);
    g_assert_true(f->ops->reopen(f, true, NULL));
    g_assert_cmpint(block_file_write(f, 0, buf, 512), ==, EPERM);
    g_assert_true(f->ops->reopen(f, false, NULL));
    g_assert_cmpint(block_file_write(f, 0, buf, 512), ==, 0);
    block_file_close(f);
    server_end(&s);
}

static void holes_are_told_from_data(void)
{
    g_autofree char *uri = NULL;
    uint64_t len;
    NbdServer s;
    BlockFile *f;
    bool data;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "memory", "8M", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpint(block_file_write(f, MIB, "x", 1), ==, 0);
    g_assert_cmpint(f->ops->extent(f, 100, MIB, &data, &len), ==, 0);
    g_assert_false(data);
    g_assert_cmpuint(len, ==, MIB - 100);
    g_assert_cmpint(f->ops->extent(f, MIB, MIB, &data, &len), ==, 0);
    g_assert_true(data);
    g_assert_cmpuint(len, <, MIB);
    /* and discarding makes one */
    g_assert_true(f->can_discard);
    g_assert_cmpint(block_file_discard(f, 0, 8 * MIB), ==, 0);
    g_assert_cmpint(f->ops->extent(f, 0, 8 * MIB, &data, &len), ==, 0);
    g_assert_false(data);
    g_assert_cmpuint(len, ==, 8 * MIB);
    block_file_close(f);
    server_end(&s);
}

static uint64_t allocated(const NbdServer *s)
{
    g_autofree char *path = g_build_filename(s->dir, "disk", NULL);
    GStatBuf st;

    g_assert_cmpint(g_stat(path, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

static void zeroes_make_holes_only_where_they_may(void)
{
    g_autofree char *uri = NULL;
    char buf[4096];
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, 4 * MIB, QEMU_NBD, "--discard=unmap", "-k", "@/sock", "@/disk",
                 NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(block_file_write(f, MIB, buf, sizeof(buf)), ==, 0);
    g_assert_cmpint(block_file_zero(f, 0, 4 * MIB, false), ==, 0);
    g_assert_cmpuint(allocated(&s), >=, 4 * MIB);
    g_assert_cmpint(block_file_zero(f, 0, 4 * MIB, true), ==, 0);
    g_assert_cmpuint(allocated(&s), <, MIB);
    g_assert_cmpint(block_file_read(f, MIB, buf, sizeof(buf)), ==, 0);
    for (unsigned i = 0; i < sizeof(buf); i++)
        g_assert_cmpint(buf[i], ==, 0);
    block_file_close(f);
    server_end(&s);
}

static void the_servers_errors_are_the_disks(void)
{
    g_autofree char *uri = NULL;
    char buf[512] = "";
    NbdServer s;
    BlockFile *f;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "--filter=error", "memory", "1M",
                 "error-pread=EIO", "error-pread-rate=1", "error-pwrite=ENOSPC",
                 "error-pwrite-rate=1", "error-zero=ENOSPC", "error-zero-rate=1", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpint(block_file_read(f, 0, buf, 512), ==, EIO);
    g_assert_cmpint(block_file_write(f, 0, buf, 512), ==, ENOSPC);
    g_assert_cmpint(block_file_zero(f, 0, 512, true), ==, ENOSPC);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    block_file_close(f);
    server_end(&s);
}

static void a_flush_reaches_the_server_unless_unsafe(void)
{
    g_autofree char *uri = NULL, *seen = NULL;
    BlockOptions options = {0};
    NbdServer s;
    BlockFile *f;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "eval", "get_size=echo 1M",
                 "pread=dd if=/dev/zero count=$3 iflag=count_bytes", "can_write=exit 0",
                 "pwrite=cat >/dev/null", "can_flush=exit 0", "flush=touch @/flushed",
                 NULL);
    seen = g_build_filename(s.dir, "flushed", NULL);
    options.path = uri = server_uri(&s, "nbd+unix", "");
    options.cache = BLOCK_CACHE_UNSAFE;
    f = block_file_open(&options, NULL);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    block_file_close(f);
    g_assert_false(g_file_test(seen, G_FILE_TEST_EXISTS));
    options.cache = BLOCK_CACHE_NONE;
    f = block_file_open(&options, NULL);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    g_assert_true(g_file_test(seen, G_FILE_TEST_EXISTS));
    block_file_close(f);
    server_end(&s);
}

static int64_t timed_read(BlockFile *f)
{
    int64_t start = g_get_monotonic_time();
    char buf[512];

    g_assert_cmpint(block_file_read(f, 0, buf, 512), ==, 0);
    return g_get_monotonic_time() - start;
}

static gpointer read_once(gpointer f)
{
    timed_read(f);
    return NULL;
}

static void requests_are_in_flight_together(void)
{
    g_autofree char *uri = NULL;
    GThread *t[THREADS];
    int64_t start;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("nbdkit", NULL))
        return;
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "-t", "16", "--filter=delay", "memory",
                 "1M", "rdelay=1", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    start = g_get_monotonic_time();
    for (unsigned i = 0; i < THREADS; i++)
        t[i] = g_thread_new("read", read_once, f);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(t[i]);
    g_assert_cmpfloat(seconds_since(start), >=, 1);
    g_assert_cmpfloat(seconds_since(start), <, 1.8); /* one behind another: 2 */
    block_file_close(f);
    server_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/nbd/" #fn, fn)
    T(sixteen_threads_read_what_they_wrote);
    T(the_servers_block_sizes_are_kept);
    T(a_server_that_can_do_little_is_enough);
    T(requests_above_the_servers_maximum_are_split);
    T(ranges_beyond_the_export_are_errors);
    T(a_readonly_export_is_only_read);
    T(holes_are_told_from_data);
    T(zeroes_make_holes_only_where_they_may);
    T(the_servers_errors_are_the_disks);
    T(a_flush_reaches_the_server_unless_unsafe);
    T(requests_are_in_flight_together);
#undef T
    return g_test_run();
}
