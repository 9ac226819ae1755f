/* The monitors of clones.  One process has the snapshot open: its manifest read and
 * checked, its config and state parsed, its memory found.  Each monitor is a fork of it,
 * so that none of this is done again, what was read is shared until it is written to, and
 * a clone costs what its own VM costs.  No thread may be there before the last fork.
 *
 * GLib's random numbers are the same in all forks; what must differ, such as UUIDs, is
 * made before, or comes from the kernel. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "snapshot/template.h"
#include "src/cli/clone.h"
#include "src/cli/monitor.h"
#include "util/ioloop.h"
#include "util/log.h"

void clone_prepare_process(void)
{
    close_range(STDERR_FILENO + 1, ~0u, 0);
    open("/dev/null", O_RDWR | O_CLOEXEC); /* detach_leave_open() takes its place */
}

/* From fork to the VM's end. */
static int be_clone(CloneJob *job, const Clone *c, int pipe_end)
{
    g_autoptr(GError) error = NULL;
    Detach detach = {.report_fd = -1};
    Place place = {0};
    int status = EXIT_CANNOT;

    cli_started_ns = clock_ns();
    if (job->args->wait)
        detach_parse_wait(job->args->wait, &detach.when, NULL); /* checked before */
    detach_leave_open(&detach, pipe_end);
    if (place_claim(&place, c->name, &error) &&
        clone_give_config(job, c, &place, &error)) {
        status = monitor_run(job->cfg, snapshot_restore_machine(job->restore), &place,
                             &detach);
    } else {
        snapshot_restore_undo(job->restore);
        place_release(&place);
        detach_failed(&detach, error->message, EXIT_CANNOT);
    }
    g_clear_pointer(&job->restore, snapshot_restore_free);
    if (job->anonymous)
        template_drop(job->folder);
    return status;
}

/* True in the new process. */
static bool fork_clone(CloneJob *job, Clone *c, int *ret_status)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0 || (c->pid = fork()) < 0) {
        fail_errno(&c->error, "VM '%s': start its monitor", c->name);
        return false;
    }
    if (c->pid) {
        close(ends[1]);
        c->waiter = detach_waiter_new(ends[0], c->pid, job->args->wait_timeout);
        return false;
    }
    close(ends[0]);
    for (Clone *sibling = job->clones; sibling != c; sibling++)
        g_clear_pointer(&sibling->waiter, detach_waiter_free);
    *ret_status = be_clone(job, c, ends[1]);
    return true;
}

bool clone_start(CloneJob *job, int *ret_status)
{
    fflush(stdout);
    for (unsigned i = 0; i < job->n; i++)
        if (fork_clone(job, &job->clones[i], ret_status))
            return true;
    return false;
}
