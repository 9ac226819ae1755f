/* src/block/lock.c: two VMs never write one disk, whichever monitor runs them.  The
 * other monitor is played by QEMU's own tools, where they are installed. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "backend/block.h"
#include "util/fd.h"

typedef struct File {
    char *dir, *path;
} File;

static void file_set_up(File *f, const void *data)
{
    int fd;

    f->dir = g_dir_make_tmp("hutch-lock-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "disk.raw", NULL);
    fd = open(f->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    close(fd);
}

static void file_tear_down(File *f, const void *data)
{
    g_remove(f->path);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
}

static BlockDev *open_disk(const File *f, bool readonly, GError **error)
{
    return block_open(
        &(BlockOptions){.path = f->path, .readonly = readonly, .lock = true}, error);
}

static BlockDev *must_open(const File *f, bool readonly)
{
    g_autoptr(GError) error = NULL;
    BlockDev *dev = open_disk(f, readonly, &error);

    g_assert_no_error(error);
    return dev;
}

static void must_not_open(const File *f, bool readonly, const char *holder)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(open_disk(f, readonly, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    if (!strstr(error->message, f->path) || !strstr(error->message, holder))
        g_error("\"%s\" does not name %s", error->message, holder);
}

static void one_writer_excludes_everybody(File *f, const void *data)
{
    BlockDev *dev = must_open(f, false);

    must_not_open(f, false, "this VM itself");
    must_not_open(f, true, "this VM itself");
    block_close(dev);
    block_close(must_open(f, false));
}

static void readers_share_and_keep_writers_out(File *f, const void *data)
{
    BlockDev *a = must_open(f, true), *b = must_open(f, true);

    must_not_open(f, false, "this VM itself");
    block_close(a);
    must_not_open(f, false, "this VM itself");
    block_close(b);
    block_close(must_open(f, false));
}

static void a_refused_attempt_leaves_no_lock_behind(File *f, const void *data)
{
    BlockDev *reader = must_open(f, true);

    must_not_open(f, false, "this VM itself");
    block_close(must_open(f, true));
    block_close(reader);
}

static void locking_off_neither_takes_nor_heeds_locks(File *f, const void *data)
{
    BlockOptions options = {.path = f->path, .lock = false};
    BlockDev *dev = must_open(f, false), *off = block_open(&options, NULL);

    g_assert_nonnull(off);
    block_close(dev);
    block_close(must_open(f, false));
    block_close(off);
}

static void another_process_is_named(File *f, const void *data)
{
    int ready[2];
    g_autofree char *name = NULL;
    char c;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    if (pid == 0) {
        if (must_open(f, false) && write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    g_assert_cmpint(read(ready[0], &c, 1), ==, 1);
    name = g_strdup_printf("(process %d)", pid);
    must_not_open(f, false, name);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    block_close(must_open(f, false));
}

/* An io_uring is taken apart after its process is gone, and refers to the file. */
static void what_has_ended_holds_nothing(File *f, const void *data)
{
    BlockOptions options = {.path = f->path, .lock = true, .aio = BLOCK_AIO_IO_URING};

    for (unsigned i = 0; i < 20; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            BlockDev *dev = block_open(&options, NULL);
            IoLoop *loop = ioloop_new(NULL);
            BlockQueue *q = dev ? block_queue_new(dev, loop, 64, NULL) : NULL;

            if (q && i % 2) { /* else as if killed */
                block_queue_free(q);
                block_close(dev);
            }
            _exit(0);
        }
        waitpid(pid, NULL, 0);
        block_close(must_open(f, false));
    }
}

/* ---- with QEMU's tools ----------------------------------------------------------------
 */

static bool have_qemu_io(void)
{
    g_autofree char *path = g_find_program_in_path("qemu-io");

    if (!path)
        g_test_skip("qemu-io is not installed");
    return path != NULL;
}

/* Whether QEMU can open the disk for writing, or for reading. */
static bool qemu_opens(const File *f, bool readonly)
{
    const char *argv[] = {"qemu-io", "-f", "raw", "-c", "r 0 1", f->path, NULL, NULL};
    g_autofree char *err = NULL;
    int status;

    if (readonly) {
        argv[5] = "-r";
        argv[6] = f->path;
    }
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                               NULL, NULL, &err, &status, NULL));
    if (status != 0)
        g_assert_nonnull(strstr(err, "lock"));
    return status == 0;
}

static void our_disk_is_locked_for_qemu(File *f, const void *data)
{
    BlockDev *dev;

    if (!have_qemu_io())
        return;
    g_assert_true(qemu_opens(f, false));
    dev = must_open(f, false);
    g_assert_false(qemu_opens(f, false));
    block_close(dev);
    dev = must_open(f, true);
    g_assert_false(qemu_opens(f, false));
    g_assert_true(qemu_opens(f, true));
    block_close(dev);
    g_assert_true(qemu_opens(f, false));
}

/* qemu-io keeps the disk open while it waits for commands. */
static GPid hold_with_qemu(const File *f, bool readonly, int *in)
{
    const char *argv[] = {"qemu-io", "-f", "raw", f->path, NULL, NULL};
    char answer[4096] = {0};
    size_t len = 0;
    ssize_t n;
    int out;
    GPid pid;

    if (readonly) {
        argv[3] = "-r";
        argv[4] = f->path;
    }
    g_assert_true(g_spawn_async_with_pipes(
        NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
        NULL, &pid, in, &out, NULL, NULL));
    g_assert_cmpint(write(*in, "read 0 512\n", 11), ==, 11);
    while (!strstr(answer, "512/512") &&
           (n = read(out, answer + len, sizeof(answer) - 1 - len)) > 0)
        len += (size_t)n;
    g_assert_nonnull(strstr(answer, "512/512"));
    close(out);
    return pid;
}

static void let_go(GPid pid, int in)
{
    close(in); /* end of its commands */
    waitpid(pid, NULL, 0);
    g_spawn_close_pid(pid);
}

static void qemus_disk_is_locked_for_us(File *f, const void *data)
{
    GPid pid;
    int in;

    if (!have_qemu_io())
        return;
    pid = hold_with_qemu(f, false, &in);
    must_not_open(f, false, "qemu-io");
    must_not_open(f, true, "qemu-io");
    let_go(pid, in);
    pid = hold_with_qemu(f, true, &in);
    block_close(must_open(f, true));
    let_go(pid, in);
    block_close(must_open(f, false));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
#define T(fn) g_test_add("/block_lock/" #fn, File, NULL, file_set_up, fn, file_tear_down)
    T(one_writer_excludes_everybody);
    T(readers_share_and_keep_writers_out);
    T(a_refused_attempt_leaves_no_lock_behind);
    T(locking_off_neither_takes_nor_heeds_locks);
    T(another_process_is_named);
    T(what_has_ended_holds_nothing);
    T(our_disk_is_locked_for_qemu);
    T(qemus_disk_is_locked_for_us);
#undef T
    return g_test_run();
}
