/* See freeze.h. */
#include "src/cli/freeze.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/client.h"
#include "src/cli/agent.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

enum { START_MS = 60 * 1000, AGAIN_US = 2000 };

bool freeze_begin(Freeze *f, const char *vm, GError **error)
{
    sigset_t block;

    *f = (Freeze){.vm = vm, .agent = agent_connect(vm, CLI_AGENT_MS, error)};
    if (!f->agent)
        return false;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &block, &f->signals);
    f->frozen = agent_freeze(f->agent, NULL, error);
    return f->frozen;
}

bool freeze_end(Freeze *f, bool ok, const char *there, GError **error)
{
    bool thawed;

    if (!f->agent)
        return ok;
    thawed = agent_thaw(f->agent, NULL, NULL);
    g_clear_pointer(&f->agent, agent_free);
    pthread_sigmask(SIG_SETMASK, &f->signals, NULL);
    if (!f->frozen || thawed)
        return ok;
    if (ok)
        return fail(error, VM_ERROR_IO,
                    "VM '%s': %s is there, but the guest did not thaw; try 'hutch agent "
                    "thaw %s'",
                    f->vm, there, f->vm);
    g_prefix_error(error, "the guest did not thaw (try 'hutch agent thaw'), and: ");
    return false;
}

/* ---- restored so ----------------------------------------------------------------------
 */

bool freeze_thaw_restored(const char *vm, GError **error)
{
    g_autoptr(GError) inner = NULL;
    g_autoptr(Agent) agent = agent_connect(vm, CLI_AGENT_MS, &inner);

    return (agent && agent_thaw(agent, NULL, &inner)) ||
           fail(error, inner->code,
                "VM '%s' runs, but its file systems are frozen, as they were saved: %s "
                "(try 'hutch agent thaw %s')",
                vm, inner->message, vm);
}

static void wait_for_vm(const char *vm)
{
    int64_t until = clock_ns() + START_MS * 1000000ll;
    ControlClient *c;

    while (!(c = control_client_connect(vm, NULL)) && clock_ns() < until)
        g_usleep(AGAIN_US);
    control_client_free(c);
}

/* Twice, so that it is nobody's child. */
void freeze_thaw_beside(const char *vm)
{
    pid_t pid = fork();
    g_autoptr(GError) error = NULL;
    autofd null = -1;

    if (pid) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return;
    }
    if (fork() == 0) {
        setsid();
        close_range(STDERR_FILENO + 1, ~0u, 0);
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO); /* a reader of the console's does not wait for us */
        wait_for_vm(vm);
        if (!freeze_thaw_restored(vm, &error))
            log_error("%s", error->message);
    }
    _exit(0);
}

void freeze_say_paused(const char *vm)
{
    log_warn(
        "VM '%s': its file systems are frozen, as they were saved; 'hutch agent thaw "
        "%s' when it runs",
        vm, vm);
}
