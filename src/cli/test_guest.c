/* The command of a test in its guest, by the guest's agent. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "src/cli/interrupt.h"
#include "src/cli/test.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"

#define MOUNT_POINT "/run/hutch"

enum {
    LOOK_MS = 50,            /* between tries, while the guest boots */
    TRY_MS = 2000,           /* for an agent that may not be there yet */
    ANSWER_MS = 60 * 1000,   /* for one that is: the guest may be very busy */
    MOUNT_MS = 60 * 1000,    /* for the guest's own mount(8) */
    TAIL_SIZE = 64 * KIB,    /* of the output, for reports */
    COMPLAINT_SIZE = 1 * KIB /* of a helper's */
};

/* Through the guest's cache to the host before the VM is gone. */
static const char mount_script[] = "mkdir -p " MOUNT_POINT
                                   " && mount -t virtiofs " TEST_TAG " " MOUNT_POINT;
static const char unmount_script[] = "umount " MOUNT_POINT " || sync";

/* ---- booting ---------------------------------------------------------------------- */

bool test_guest_wait(TestVm *vm, const char *name, int64_t timeout_ms, GError **error)
{
    int64_t until = clock_ns() + timeout_ms * 1000000;
    g_autoptr(GError) why = NULL;

    while (!test_vm_wait(vm, LOOK_MS) && !interrupt_signal()) {
        int64_t left_ms = (until - clock_ns()) / 1000000;
        g_autoptr(Agent) a = NULL;

        if (left_ms <= 0)
            return fail(error, VM_ERROR_BUSY,
                        "the guest's agent did not answer within %d s; the guest needs "
                        "qemu-guest-agent, or more time (--boot-timeout)",
                        (int)(timeout_ms / 1000));
        g_clear_error(&why);
        a = agent_connect(name, (int)MIN(left_ms, TRY_MS), &why);
        if (a)
            return true;
    }
    return fail(error, VM_ERROR_NOT_FOUND,
                "the VM ended before its guest's agent "
                "answered");
}

/* ---- helpers in the guest --------------------------------------------------------- */

static bool take_complaint(void *opaque, int fd, const char *data, size_t len,
                           GError **error)
{
    GString *text = opaque;

    g_string_append_len(
        text, data, (gssize)MIN(len, COMPLAINT_SIZE - MIN(text->len, COMPLAINT_SIZE)));
    return true;
}

/* Runs a script; false with what it said if its status is not 0. */
static bool run_script(Agent *a, const char *script, const char *what, GError **error)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *last = NULL;
    const AgentExec x = {
        .argv = argv, .timeout_ms = MOUNT_MS, .output = take_complaint, .opaque = text};
    bool timed_out;
    int status;

    if (!agent_exec(a, &x, &status, &timed_out, error)) {
        g_prefix_error(error, "%s: ", what);
        return false;
    }
    last = test_last_lines(text->str, text->len, 1);
    return (!status && !timed_out) || fail(error, VM_ERROR_UNSUPPORTED, "%s: %s", what,
                                           timed_out ? "it took too long"
                                           : *last   ? g_strchomp(last)
                                                     : "the guest cannot do it");
}

/* ---- the command ------------------------------------------------------------------ */

static bool pass_on(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    GString *tail = opaque;
    size_t kept = MIN(len, TAIL_SIZE);

    g_string_append_len(tail, data + len - kept, (gssize)kept);
    if (tail->len > 2 * TAIL_SIZE)
        g_string_erase(tail, 0, (gssize)(tail->len - TAIL_SIZE));
    if (fd_write_all(fd, data, len, error))
        return true;
    g_prefix_error(error, "standard %s: ", fd == 1 ? "output" : "error");
    return false;
}

static char *folder_of(const TestOptions *o)
{
    if (!o->share || (o->workdir && g_path_is_absolute(o->workdir)))
        return g_strdup(o->workdir);
    return g_build_filename(MOUNT_POINT, o->workdir, NULL);
}

static void judge(const TestOptions *o, int status, bool timed_out, TestResult *ret)
{
    if (timed_out) {
        test_result_fail(ret, TEST_TIMEOUT, EXIT_TIMEOUT,
                         g_strdup_printf("the command was not over after %d s, its time "
                                         "limit (--timeout)",
                                         (int)o->timeout_s));
        return;
    }
    ret->verdict = status ? TEST_FAILED : TEST_PASSED;
    ret->status = status;
}

static bool run_command(Agent *a, const TestRun *run, TestResult *ret, GError **error)
{
    const TestOptions *o = run->options;
    g_autofree char *folder = folder_of(o);
    g_autoptr(GString) tail = g_string_new(NULL);
    const AgentExec x = {.argv = run->command,
                         .env = (const char *const *)o->env,
                         .cwd = folder,
                         .timeout_ms = (int64_t)o->timeout_s * 1000,
                         .output = pass_on,
                         .stop = interrupt_stop,
                         .opaque = tail};
    int64_t start = clock_ns();
    bool timed_out = false, ok;
    int status = 0;

    ok = agent_exec(a, &x, &status, &timed_out, error);
    ret->run_s = (double)(clock_ns() - start) / 1e9;
    if (tail->len > TAIL_SIZE)
        g_string_erase(tail, 0, (gssize)(tail->len - TAIL_SIZE));
    ret->output = g_utf8_make_valid(tail->str, (gssize)tail->len);
    if (ok)
        judge(o, status, timed_out, ret);
    return ok;
}

bool test_guest_run(const TestRun *run, const char *name, TestResult *ret, GError **error)
{
    bool share = run->options->share != NULL;
    g_autoptr(Agent) a = agent_connect(name, ANSWER_MS, error);

    if (!a || (share &&
               !run_script(a, mount_script,
                           "the shared folder could not be mounted in the guest", error)))
        return false;
    if (!run_command(a, run, ret, error))
        return false;
    /* A test that failed has failed, and its files are worth trying for. */
    return !share || interrupt_signal() ||
           run_script(a, unmount_script,
                      "the shared folder could not be put on the host's disk",
                      ret->status ? NULL : error) ||
           ret->status;
}
