/* What a service manager is told: over a socket like systemd's. */
#include "util/service.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "util/fd.h"

/* Listens at `path`, an abstract name if it begins with '@'. */
static int manager(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    size_t len = strlen(path);

    memcpy(addr.sun_path, path, len);
    if (*path == '@')
        addr.sun_path[0] = 0;
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)),
                    ==, 0);
    return fd;
}

static void told(int fd, const char *text)
{
    char buf[256] = "";
    ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);

    g_assert_cmpint(n, ==, (ssize_t)strlen(text));
    g_assert_cmpstr(buf, ==, text);
}

static void at(const char *path)
{
    autofd fd = manager(path);

    g_setenv("NOTIFY_SOCKET", path, TRUE);
    service_notify("READY=1\nSTATUS=the VM runs");
    told(fd, "READY=1\nSTATUS=the VM runs");
    service_notify("STOPPING=1");
    told(fd, "STOPPING=1");
}

static void the_manager_hears_what_it_asked_for(void)
{
    g_autofree char *folder = g_dir_make_tmp("hutch-service-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "notify", NULL);
    g_autofree char *abstract = g_strdup_printf("@%s/x", folder);

    at(path);
    at(abstract);
    g_unlink(path);
    g_rmdir(folder);
}

/* None of these may fail, wait or be written to. */
static void what_is_no_manager_is_passed_over(void)
{
    static const char *const odd[] = {"", "relative", "/nonexistent/socket", "vsock:2:1",
                                      "/dev/null"};
    g_autofree char *longer = g_strnfill(200, '/');

    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        g_setenv("NOTIFY_SOCKET", odd[i], TRUE);
        service_notify("READY=1");
    }
    g_setenv("NOTIFY_SOCKET", longer, TRUE);
    service_notify("READY=1");
    g_unsetenv("NOTIFY_SOCKET");
    service_notify("READY=1");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/service/the_manager_hears_what_it_asked_for",
                    the_manager_hears_what_it_asked_for);
    g_test_add_func("/service/what_is_no_manager_is_passed_over",
                    what_is_no_manager_is_passed_over);
    return g_test_run();
}
