/* See fleet.h.  The states of many VMs are asked for at once: to all of them goes the
 * same text, and their answers are collected as they come, so that two hundred VMs cost
 * little more than one, and one that hangs does not hide the others. */
#include "src/cli/fleet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "control/ask.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum {
    MAX_FILE = 1 << 20,
    ANSWER_MS = 1000,
};

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

bool fleet_wait_pidfd(int pidfd, int64_t deadline_ns)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int n;

    do
        n = poll(&p, 1, clock_left_ms(deadline_ns));
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* ---- which --------------------------------------------------------------------- */

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
        cli_print_json(json_incref(all));
    json_decref(all);
    if (!last)
        return true;
    g_propagate_error(error, g_steal_pointer(&last));
    return false;
}

/* ---- how they are -------------------------------------------------------------- */

/* By its lock: "starting" until a VM that runs was asked. */
static bool look(FleetVm *vm, GError **error)
{
    static const char *const words[] = {[PLACE_NONE] = "",
                                        [PLACE_RUNNING] = "starting",
                                        [PLACE_DEAD] = "dead",
                                        [PLACE_ENDED] = "ended"};

    if (!place_look(vm->name, &vm->info, error))
        return false;
    g_strlcpy(vm->state, words[vm->info.state], sizeof(vm->state));
    return true;
}

/* A monitor that is not at its socket does not listen yet, or has ended since it was
 * looked at. */
static bool judge(FleetVm *vm, const ControlAnswer *answer, GError **error)
{
    const char *state = json_get_text(answer->value, "status");

    if (g_error_matches(answer->error, VM_ERROR, VM_ERROR_NOT_FOUND))
        return look(vm, error);
    g_strlcpy(vm->state, *state ? state : "unresponsive", sizeof(vm->state));
    return true;
}

bool fleet_look(char **names, FleetVm *ret, GError **error)
{
    unsigned n = g_strv_length(names), n_asked = 0;
    g_autofree ControlAnswer *answers = g_new0(ControlAnswer, n);
    g_autofree FleetVm **asked = g_new0(FleetVm *, n);
    bool ok = true;

    for (unsigned i = 0; i < n; i++) {
        ret[i] = (FleetVm){.name = names[i]};
        if (!look(&ret[i], error))
            return false;
        if (ret[i].info.state != PLACE_RUNNING)
            continue;
        asked[n_asked] = &ret[i];
        answers[n_asked++].vm = names[i];
    }
    control_ask(answers, n_asked, "query-status", ANSWER_MS);
    for (unsigned i = 0; ok && i < n_asked; i++)
        ok = judge(asked[i], &answers[i], error);
    control_answers_clear(answers, n_asked);
    return ok;
}
