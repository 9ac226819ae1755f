/* NBD servers for tests: those that people use, each a child that dies with the test. */
#pragma once

#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/unit/backend/scratch.h"

typedef struct NbdServer {
    GPid pid;
    char *dir; /* sockets, pid files and images; removed at the end */
    char **argv;
} NbdServer;

static inline void die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static inline bool have_programs(const char *first, const char *second)
{
    g_autofree char *a = g_find_program_in_path(first);
    g_autofree char *b = g_find_program_in_path(second ? second : first);

    if (a && b)
        return true;
    g_test_skip("qemu-nbd, nbdkit and psktool are not all here");
    return false;
}

/* Servers write their pid when they listen. */
static inline void server_run(NbdServer *s)
{
    g_autofree char *pid_file = g_build_filename(s->dir, "pid", NULL);
    g_autofree char *socket = g_build_filename(s->dir, "sock", NULL);
    g_autoptr(GError) error = NULL;

    g_remove(pid_file);
    g_remove(socket);
    g_spawn_async(NULL, s->argv, NULL,
                  G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD |
                      G_SPAWN_STDERR_TO_DEV_NULL,
                  die_with_parent, NULL, &s->pid, &error);
    g_assert_no_error(error);
    for (int i = 0; !g_file_test(pid_file, G_FILE_TEST_EXISTS); i++) {
        g_assert_cmpint(i, <, 3000);
        g_assert_cmpint(waitpid(s->pid, NULL, WNOHANG), ==, 0);
        g_usleep(10000);
    }
}

static inline void server_kill(NbdServer *s)
{
    kill(s->pid, SIGKILL);
    g_assert_cmpint(waitpid(s->pid, NULL, 0), ==, s->pid);
    s->pid = 0;
}

/* "@" in an argument stands for the server's folder. */
static inline void server_set_argv(NbdServer *s, const char *first, va_list more)
{
    GPtrArray *argv = g_ptr_array_new();

    for (const char *arg = first; arg; arg = va_arg(more, const char *)) {
        g_auto(GStrv) parts = g_strsplit(arg, "@", -1);

        g_ptr_array_add(argv, g_strjoinv(s->dir, parts));
    }
    g_ptr_array_add(argv, NULL);
    g_strfreev(s->argv);
    s->argv = (char **)g_ptr_array_free(argv, FALSE);
}

/* Another server in the place of this one. */
static inline void server_change(NbdServer *s, const char *first,
                                 ...) G_GNUC_NULL_TERMINATED;
static inline void server_change(NbdServer *s, const char *first, ...)
{
    va_list more;

    if (s->pid)
        server_kill(s);
    va_start(more, first);
    server_set_argv(s, first, more);
    va_end(more);
    server_run(s);
}

/* A folder, with an image "disk" of `size` bytes in it. */
static inline void server_prepare(NbdServer *s, size_t size)
{
    *s = (NbdServer){.dir = new_dir()};
    g_free(new_file(s->dir, "disk", size));
}

static inline void server_start(NbdServer *s, size_t size, const char *first,
                                ...) G_GNUC_NULL_TERMINATED;
static inline void server_start(NbdServer *s, size_t size, const char *first, ...)
{
    va_list more;

    server_prepare(s, size);
    va_start(more, first);
    server_set_argv(s, first, more);
    va_end(more);
    server_run(s);
}

#define QEMU_NBD "qemu-nbd", "-t", "-e", "0", "-f", "raw", "--pid-file=@/pid"
#define NBDKIT   "nbdkit", "-f", "-P", "@/pid"

static inline char *server_uri(const NbdServer *s, const char *scheme, const char *query)
{
    return g_strdup_printf("%s:///?socket=%s/sock%s", scheme, s->dir, query);
}

static inline void server_end(NbdServer *s)
{
    if (s->pid)
        server_kill(s);
    g_strfreev(s->argv);
    remove_dir(s->dir);
}

static inline unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&a, &len), ==, 0);
    close(fd);
    return ntohs(a.sin_port);
}
