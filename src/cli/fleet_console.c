/* hutch console: this terminal becomes the console of a VM that was detached.  The keys
 * are the guest's, Ctrl-C too, but for one that leaves. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/fleet.h"
#include "src/cli/interrupt.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum { LEAVE = 0x1d /* Ctrl-] */ };

FLEET_TABLE(fleet_console_args,
            FLEET_ROW("log", 'l', PARAM_BOOL, log,
                      "print what it said, as 'hutch logs' does, and end"),
            FLEET_ROW("json", 0, PARAM_BOOL, json,
                      "with --log: each line as a JSON string"));

const char fleet_console_notes[] =
    "Ctrl-] leaves; the VM goes on.  One at a time can be there: who comes second waits "
    "until the first has left.  What was said last, up to 64 KiB, is shown first.  Input "
    "may be a pipe: its end is not the end of the session, which is the VM's.";

static struct termios found;

static bool go_raw(void)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &found) < 0)
        return false;
    raw = found;
    cfmakeraw(&raw);
    raw.c_oflag = found.c_oflag;
    return tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

/* False: there is nothing more to come. */
static bool copy_output(int socket)
{
    char part[16 * 1024];
    ssize_t n = read(socket, part, sizeof(part));

    return n < 0 ? errno == EINTR : n > 0 && fd_write_all(STDOUT_FILENO, part, n, NULL);
}

typedef enum { TYPED, LEFT, INPUT_ENDED } Typed;

static Typed copy_input(int socket, bool terminal)
{
    char part[4096];
    ssize_t n = read(STDIN_FILENO, part, sizeof(part));
    char *leave;

    if (n < 0 && errno == EINTR)
        return TYPED;
    if (n <= 0)
        return INPUT_ENDED;
    leave = terminal ? memchr(part, LEAVE, (size_t)n) : NULL;
    if (!fd_write_all(socket, part, leave ? (size_t)(leave - part) : (size_t)n, NULL))
        return INPUT_ENDED; /* output tells that it is over */
    return leave ? LEFT : TYPED;
}

/* True if the VM hung up, false if the person did. */
static bool converse(int socket, bool terminal)
{
    struct pollfd p[] = {{.fd = socket, .events = POLLIN},
                         {.fd = STDIN_FILENO, .events = POLLIN}};

    while (!interrupt_signal()) {
        if (poll(p, G_N_ELEMENTS(p), -1) < 0)
            continue; /* EINTR */
        if (p[0].revents && !copy_output(socket))
            return true;
        if (p[1].revents) {
            Typed typed = copy_input(socket, terminal);

            if (typed == LEFT)
                return false;
            if (typed == INPUT_ENDED)
                p[1].fd = -1;
        }
    }
    return false;
}

static int connect_console(const char *vm, GError **error)
{
    g_autofree char *path = place_file(vm, PLACE_CONSOLE, error);
    g_autoptr(GError) inner = NULL;
    PlaceInfo info;
    int fd;

    if (!path || !place_look(vm, &info, error))
        return -1;
    if (info.state != PLACE_RUNNING) {
        place_fail(vm, info.state, error);
        return -1;
    }
    fd = unix_connect(path, &inner);
    if (fd >= 0)
        return fd;
    if (errno == ENOENT)
        fail(error, VM_ERROR_NOT_FOUND,
             "the console of VM '%s' is where the VM was started, or where its options "
             "say; hutch run --detach makes one to come back to",
             vm);
    else
        fail(error, VM_ERROR_IO, "the console of VM '%s': %s", vm, inner->message);
    return -1;
}

bool fleet_act_console(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    autofd fd = -1;
    bool raw, over;

    if (args->log)
        return fleet_act_logs(&(FleetArgs){.json = args->json}, names, status, error);
    fd = connect_console(names[0], error);
    if (fd < 0)
        return false;
    interrupt_watch();
    raw = go_raw();
    if (raw)
        log_info("the console of VM '%s'; Ctrl-] leaves", names[0]);
    over = converse(fd, raw);
    if (raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &found);
    if (raw && over)
        log_info("the VM has ended");
    return true;
}
