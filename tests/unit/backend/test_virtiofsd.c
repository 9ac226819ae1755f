/* src/vhost/virtiofsd.c with this machine's virtiofsd, and with programs that stand in
 * for one. */
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backend/vhost_user.h"
#include "backend/virtiofsd.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"

static char folder[] = "/tmp/virtiofsd-XXXXXX";
static char *old_path;
static IoLoop *loop;

/* A program named virtiofsd that does this. */
static void stand_in(const char *script)
{
    g_autofree char *path = g_build_filename(folder, "virtiofsd", NULL);
    g_autofree char *text = g_strdup_printf(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo virtiofsd 1.10 && exit\n%s\n", script);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(g_chmod(path, 0755), ==, 0);
    g_setenv("PATH", folder, true);
}

static void real_one(void)
{
    g_autofree char *path = g_build_filename(folder, "virtiofsd", NULL);

    g_unlink(path);
    g_setenv("PATH", old_path, true);
}

static Virtiofsd *new_one(bool readonly)
{
    g_autoptr(GError) error = NULL;
    Virtiofsd *d = virtiofsd_new(folder, readonly, "share0", loop, &error);

    if (!d && g_error_matches(error, VM_ERROR, VM_ERROR_UNSUPPORTED)) {
        g_test_skip(error->message);
        return NULL;
    }
    g_assert_no_error(error);
    return d;
}

static void it_starts_answers_and_hangs_up_when_it_is_stopped(void)
{
    g_autoptr(GError) error = NULL;

    real_one();
    for (int readonly = 0; readonly < 2; readonly++) {
        VhostUser u = {.fd = -1};
        Virtiofsd *d = new_one(readonly);
        int fd;

        if (!d)
            return;
        fd = virtiofsd_start(d, &error);
        g_assert_no_error(error);
        vhost_user_limit(&u, 20000);
        if (!vhost_user_knock(&u, fd, &error) || !vhost_user_wait(&u, &error) ||
            !vhost_user_greet(&u, &error))
            g_error("%s (%s)", error->message, virtiofsd_last_words(d));
        g_assert_true(u.features & BIT64(32));
        virtiofsd_stop(d);
        g_assert_false(vhost_user_set_config(&u, 0, "", 1, &error) &&
                       vhost_user_greet(&u, &error));
        g_clear_error(&error);
        vhost_user_close(&u);
        virtiofsd_free(d);
    }
}

static void one_that_fails_is_quoted(void)
{
    g_autoptr(GError) error = NULL;
    VhostUser u = {.fd = -1};
    Virtiofsd *d;

    stand_in("echo 'no such luck' >&2; exit 1");
    d = new_one(false);
    vhost_user_limit(&u, 10000);
    if (vhost_user_knock(&u, virtiofsd_start(d, &error), &error) &&
        vhost_user_wait(&u, &error))
        g_assert_false(vhost_user_greet(&u, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_IO);
    g_assert_cmpstr(virtiofsd_last_words(d), ==, "no such luck");
    vhost_user_close(&u);
    virtiofsd_free(d);
}

static void it_is_started_five_times_a_minute_at_most(void)
{
    Virtiofsd *d;

    stand_in("exec sleep 60");
    d = new_one(false);
    for (unsigned i = 0; i < 5; i++) {
        int fd = virtiofsd_start(d, NULL);

        g_assert_cmpint(fd, >=, 0);
        close(fd);
        g_assert_true((virtiofsd_next_start(d) <= clock_ns()) == (i < 4));
    }
    g_assert_cmpint(virtiofsd_next_start(d) - clock_ns(), >, 50000000000);
    virtiofsd_free(d);
}

static void what_is_not_a_folder_is_refused(void)
{
    g_autoptr(GError) error = NULL;

    stand_in("exit 0");
    g_assert_null(virtiofsd_new("/dev/null", false, "share0", loop, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_null(virtiofsd_new("/no/such", false, "share0", loop, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_IO);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
    g_assert_nonnull(mkdtemp(folder));
    old_path = g_strdup(g_getenv("PATH"));
    loop = ioloop_new(NULL);
#define TEST(fn) g_test_add_func("/virtiofsd/" #fn, fn)
    TEST(it_starts_answers_and_hangs_up_when_it_is_stopped);
    TEST(one_that_fails_is_quoted);
    TEST(it_is_started_five_times_a_minute_at_most);
    TEST(what_is_not_a_folder_is_refused);
    status = g_test_run();
    real_one();
    rmdir(folder);
    ioloop_free(loop);
    return status;
}
