/* hutch doctor: looks whether VMs can run on this host, and says what to do. */
#include "src/cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "network/place.h"
#include "packet/bpf.h"
#include "src/cli/metrics.h"
#include "util/fd.h"

typedef struct DoctorArgs {
    bool json;
} DoctorArgs;

static const ParamDesc doctor_desc[] = {
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(DoctorArgs, json),
     .help = "print the findings as a JSON array"},
    {0},
};
const ParamTable doctor_args = {.size = sizeof(DoctorArgs), .desc = doctor_desc};

const char doctor_about[] =
    "Looks at this host: KVM, the processor, modules, limits, and what single features "
    "of "
    "VMs need.  Each line is ok, warn (VMs run, but that feature does not, or not well) "
    "or "
    "fail (no VM can run), with what to do about it.  Nothing is changed.";
const ExitStatus doctor_statuses[] = {
    {"0", "VMs can run here, whatever the warnings"},
    {"1", "a line says fail: no VM can run"},
    {"125", "hutch could not do it: usage"},
    {0},
};

/* ---- this host ------------------------------------------------------------------------
 */

static int errno_of(long fd)
{
    int err = fd < 0 ? errno : 0;

    if (fd >= 0)
        close((int)fd);
    return err;
}

static uint64_t limit_of(__rlimit_resource_t which)
{
    struct rlimit l;

    if (getrlimit(which, &l) < 0 || l.rlim_max == RLIM_INFINITY)
        return UINT64_MAX;
    return l.rlim_max;
}

/* The whole of what `hutch run` does first, so that the answer is its own. */
static char *try_vm(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Kvm) kvm = kvm_new(&error);

    return kvm ? NULL : g_strdup(error->message);
}

static char *try_switch(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *program = network_switch_program(&error);

    return program ? NULL : g_strdup(error->message);
}

static char *try_filter(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BpfFilter) filter = bpf_filter_new("ip", &error);

    return filter ? NULL : g_strdup(error->message);
}

static void host_look(Host *ret)
{
    struct io_uring_params params = {0};

    *ret = (Host){
        .root = "",
        .path = g_getenv("PATH"),
        .runtime = g_getenv("XDG_RUNTIME_DIR"),
        .is_root = geteuid() == 0,
        .vm_error = try_vm(),
        .switch_error = try_switch(),
        .pcap_error = try_filter(),
        .uring_errno = errno_of(syscall(SYS_io_uring_setup, 1, &params)),
        .userfault_errno = errno_of(
            syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)),
        .nofile = limit_of(RLIMIT_NOFILE),
        .memlock = limit_of(RLIMIT_MEMLOCK),
        .nproc = limit_of(RLIMIT_NPROC),
    };
}

static void host_clear(Host *h)
{
    g_clear_pointer(&h->vm_error, g_free);
    g_clear_pointer(&h->switch_error, g_free);
    g_clear_pointer(&h->pcap_error, g_free);
}

/* ---- the verb -------------------------------------------------------------------------
 */

static const char *const level_names[] = {
    [FOUND_OK] = "ok", [FOUND_WARN] = "warn", [FOUND_FAIL] = "fail"};

static void print(const Check *check, const Found *f)
{
    printf("%-4s  %-12s  %s%s%s\n", level_names[f->level], check->name, f->text,
           f->way_out ? "; " : "", f->way_out ? f->way_out : "");
}

static json_t *as_json(const Check *check, const Found *f)
{
    g_autofree char *text = g_utf8_make_valid(f->text, -1);

    return json_pack("{s:s, s:s, s:s, s:s*}", "check", check->name, "result",
                     level_names[f->level], "text", text, "do", f->way_out);
}

bool doctor_act(void *options, char **names, int *status, GError **error)
{
    const DoctorArgs *args = options;
    json_t *all = json_array();
    Host h;

    host_look(&h);
    for (const Check *c = doctor_checks; c->name; c++) {
        Found f = c->look(&h);

        if (f.level == FOUND_FAIL)
            *status = 1;
        if (args->json)
            json_array_append_new(all, as_json(c, &f));
        else
            print(c, &f);
        g_free(f.text);
    }
    if (args->json)
        cli_print_json(all);
    else
        json_decref(all);
    host_clear(&h);
    return true;
}
