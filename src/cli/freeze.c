/* See freeze.h. */
#include "src/cli/freeze.h"

#include "src/cli/agent.h"

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
