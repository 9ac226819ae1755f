/* See fleet.h.  The states of many VMs are asked for at once: to all of them goes the
 * same text, and their answers are collected as they come, so that two hundred VMs cost
 * little more than one, and one that hangs does not hide the others. */
#include "src/cli/fleet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

enum {
    MAX_FILE = 1 << 20,
    MAX_ANSWER = 64 * 1024,
    AT_ONCE = 256, /* as the usual limit of open files allows */
    ANSWER_MS = 1000,
};

const char *fleet_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

void fleet_print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
}

json_t *fleet_read(const char *name, const char *file)
{
    g_autofree char *path = place_file(name, file, NULL);
    autofd fd = path ? open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    g_autofree char *text = NULL;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > MAX_FILE)
        return NULL;
    text = g_malloc((gsize)st.st_size + 1);
    return fd_pread_all(fd, text, (size_t)st.st_size, 0, NULL)
               ? json_loadb(text, (size_t)st.st_size, 0, NULL)
               : NULL;
}

bool fleet_fail_none(const char *vm, GError **error)
{
    return fail(error, VM_ERROR_NOT_FOUND,
                "there is no VM named '%s'; 'hutch ps' lists "
                "them",
                vm);
}

bool fleet_fail_not_running(const char *vm, const PlaceInfo *info, GError **error)
{
    if (info->state == PLACE_NONE)
        return fleet_fail_none(vm, error);
    return fail(error, VM_ERROR_NOT_FOUND,
                info->state == PLACE_DEAD
                    ? "the VM '%s' does not run any more: its monitor was killed"
                    : "the VM '%s' has ended; 'hutch wait' tells how",
                vm);
}

int fleet_ms_left(int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns - clock_ns();

    return deadline_ns < 0 ? -1 : (int)CLAMP((left_ns + 999999) / 1000000, 0, 1 << 30);
}

bool fleet_wait_pidfd(int pidfd, int64_t deadline_ns)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int n;

    do
        n = poll(&p, 1, fleet_ms_left(deadline_ns));
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* ---- which ----------------------------------------------------------------------------
 */

static char **all_of(unsigned states, GError **error)
{
    g_auto(GStrv) names = place_list(error);
    GPtrArray *chosen = g_ptr_array_new();

    for (char **name = names; name && *name; name++) {
        PlaceInfo info;

        if (place_look(*name, &info, NULL) && states & BIT(info.state))
            g_ptr_array_add(chosen, g_strdup(*name));
    }
    g_ptr_array_add(chosen, NULL);
    if (names)
        return (char **)g_ptr_array_free(chosen, FALSE);
    g_strfreev((char **)g_ptr_array_free(chosen, FALSE));
    return NULL;
}

char **fleet_choose(const FleetArgs *args, char **names, unsigned states, GError **error)
{
    if (args->all && *names)
        fail(error, VM_ERROR_INVALID, "--all and a name ('%s'): give one of the two",
             *names);
    else if (!args->all && !*names)
        fail(error, VM_ERROR_INVALID, "which VM? Give a name, or --all");
    else
        return args->all ? all_of(states, error) : g_strdupv(names);
    return NULL;
}

bool fleet_each(const FleetArgs *args, char **vms, FleetDo *fn, GError **error)
{
    json_t *all = json_array();
    g_autoptr(GError) last = NULL;

    for (; *vms; vms++) {
        json_t *one = json_pack("{s:s}", "name", *vms);
        g_autoptr(GError) inner = NULL;

        if (!fn(args, *vms, one, &inner)) {
            if (last)
                log_error("%s", last->message);
            g_clear_error(&last);
            json_object_set_new(one, "error", json_string(inner->message));
            last = g_steal_pointer(&inner);
        }
        json_array_append_new(all, one ? one : json_null());
    }
    if (args->json)
        fleet_print_json(json_incref(all));
    json_decref(all);
    if (!last)
        return true;
    g_propagate_error(error, g_steal_pointer(&last));
    return false;
}

/* ---- how they are ---------------------------------------------------------------------
 */

typedef struct Asked {
    FleetVm *vm;
    GString *in;
} Asked;

/* -1: it cannot be asked, and `state` says why. */
static int ask(FleetVm *vm)
{
    static const char text[] =
        "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-status\"}";
    g_autofree char *path = place_find(vm->name, NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    autofd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    g_strlcpy(vm->state, "unresponsive", sizeof(vm->state));
    if (fd < 0 || !path || strlen(path) >= sizeof(addr.sun_path))
        return -1;
    strcpy(addr.sun_path, path);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            g_strlcpy(vm->state, "starting", sizeof(vm->state));
        return -1;
    }
    return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text)
               ? fd_steal(&fd)
               : -1;
}

/* Takes whole lines; true when the state is among them. */
static bool take_lines(Asked *a)
{
    char *end;
    bool found = false;

    while (!found && (end = memchr(a->in->str, '\n', a->in->len))) {
        size_t len = (size_t)(end - a->in->str);
        json_t *line = json_loadb(a->in->str, len, 0, NULL);
        const char *state = fleet_text(json_object_get(line, "return"), "status");

        if (*state) {
            g_strlcpy(a->vm->state, state, sizeof(a->vm->state));
            found = true;
        }
        json_decref(line);
        g_string_erase(a->in, 0, (gssize)len + 1);
    }
    return found;
}

/* False: nothing more is to be expected. */
static bool hear(Asked *a, int fd)
{
    char part[4096];
    ssize_t n = recv(fd, part, sizeof(part), 0);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0 || a->in->len + (size_t)n > MAX_ANSWER)
        return false;
    g_string_append_len(a->in, part, n);
    return !take_lines(a);
}

static void collect(Asked *asked, struct pollfd *polls, unsigned n)
{
    int64_t deadline_ns = clock_ns() + ANSWER_MS * 1000000ll;
    unsigned left = n;

    while (left && poll(polls, n, fleet_ms_left(deadline_ns)) > 0)
        for (unsigned i = 0; i < n; i++)
            if (polls[i].revents && !hear(&asked[i], polls[i].fd)) {
                fd_close(&polls[i].fd);
                left--;
            }
}

static void ask_some(FleetVm *vms, unsigned n)
{
    g_autofree Asked *asked = g_new0(Asked, n);
    g_autofree struct pollfd *polls = g_new0(struct pollfd, n);
    unsigned n_asked = 0;

    for (unsigned i = 0; i < n; i++) {
        int fd = vms[i].info.state == PLACE_RUNNING ? ask(&vms[i]) : -1;

        if (fd < 0)
            continue;
        asked[n_asked] = (Asked){&vms[i], g_string_new(NULL)};
        polls[n_asked++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    collect(asked, polls, n_asked);
    for (unsigned i = 0; i < n_asked; i++) {
        fd_close(&polls[i].fd);
        g_string_free(asked[i].in, TRUE);
    }
}

bool fleet_look(char **names, FleetVm *ret, GError **error)
{
    static const char *const words[] = {"", "", "dead", "ended"};
    unsigned n = g_strv_length(names);

    for (unsigned i = 0; i < n; i++) {
        ret[i] = (FleetVm){.name = names[i]};
        if (!place_look(names[i], &ret[i].info, error))
            return false;
        g_strlcpy(ret[i].state, words[ret[i].info.state], sizeof(ret[i].state));
    }
    for (unsigned at = 0; at < n; at += AT_ONCE)
        ask_some(ret + at, MIN(n - at, AT_ONCE));
    return true;
}
