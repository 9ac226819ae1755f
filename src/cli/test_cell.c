/* One cell: a VM is made, the command runs in it, and nothing of it stays. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/interrupt.h"
#include "src/cli/test.h"
#include "util/ioloop.h"
#include "util/log.h"

enum { END_WAIT_MS = 10000 }; /* a VM that hangs up: how long until we know why */

static bool is_stopped(TestResult *r)
{
    int sig = interrupt_signal();

    if (!sig)
        return false;
    test_result_fail(
        r, TEST_STOPPED, 128 + sig,
        g_strdup_printf("it was stopped by signal %d (%s)", sig, strsignal(sig)));
    return true;
}

/* The agent was not reached, or is no more: the VM's end says why, if it has ended. */
static void explain(TestVm *vm, const GError *why, TestResult *ret)
{
    bool gone = g_error_matches(why, VM_ERROR, VM_ERROR_NOT_FOUND);
    bool ended = test_vm_wait(vm, gone ? END_WAIT_MS : 0);

    if (is_stopped(ret))
        return;
    if (ended)
        test_vm_verdict(vm, ret);
    else
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, g_strdup(why->message));
}

static void boot_and_run(const TestRun *run, TestVm *vm, const char *name,
                         TestResult *ret)
{
    int64_t start = clock_ns();
    g_autoptr(GError) why = NULL;
    bool ok = test_guest_wait(vm, name, (int64_t)run->options->boot_timeout_s * 1000,
                              &why);

    ret->boot_s = (double)(clock_ns() - start) / 1e9;
    if (!ok || !test_guest_run(run, name, ret, &why))
        explain(vm, why, ret);
    else
        is_stopped(ret);
}

/* It has a run folder of its own, which the default may not lead to. */
static char *way_there(const TestFolder *folder)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");

    return runtime && g_str_has_prefix(runtime, folder->path)
               ? g_strdup_printf("XDG_RUNTIME_DIR=%s ", runtime)
               : g_strdup("");
}

static void keep(TestVm *vm, const TestFolder *folder, TestResult *ret)
{
    g_autofree char *before = way_there(folder);

    if (test_vm_wait(vm, 0))
        ret->kept = g_strdup_printf(
            "its disks and config.json are kept in '%s': '%shutch run --config "
            "%s/config.json' starts it again, 'rm -r %s' removes it",
            folder->path, before, folder->path, folder->path);
    else if (ret->run_s > 0)
        ret->kept = g_strdup_printf(
            "the VM '%s' is kept: '%shutch exec %s -- COMMAND' runs what you like in it, "
            "'%shutch control %s quit' ends and removes it",
            folder->vm, before, folder->vm, before, folder->vm);
    else
        ret->kept = g_strdup_printf(
            "the VM '%s' is kept, but its agent does not answer: '%shutch control %s' "
            "talks to the VM itself, and with 'quit' ends and removes it",
            folder->vm, before, folder->vm);
}

/* Where the command's own words do not tell what was the matter. */
static bool needs_console(const TestResult *r)
{
    return r->verdict > TEST_FAILED && r->verdict != TEST_STOPPED;
}

static void run_in(const TestRun *run, TestFolder *folder, const char *config,
                   TestResult *ret)
{
    g_autoptr(GError) error = NULL;
    TestVm *vm = test_vm_start(folder, config, &error);
    bool kept;

    if (!vm) {
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, g_strdup(error->message));
        return;
    }
    interrupt_shuts(test_vm_leash(vm));
    boot_and_run(run, vm, folder->vm, ret);
    interrupt_shuts(-1);
    kept = run->options->keep && ret->status && ret->verdict != TEST_STOPPED;
    if (needs_console(ret) && !kept)
        test_vm_stop(vm);
    if (needs_console(ret) && !ret->console)
        ret->console = test_vm_console(vm);
    if (kept)
        keep(vm, folder, ret);
    test_vm_end(vm, kept);
}

void test_cell_run(const TestRun *run, const TestCell *c, TestResult *ret)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *config = NULL;
    TestFolder folder;

    if (is_stopped(ret))
        return;
    if (!test_folder_make(&folder, &error)) {
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, g_strdup(error->message));
        return;
    }
    config = test_config_write(c, run->options, folder.path, folder.vm, &error);
    if (config)
        run_in(run, &folder, config, ret);
    else
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, g_strdup(error->message));
    if (ret->kept)
        test_folder_let_go(&folder);
    else
        test_folder_remove(&folder);
}
