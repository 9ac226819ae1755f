/* src/block: NBD servers that vanish and come back, and disks that are closed then. */
#include <dirent.h>

#include "tests/unit/backend/nbd_work.h"

/* ---- servers that vanish
 * ----------------------------------------------------------------
 */

static void a_server_that_restarts_loses_no_request(void)
{
    g_autofree char *uri = NULL;
    Worker w[THREADS];
    int stop = 0;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "&reconnect=60");
    f = open_disk(uri, false);
    start_work(w, f, UINT_MAX, &stop);
    for (int i = 0; i < 10; i++) {
        g_usleep((gulong)g_test_rand_int_range(20000, 200000));
        server_kill(&s);
        server_run(&s);
    }
    g_atomic_int_set(&stop, 1);
    end_work(w);
    check_work(w, uri);
    block_file_close(f);
    server_end(&s);
}

static int read_err(BlockFile *f)
{
    char buf[512];

    return block_file_read(f, 0, buf, 512);
}

static void without_reconnect_an_idle_disk_survives_a_restart(void)
{
    g_autofree char *uri = NULL;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    g_assert_cmpint(read_err(f), ==, 0);
    server_kill(&s);
    server_run(&s);
    g_assert_cmpint(read_err(f), ==, 0);
    block_file_close(f);
    server_end(&s);
}

static gpointer read_to_error(gpointer f)
{
    while (read_err(f) == 0)
        ;
    return NULL;
}

/* Ends the server under load: how long until the last of all got its error. */
static double time_to_fail(NbdServer *s, BlockFile *f)
{
    GThread *t[THREADS];
    int64_t start;

    for (unsigned i = 0; i < THREADS; i++)
        t[i] = g_thread_new("read", read_to_error, f);
    g_usleep(50000);
    server_kill(s);
    start = g_get_monotonic_time();
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(t[i]);
    return seconds_since(start);
}

static void a_server_gone_for_good_is_an_error_in_time(void)
{
    static const struct {
        const char *query;
        double min, max;
    } cases[] = {{"", 0, 1.5}, {"&reconnect=0", 0, 1.5}, {"&reconnect=2", 1.9, 5}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *uri = NULL;
        int64_t start;
        double time;
        NbdServer s;
        BlockFile *f;

        if (!have_programs("qemu-nbd", NULL))
            return;
        server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
        uri = server_uri(&s, "nbd+unix", cases[i].query);
        f = open_disk(uri, false);
        time = time_to_fail(&s, f);
        g_assert_cmpfloat(time, >=, cases[i].min);
        g_assert_cmpfloat(time, <, cases[i].max);
        start = g_get_monotonic_time();
        g_assert_cmpint(read_err(f), ==, EIO);
        g_assert_cmpfloat(seconds_since(start), <, cases[i].max);
        /* For good is not for ever. */
        server_run(&s);
        start = g_get_monotonic_time();
        while (read_err(f) != 0 && seconds_since(start) < 10)
            g_usleep(10000);
        g_assert_cmpint(read_err(f), ==, 0);
        block_file_close(f);
        server_end(&s);
    }
}

static gpointer read_an_error(gpointer f)
{
    g_assert_cmpint(read_err(f), ==, EIO);
    return NULL;
}

/* Stopped, a server keeps its connection and says nothing. */
static void a_silent_server_is_an_error_in_time(void)
{
    g_autofree char *uri = NULL;
    GThread *t[THREADS];
    int64_t start;
    NbdServer s;
    BlockFile *f;

    refused("nbd://localhost/?timeout=soon", false, "not a number of seconds");
    refused("nbd://localhost/?timeout=", false, "not a number of seconds");
    refused("nbd://localhost/?timeout=1&timeout=1", false, "given twice");
    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "&timeout=1");
    f = open_disk(uri, false);
    g_assert_cmpint(read_err(f), ==, 0);
    kill(s.pid, SIGSTOP);
    start = g_get_monotonic_time();
    for (unsigned i = 0; i < THREADS; i++)
        t[i] = g_thread_new("read", read_an_error, f);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(t[i]);
    g_assert_cmpfloat(seconds_since(start), >=, 1);
    g_assert_cmpfloat(seconds_since(start), <, 6); /* an attempt to connect, too */
    kill(s.pid, SIGCONT);
    start = g_get_monotonic_time();
    while (read_err(f) != 0 && seconds_since(start) < 10)
        g_usleep(10000);
    g_assert_cmpint(read_err(f), ==, 0);
    block_file_close(f);
    server_end(&s);
}

static void write_and_restart(NbdServer *s, BlockFile *f)
{
    g_assert_cmpint(block_file_write(f, 0, "x", 1), ==, 0);
    server_kill(s);
    server_run(s);
}

static void without_reconnect_a_flush_tells_once_of_writes_that_may_be_lost(void)
{
    g_autofree char *uri = NULL;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    f = open_disk(uri, false);
    write_and_restart(&s, f);
    g_assert_cmpint(block_file_flush(f), ==, EIO);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    /* whoever it is that connects again, and after how many losses */
    write_and_restart(&s, f);
    g_usleep(600 * 1000);
    g_assert_cmpint(read_err(f), ==, 0);
    server_kill(&s);
    server_run(&s);
    g_usleep(600 * 1000); /* attempts are half a second apart */
    g_assert_cmpint(read_err(f), ==, 0);
    g_assert_cmpint(block_file_flush(f), ==, EIO);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    /* what was flushed is not lost */
    g_assert_cmpint(block_file_write(f, 0, "x", 1), ==, 0);
    g_assert_cmpint(block_file_flush(f), ==, 0);
    server_kill(&s);
    server_run(&s);
    g_usleep(600 * 1000); /* attempts are half a second apart */
    g_assert_cmpint(block_file_flush(f), ==, 0);
    block_file_close(f);
    server_end(&s);
}

static void another_export_in_the_place_of_ours_is_refused(void)
{
    g_autofree char *uri = NULL;
    NbdServer s;
    BlockFile *f;

    if (!g_test_subprocess()) {
        if (!have_programs("nbdkit", NULL))
            return;
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
        g_test_trap_assert_passed();
        g_test_trap_assert_stderr("*back with an export of 2097152 bytes instead of*");
        g_test_trap_assert_stderr("*back with a read-only export*");
        g_test_trap_assert_stderr("*back with another block size*");
        g_test_trap_assert_stderr("*connected again*");
        return;
    }
    server_start(&s, 0, NBDKIT, "-U", "@/sock", "memory", "1M", NULL);
    uri = server_uri(&s, "nbd+unix", "&reconnect=1");
    f = open_disk(uri, false);
    server_change(&s, NBDKIT, "-U", "@/sock", "memory", "2M", NULL);
    g_assert_cmpint(read_err(f), ==, EIO);
    server_change(&s, NBDKIT, "-r", "-U", "@/sock", "memory", "1M", NULL);
    g_assert_cmpint(read_err(f), ==, EIO);
    server_change(&s, NBDKIT, "-U", "@/sock", "--filter=blocksize-policy", "memory", "1M",
                  "blocksize-minimum=4096", NULL);
    g_assert_cmpint(read_err(f), ==, EIO);
    server_change(&s, NBDKIT, "-U", "@/sock", "memory", "1M", NULL);
    g_assert_cmpint(read_err(f), ==, 0);
    block_file_close(f);
    server_end(&s);
}

/* ---- closing -------------------------------------------------------------------------
 */

static unsigned count_entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void closing_waits_for_no_server(void)
{
    g_autofree char *uri = NULL;
    GThread *t[THREADS];
    int64_t start;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "&reconnect=100");
    /* with nothing in flight, and with much */
    for (unsigned n = 0; n <= THREADS; n += THREADS) {
        f = open_disk(uri, false);
        kill(s.pid, SIGSTOP);
        for (unsigned i = 0; i < n; i++)
            t[i] = g_thread_new("read", read_an_error, f);
        g_usleep(100000);
        start = g_get_monotonic_time();
        block_file_close(f);
        for (unsigned i = 0; i < n; i++)
            g_thread_join(t[i]);
        g_assert_cmpfloat(seconds_since(start), <, 1);
        kill(s.pid, SIGCONT);
    }
    /* and while it is waited for: by a stopped one, by none */
    for (int gone = 0; gone < 2; gone++) {
        f = open_disk(uri, false);
        server_kill(&s);
        if (!gone) {
            server_run(&s);
            kill(s.pid, SIGSTOP);
        }
        t[0] = g_thread_new("read", read_an_error, f);
        g_usleep(100000);
        start = g_get_monotonic_time();
        block_file_close(f);
        g_thread_join(t[0]);
        g_assert_cmpfloat(seconds_since(start), <, 1);
        kill(s.pid, SIGCONT);
    }
    server_end(&s);
}

static void a_cancelled_disk_fails_at_once(void)
{
    g_autofree char *uri = NULL;
    GThread *t[THREADS];
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "&reconnect=100");
    f = open_disk(uri, false);
    kill(s.pid, SIGSTOP);
    for (unsigned i = 0; i < THREADS; i++)
        t[i] = g_thread_new("read", read_an_error, f);
    g_usleep(100000);
    f->ops->cancel(f);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(t[i]);
    g_assert_cmpint(read_err(f), ==, EIO);
    g_assert_cmpint(block_file_flush(f), ==, EIO);
    block_file_close(f);
    server_end(&s);
}

static void nothing_is_left_after_closing(void)
{
    unsigned threads, fds;
    g_autofree char *uri = NULL;
    Worker w[THREADS];
    int stop = 0;
    NbdServer s;
    BlockFile *f;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-k", "@/sock", "@/disk", NULL);
    uri = server_uri(&s, "nbd+unix", "");
    threads = count_entries("/proc/self/task");
    fds = count_entries("/proc/self/fd");
    f = open_disk(uri, false);
    start_work(w, f, 10, &stop);
    end_work(w);
    g_assert_cmpuint(count_entries("/proc/self/task"), ==, threads);
    check_work(w, uri);
    block_file_close(f);
    refused("nbd+unix:///?socket=/no/such", false, "No such file");
    g_assert_cmpuint(count_entries("/proc/self/fd"), ==, fds);
    g_assert_cmpuint(count_entries("/proc/self/task"), ==, threads);
    server_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/nbd_loss/" #fn, fn)
    T(a_server_that_restarts_loses_no_request);
    T(without_reconnect_an_idle_disk_survives_a_restart);
    T(a_server_gone_for_good_is_an_error_in_time);
    T(a_silent_server_is_an_error_in_time);
    T(without_reconnect_a_flush_tells_once_of_writes_that_may_be_lost);
    T(another_export_in_the_place_of_ours_is_refused);
    T(closing_waits_for_no_server);
    T(a_cancelled_disk_fails_at_once);
    T(nothing_is_left_after_closing);
#undef T
    return g_test_run();
}
