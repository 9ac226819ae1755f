/* Run folders: a name is one VM's at a time, whatever became of the one before. */
#include "control/place.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *runtime; /* XDG_RUNTIME_DIR */

static char *in_folder(const char *name, const char *file)
{
    return g_build_filename(runtime, "hutch", name, file, NULL);
}

static bool exists(const char *name, const char *file)
{
    g_autofree char *path = in_folder(name, file);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void claim(Place *p, const char *name)
{
    GError *error = NULL;

    place_claim(p, name, &error);
    g_assert_no_error(error);
}

static void refused(const char *name, const char *why)
{
    g_autoptr(GError) error = NULL;
    Place p;

    g_assert_false(place_claim(&p, name, &error));
    if (!strstr(error->message, why))
        g_error("refused with \"%s\", not \"%s\"", error->message, why);
    place_release(&p);
}

static void a_claimed_folder_is_private_and_gone_when_released(void)
{
    g_autofree char *folder = in_folder("a", NULL);
    struct stat st;
    Place p;

    claim(&p, "a");
    g_assert_cmpint(stat(folder, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0700);
    place_release(&p);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
    place_release(&p);
}

static void a_name_in_use_is_refused_with_the_process_that_has_it(void)
{
    g_autofree char *pid = g_strdup_printf("process %d", (int)getpid());
    Place p, other;

    claim(&p, "b");
    refused("b", pid);
    refused("b", "runs already");
    claim(&other, "c");
    place_release(&other);
    place_release(&p);
    claim(&p, "b");
    place_release(&p);
}

static void what_a_dead_monitor_left_is_taken_over(void)
{
    g_autofree char *socket = in_folder("d", "control.sock");
    pid_t child = fork();
    Place p;
    int status;

    if (!child) {
        claim(&p, "d");
        g_file_set_contents(socket, "", 0, NULL);
        _exit(0); /* without releasing it */
    }
    waitpid(child, &status, 0);
    g_assert_true(exists("d", "lock"));
    claim(&p, "d");
    g_assert_false(exists("d", "control.sock"));
    place_release(&p);
    g_assert_false(exists("d", NULL));
}

static int held; /* atomic */

static void *contend(void *opaque)
{
    for (unsigned i = 0; i < 300; i++) {
        Place p;

        if (!place_claim(&p, "e", NULL))
            continue;
        g_assert_cmpint(__atomic_add_fetch(&held, 1, __ATOMIC_SEQ_CST), ==, 1);
        g_assert_true(exists("e", "lock"));
        __atomic_sub_fetch(&held, 1, __ATOMIC_SEQ_CST);
        place_release(&p);
    }
    return NULL;
}

static void of_many_that_claim_and_release_one_has_it_at_a_time(void)
{
    pthread_t threads[4];

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        pthread_create(&threads[i], NULL, contend, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        pthread_join(threads[i], NULL);
    g_assert_false(exists("e", NULL));
}

static ino_t lock_inode(const char *name)
{
    g_autofree char *path = in_folder(name, "lock");
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_ino;
}

/* Else a dead monitor's number could pass for the holder's until that has written its. */
static void a_lock_file_serves_one_monitor_only(void)
{
    g_autofree char *path = in_folder("t", "lock");
    pid_t child = fork();
    int status, old;
    Place p;

    if (child == 0) {
        claim(&p, "t");
        _exit(0);
    }
    waitpid(child, &status, 0);
    old = open(path, O_RDONLY); /* so that its number is not used again */
    g_assert_cmpint(old, >=, 0);
    struct stat st;
    g_assert_cmpint(fstat(old, &st), ==, 0);
    claim(&p, "t");
    g_assert_cmpuint(lock_inode("t"), !=, st.st_ino);
    close(old);
    place_release(&p);
}

static PlaceInfo look(const char *name)
{
    GError *error = NULL;
    PlaceInfo info;

    place_look(name, &info, &error);
    g_assert_no_error(error);
    return info;
}

static void looking_tells_who_runs_has_ended_or_died(void)
{
    g_auto(GStrv) names = NULL;
    pid_t child;
    int status;
    Place p;

    g_assert_cmpint(look("l").state, ==, PLACE_NONE);
    claim(&p, "l");
    g_assert_cmpint(look("l").state, ==, PLACE_RUNNING);
    g_assert_cmpint(look("l").pid, ==, getpid());
    g_assert_true(place_write(&p, PLACE_CONFIG, "{}", NULL));
    g_assert_true(place_write(&p, "agent.lock", "", NULL));
    g_assert_true(place_write(&p, PLACE_RESULT, "{}", NULL));
    g_assert_true(place_write(&p, PLACE_CONSOLE_LOG ".1", "x", NULL));
    place_keep(&p);
    g_assert_cmpint(look("l").state, ==, PLACE_ENDED);
    g_assert_true(exists("l", PLACE_CONFIG) && exists("l", PLACE_CONSOLE_LOG ".1"));
    g_assert_false(exists("l", "agent.lock") || exists("l", "lock"));
    child = fork();
    if (child == 0) {
        claim(&p, "l");
        _exit(exists("l", PLACE_RESULT));
    }
    waitpid(child, &status, 0);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(look("l").state, ==, PLACE_DEAD);
    g_assert_cmpint(look("l").pid, ==, child);
    g_assert_cmpint(place_pidfd("l", NULL), ==, -1);
    names = place_list(NULL);
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    claim(&p, "l");
    place_release(&p);
}

/* A look must not make a claim fail, nor may a number of before be taken for the
 * holder's. */
static void *look_on(void *opaque)
{
    while (!__atomic_load_n((bool *)opaque, __ATOMIC_ACQUIRE)) {
        PlaceInfo info = look("m");
        int fd = place_pidfd("m", NULL);

        if (info.state == PLACE_RUNNING)
            g_assert_true(info.pid == 0 || info.pid == getpid());
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

static void looking_disturbs_nobody_who_claims(void)
{
    bool over = false;
    pthread_t thread;

    pthread_create(&thread, NULL, look_on, &over);
    for (unsigned i = 0; i < 1000; i++) {
        Place p;

        claim(&p, "m");
        place_release(&p);
    }
    __atomic_store_n(&over, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
}

static void a_claimed_folder_gets_a_free_name_only_and_stays_claimed(void)
{
    g_autoptr(GError) error = NULL;
    Place p, other;

    claim(&p, "n");
    claim(&other, "o");
    g_assert_false(place_rename(&p, "o", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_false(place_rename(&p, "../o", NULL));
    place_release(&other);
    g_assert_true(place_rename(&p, "o", NULL));
    g_assert_cmpint(look("n").state, ==, PLACE_NONE);
    g_assert_cmpint(look("o").state, ==, PLACE_RUNNING);
    refused("o", "runs already");
    g_assert_true(place_write(&p, PLACE_RESULT, "{}", NULL));
    place_keep(&p);
    g_assert_true(place_move("o", "n", NULL));
    g_assert_cmpint(look("n").state, ==, PLACE_ENDED);
    g_assert_false(exists("o", NULL));
    g_clear_error(&error);
    claim(&p, "o");
    g_assert_false(place_move("n", "o", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_clear_error(&error);
    g_assert_false(place_move("o", "q", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_cmpint(look("o").state, ==, PLACE_RUNNING);
    place_release(&p);
    claim(&p, "n");
    place_release(&p);
}

static void a_claimer_whose_folder_was_renamed_begins_again(void)
{
    for (unsigned i = 0; i < 200; i++) {
        pid_t child;
        int status;
        Place p;

        claim(&p, "r");
        child = fork();
        if (child == 0) {
            Place mine;

            while (!place_claim(&mine, "r", NULL))
                ;
            _exit(look("r").pid != getpid() || !exists("r", "lock"));
        }
        g_assert_true(place_rename(&p, "s", NULL));
        place_release(&p);
        waitpid(child, &status, 0);
        g_assert_cmpint(status, ==, 0);
        claim(&p, "r");
        place_release(&p);
    }
}

static void names_that_could_leave_the_folder_are_refused(void)
{
    g_autofree char *longer = g_strnfill(65, 'x');
    static const char *const bad[] = {"",      ".",  "..",  ".a",   "a/b",
                                      "/",     "-a", "a\n", "\xff", "\xc2\x9b" /* CSI */,
                                      "\u202e" /* right to left */};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++)
        refused(bad[i], "cannot be a VM's name");
    refused(longer, "64 bytes");
    g_assert_null(place_find("../x", NULL));
}

static void a_folder_that_is_something_else_is_refused(void)
{
    g_autofree char *path = in_folder("f", NULL);
    g_autofree char *lock = in_folder("g", "lock");
    g_autofree char *folder = in_folder("g", NULL);

    g_assert_cmpint(symlink(runtime, path), ==, 0);
    refused("f", "open the folder");
    g_remove(path);
    g_mkdir(folder, 0700);
    g_assert_cmpint(symlink("/dev/null", lock), ==, 0);
    refused("g", "lock");
    g_remove(lock);
    g_rmdir(folder);
}

static void without_a_place_for_it_the_way_out_is_told(void)
{
    g_autofree char *root = NULL;

    g_unsetenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0) {
        root = place_find("x", NULL);
        g_assert_cmpstr(root, ==, "/run/hutch/x/control.sock");
    } else {
        refused("x", "XDG_RUNTIME_DIR");
    }
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
}

int main(int argc, char **argv)
{
    int status;
    g_autofree char *hutch = NULL;

    g_test_init(&argc, &argv, NULL);
    runtime = g_dir_make_tmp("hutch-place-XXXXXX", NULL);
    hutch = g_build_filename(runtime, "hutch", NULL);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
#define TEST(name) g_test_add_func("/control/place/" #name, name)
    TEST(a_claimed_folder_is_private_and_gone_when_released);
    TEST(a_name_in_use_is_refused_with_the_process_that_has_it);
    TEST(what_a_dead_monitor_left_is_taken_over);
    TEST(of_many_that_claim_and_release_one_has_it_at_a_time);
    TEST(a_lock_file_serves_one_monitor_only);
    TEST(looking_tells_who_runs_has_ended_or_died);
    TEST(looking_disturbs_nobody_who_claims);
    TEST(a_claimed_folder_gets_a_free_name_only_and_stays_claimed);
    TEST(a_claimer_whose_folder_was_renamed_begins_again);
    TEST(names_that_could_leave_the_folder_are_refused);
    TEST(a_folder_that_is_something_else_is_refused);
    TEST(without_a_place_for_it_the_way_out_is_told);
    status = g_test_run();
    g_rmdir(hutch);
    g_rmdir(runtime);
    g_free(runtime);
    return status;
}
