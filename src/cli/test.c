/* hutch test: a command in a throwaway VM, or in a matrix of them. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/interrupt.h"
#include "src/cli/test.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

#define KEY(key_, member_) .key = key_, .offset = offsetof(TestOptions, member_)

static const ParamDesc desc[] = {
    {KEY("image", value[TEST_IMAGE]), .type = PARAM_STRING, .arg = "IMAGE",
     .help = "an image's name, as for hutch run, or its path, or a disk's"},
    {KEY("kernel", value[TEST_KERNEL]), .type = PARAM_PATH, .arg = "FILE",
     .help = "kernel to boot, in place of the image's"},
    {KEY("initrd", value[TEST_INITRD]), .type = PARAM_PATH, .arg = "FILE",
     .help = "likewise its initial RAM disk"},
    {KEY("cmdline", value[TEST_CMDLINE]), .type = PARAM_STRING, .arg = "STRING",
     .help = "likewise its command line; of a plain disk it begins root=/dev/vda"},
    {KEY("cpus", value[TEST_CPUS]), .letter = 'c', .type = PARAM_STRING, .arg = "N",
     .help = "number of virtual CPUs"},
    {KEY("memory", value[TEST_MEMORY]), .letter = 'm', .type = PARAM_STRING,
     .arg = "SIZE", .help = "guest memory"},
    {KEY("share", share), .type = PARAM_PATH, .arg = "FOLDER",
     .help = "share this folder with the guest, and run the command in it"},
    {KEY("workdir", workdir), .type = PARAM_STRING, .arg = "FOLDER",
     .help = "the command's folder in the guest; counts from the shared one"},
    {KEY("env", env), .letter = 'e', .type = PARAM_LIST, .arg = "NAME=VALUE",
     .help = "variable of the command's environment"},
    {KEY("matrix", matrix), .type = PARAM_PATH, .arg = "FILE",
     .help = "run it in every combination of images, kernels, cpus and memory in FILE"},
    {KEY("jobs", jobs), .letter = 'j', .type = PARAM_UINT, .max = 256,
     .help = "VMs of a matrix at a time; 0: as many as CPUs"},
    {KEY("timeout", timeout_s), .type = PARAM_UINT, .arg = "SECONDS", .max = 1000 * 1000,
     .help = "time limit of the command, status 124; 0: none"},
    {KEY("boot-timeout", boot_timeout_s), .type = PARAM_UINT, .arg = "SECONDS",
     .def = "300", .min = 1, .max = 1000 * 1000,
     .help = "time limit for the guest's agent to answer"},
    {KEY("junit", junit), .type = PARAM_PATH, .arg = "FILE",
     .help = "write the results as JUnit XML"},
    {KEY("json", json), .type = PARAM_STRING, .arg = "=FILE", .bare = "-",
     .help = "write the result as JSON; without FILE, as the last line on stderr"},
    {KEY("keep-on-failure", keep), .type = PARAM_BOOL,
     .help = "let a VM whose test failed run on, and tell how to get into it"},
    {0},
};

static bool check(void *options, GError **error)
{
    const TestOptions *o = options;

    for (char **e = o->env; e && *e; e++)
        if (**e == '=' || !strchr(*e, '='))
            return fail(error, VM_ERROR_INVALID, "--env: '%s' is not NAME=VALUE", *e);
    return !o->workdir || o->share || g_path_is_absolute(o->workdir) ||
           fail(error, VM_ERROR_INVALID,
                "--workdir: '%s' counts from a shared folder; give --share, or an "
                "absolute path",
                o->workdir);
}
const ParamTable test_args = {.size = sizeof(TestOptions), .desc = desc, .check = check};

const char test_about[] =
    "The VM is made from an image, which is not written to, and nothing of it stays.  "
    "The "
    "guest needs qemu-guest-agent.  What the command prints is printed as it comes, and "
    "its status becomes that of hutch test.";
const char test_notes[] =
    "A matrix file is a JSON object whose keys are image, kernel, initrd, cmdline, cpus "
    "and memory, each with a value or a list of them; objects under exclude take "
    "combinations away, those under include add one each.  The lines of each VM have its "
    "combination before them, and the status is that of the first combination, in the "
    "order of the table, that did not pass.\n\n"
    "A command may well use the statuses from 124 on itself: --json and --junit tell "
    "which it was.";
const ExitStatus test_statuses[] = {
    {"0-255", "the command's own"},
    {"124", "the command's time was over"},
    {"125", "hutch could not do it: usage, the host, or a guest without an agent"},
    {"126", "the guest crashed, or its VM could not go on"},
    {"127", "the guest's kernel panicked"},
    {"128+N", "hutch test was stopped by signal N, or the command by one in the guest"},
    {0},
};

/* ---- running ---------------------------------------------------------------------- */

static void run_cell(void *opaque, const TestCell *c, TestResult *ret)
{
    test_cell_run(opaque, c, ret);
}

/* What the command did not say itself. */
static void explain(const TestCell *c)
{
    const TestResult *r = &c->result;

    if (r->detail)
        log_error("%s", r->detail);
    if (r->console && *r->console)
        fprintf(stderr, "hutch: the guest's console said last:\n%s", r->console);
    if (r->kept)
        log_info("%s", r->kept);
}

static void cell_ended(void *opaque, const TestCell *c)
{
    g_autofree char *line = test_result_line(c);

    log_info("%s", line);
    if (c->result.console && *c->result.console)
        fprintf(stderr, "hutch: %s: the guest's console said last:\n%s", c->name,
                c->result.console);
    if (c->result.kept)
        log_info("%s: %s", c->name, c->result.kept);
}

static void run_cells(TestRun *run, TestCell **cells, unsigned n)
{
    g_autofree char *table = NULL;
    unsigned cpus = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
    const TestSchedule s = {
        .jobs = run->options->jobs ? (unsigned)run->options->jobs : cpus,
        .memory = test_memory_available(),
        .run = run_cell,
        .ended = cell_ended,
        .opaque = run,
    };

    test_schedule_run(&s, cells, n);
    table = test_report_table(cells, n);
    fputs(table, stderr);
}

/* ---- results ---------------------------------------------------------------------- */

/* Complete or not there. */
static bool write_file(const char *path, const char *text, GError **error)
{
    g_autoptr(GError) why = NULL;

    return g_file_set_contents(path, text, -1, &why) ||
           fail(error, VM_ERROR_IO, "the results could not be written: %s", why->message);
}

/* Before an hour's work, and not after it. */
static bool check_target(const char *path, GError **error)
{
    g_autofree char *folder = path ? g_path_get_dirname(path) : NULL;

    if (!folder || g_str_equal(path, "-") || access(folder, W_OK | X_OK) == 0)
        return true;
    return fail_errno(error, "'%s' could not be written", path);
}

static bool report(const TestOptions *o, TestCell **cells, unsigned n, double seconds,
                   GError **error)
{
    g_autofree char *junit = test_report_junit(cells, n, seconds);
    g_autofree char *json = test_report_json(cells, n, o->matrix != NULL, seconds);
    bool ok = !o->junit || write_file(o->junit, junit, error);

    if (o->json && !g_str_equal(o->json, "-"))
        ok = write_file(o->json, json, ok ? error : NULL) && ok;
    else if (o->json)
        fputs(json, stderr);
    return ok;
}

static GPtrArray *make_cells(const TestOptions *o, GError **error)
{
    GPtrArray *cells;

    if (o->matrix) {
        cells = test_matrix_load(o->matrix, o, error);
    } else {
        cells = g_ptr_array_new_with_free_func((GDestroyNotify)test_cell_free);
        g_ptr_array_add(cells, test_cell_new(o));
    }
    for (unsigned i = 0; cells && i < cells->len; i++) {
        TestCell *c = cells->pdata[i];

        if (test_config_make(c, error))
            continue;
        if (o->matrix)
            g_prefix_error(error, "%s: ", c->name);
        g_ptr_array_free(cells, TRUE);
        return NULL;
    }
    return cells;
}

bool test_act(void *options, char **names, int *status, GError **error)
{
    TestOptions *o = options;
    TestRun run = {.options = o, .command = (const char *const *)names};
    g_autoptr(GPtrArray) cells = make_cells(o, error);
    int64_t start = clock_ns();
    TestCell **list;

    if (!cells || !check_target(o->junit, error) || !check_target(o->json, error))
        return false;
    list = (TestCell **)cells->pdata;
    interrupt_watch();
    test_folder_sweep();
    if (o->matrix) {
        run_cells(&run, list, cells->len);
    } else {
        test_cell_run(&run, list[0], &list[0]->result);
        explain(list[0]);
    }
    *status = interrupt_signal() ? 128 + interrupt_signal()
                                 : test_status(list, cells->len);
    if (!report(o, list, cells->len, (double)(clock_ns() - start) / 1e9, error))
        return false; /* with the tests' status, or 125 */
    return true;
}
