/* What hutch doctor looks at: one function each, and the table of them.  Files are read
 * below Host.root, so that a test can show any host. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/virtiofsd.h"
#include "src/cli/doctor.h"
#include "util/bits.h"
#include "util/fd.h"

static Found found(FoundLevel level, const char *way_out, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static Found found(FoundLevel level, const char *way_out, const char *fmt, ...)
{
    Found f = {.level = level, .way_out = way_out};
    va_list ap;

    va_start(ap, fmt);
    f.text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return f;
}

/* ---- files ----------------------------------------------------------------------------
 */

static char *path_of(const Host *h, const char *path)
{
    return g_strconcat(h->root, path, NULL);
}

static bool exists(const Host *h, const char *path)
{
    g_autofree char *full = path_of(h, path);

    return access(full, F_OK) == 0;
}

static bool may_use(const Host *h, const char *path)
{
    g_autofree char *full = path_of(h, path);

    return access(full, R_OK | W_OK) == 0;
}

/* A new string without the line's end; NULL: it cannot be read. */
static char *read_file(const Host *h, const char *path)
{
    g_autofree char *full = path_of(h, path);
    char *text = NULL;

    return g_file_get_contents(full, &text, NULL, NULL) ? g_strchomp(text) : NULL;
}

/* A number of /proc/meminfo, as it stands there; 0: it does not. */
static uint64_t meminfo(const Host *h, const char *key)
{
    g_autofree char *text = read_file(h, "/proc/meminfo");
    g_autofree char *line = g_strconcat("\n", key, ":", NULL);
    const char *at = text ? strstr(text, line) : NULL;

    if (!at && text && g_str_has_prefix(text, line + 1))
        at = text - 1;
    return at ? strtoull(at + strlen(line), NULL, 10) : 0;
}

/* ---- KVM and the processor ------------------------------------------------------------
 */

static Found check_device(const Host *h)
{
    g_autofree char *path = path_of(h, "/dev/kvm");
    struct stat st;
    const struct group *g;

    if (stat(path, &st) < 0)
        return found(FOUND_FAIL, "load it: sudo modprobe kvm_intel, or kvm_amd",
                     "/dev/kvm is not there: the kvm module is not loaded");
    g = getgrgid(st.st_gid);
    if (access(path, R_OK | W_OK) == 0)
        return found(FOUND_OK, NULL, "/dev/kvm can be opened");
    return found(FOUND_FAIL,
                 st.st_gid
                     ? "join that group: sudo usermod -aG kvm $USER, then log in again"
                     : "give it to a group: sudo chgrp kvm /dev/kvm; sudo chmod 660 "
                       "/dev/kvm",
                 "/dev/kvm may not be opened: it belongs to the group %s",
                 g ? g->gr_name : "of another system");
}

static Found check_vm(const Host *h)
{
    if (h->vm_error)
        return found(FOUND_FAIL, NULL, "no VM can be made: %s", h->vm_error);
    return found(FOUND_OK, NULL, "a VM can be made: KVM has all that hutch needs");
}

static const struct {
    const char *module, *name;
    bool hardware;
} kinds[] = {
    {"/sys/module/kvm_intel", "VT-x", true},
    {"/sys/module/kvm_amd", "AMD-V", true},
    {"/sys/module/kvm_pvm", "pvm", false},
};

static Found check_kind(const Host *h)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (exists(h, kinds[i].module))
            return kinds[i].hardware
                       ? found(FOUND_OK, NULL, "KVM uses %s", kinds[i].name)
                       : found(FOUND_WARN,
                               "use a host with VT-x or AMD-V to run distributions' "
                               "kernels",
                               "KVM is of the kind %s, without hardware virtualisation, "
                               "which runs no stock kernel",
                               kinds[i].name);
    return found(FOUND_WARN, "sudo modprobe kvm_intel, or kvm_amd",
                 "no module of KVM's for this processor is loaded");
}

static bool has_flag(const char *cpuinfo, const char *flag)
{
    g_autofree char *word = g_strconcat(" ", flag, " ", NULL);
    const char *flags = cpuinfo ? strstr(cpuinfo, "\nflags") : NULL;
    const char *end = flags ? strchr(flags + 1, '\n') : NULL;
    g_autofree char *line = flags ? g_strndup(flags,
                                              end ? (gsize)(end - flags) : strlen(flags))
                                  : NULL;
    g_autofree char *padded = line ? g_strconcat(line, " ", NULL) : NULL;

    return padded && strstr(padded, word);
}

static Found check_cpu(const Host *h)
{
    g_autofree char *cpuinfo = read_file(h, "/proc/cpuinfo");
    bool nested = has_flag(cpuinfo, "hypervisor");
    const char *how = has_flag(cpuinfo, "vmx")   ? "VT-x"
                      : has_flag(cpuinfo, "svm") ? "AMD-V"
                                                 : NULL;

    if (how)
        return found(FOUND_OK, NULL, "the processor has %s%s", how,
                     nested ? ", given by a hypervisor below this host" : "");
    return found(FOUND_WARN,
                 nested ? "turn on nested virtualisation on the host below"
                        : "enable VT-x or AMD-V (SVM) in the firmware setup",
                 "the processor shows no VT-x or AMD-V%s",
                 nested ? ": this host is a virtual machine itself" : "");
}

/* ---- modules --------------------------------------------------------------------------
 */

static Found check_node(const Host *h, const char *node, const char *use,
                        const char *load, const char *permit)
{
    if (!exists(h, node))
        return found(FOUND_WARN, load, "%s is not there, which %s needs", node, use);
    if (!may_use(h, node))
        return found(FOUND_WARN, permit, "%s may not be opened, which %s needs", node,
                     use);
    return found(FOUND_OK, NULL, "%s can be opened, for %s", node, use);
}

static Found check_tun(const Host *h)
{
    return check_node(h, "/dev/net/tun", "--net tap or bridge",
                      "sudo modprobe tun; --net user and 'hutch net' work without",
                      "sudo chmod 666 /dev/net/tun; --net user and 'hutch net' work "
                      "without");
}

/* What is there or not, and nothing of hutch's needs. */
static Found check_extra(const Host *h, const char *node, const char *instead)
{
    bool there = exists(h, node);

    return found(FOUND_OK, NULL, "%s is %sthere; %s without it", node,
                 there ? "" : "not ", instead);
}

static Found check_vhost_net(const Host *h)
{
    return check_extra(h, "/dev/vhost-net", "hutch's networks work");
}

static Found check_vhost_vsock(const Host *h)
{
    return check_extra(h, "/dev/vhost-vsock", "vsock in user space works");
}

/* ---- memory ---------------------------------------------------------------------------
 */

static Found check_memory(const Host *h)
{
    uint64_t mib = meminfo(h, "MemAvailable") / 1024;

    if (mib < 512)
        return found(FOUND_WARN, "end something, or give VMs less with --memory",
                     "%" G_GUINT64_FORMAT " MiB of memory are available, less than a VM "
                     "is given by default",
                     mib);
    return found(FOUND_OK, NULL, "%" G_GUINT64_FORMAT " MiB of memory are available",
                 mib);
}

static Found check_hugepages(const Host *h)
{
    uint64_t total = meminfo(h, "HugePages_Total"), unused = meminfo(h, "HugePages_Free");

    if (!total)
        return found(FOUND_OK, NULL,
                     "no huge pages are reserved; --memory hugepages would want some "
                     "(sudo sysctl vm.nr_hugepages=N)");
    return found(FOUND_OK, NULL,
                 "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                 " huge pages of %" G_GUINT64_FORMAT " KiB are free",
                 unused, total, meminfo(h, "Hugepagesize"));
}

static Found check_thp(const Host *h)
{
    g_autofree char *state = read_file(h, "/sys/kernel/mm/transparent_hugepage/enabled");

    if (state && !strstr(state, "[never]"))
        return found(FOUND_OK, NULL, "transparent huge pages: %s", state);
    return found(FOUND_WARN,
                 "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
                 "transparent huge pages are off, so that guests' memory is slower");
}

static Found check_ksm(const Host *h)
{
    g_autofree char *run = read_file(h, "/sys/kernel/mm/ksm/run");

    return found(FOUND_OK, NULL, "merging of equal pages (KSM) is %s",
                 !run                    ? "not in this kernel"
                 : g_str_equal(run, "1") ? "on"
                                         : "off");
}

static Found check_userfault(const Host *h)
{
    g_autofree char *anybody = read_file(h, "/proc/sys/vm/unprivileged_userfaultfd");

    if (h->userfault_errno)
        return found(FOUND_WARN, "use a kernel with CONFIG_USERFAULTFD",
                     "userfaultfd does not work (%s)", g_strerror(h->userfault_errno));
    if (!h->is_root && !(anybody && g_str_equal(anybody, "1")) &&
        !may_use(h, "/dev/userfaultfd"))
        return found(FOUND_WARN, "sudo sysctl vm.unprivileged_userfaultfd=1",
                     "userfaultfd works, but not for faults in the kernel, which guests' "
                     "memory has");
    return found(FOUND_OK, NULL, "userfaultfd works");
}

/* ---- limits ---------------------------------------------------------------------------
 */

static Found check_limit(const char *what, uint64_t limit, uint64_t wanted,
                         const char *way_out)
{
    if (limit == UINT64_MAX)
        return found(FOUND_OK, NULL, "%s: no limit", what);
    return found(limit >= wanted ? FOUND_OK : FOUND_WARN,
                 limit >= wanted ? NULL : way_out, "%s: %" G_GUINT64_FORMAT " at most",
                 what, limit);
}

static Found check_nofile(const Host *h)
{
    return check_limit("open files of a process", h->nofile, 4096,
                       "raise 'nofile' in /etc/security/limits.conf: user networking "
                       "holds a file for each connection");
}

static Found check_memlock(const Host *h)
{
    return check_limit("locked memory, in bytes", h->memlock, 8 * MIB,
                       "raise 'memlock' in /etc/security/limits.conf: io_uring of older "
                       "kernels and device assignment lock memory");
}

static Found check_nproc(const Host *h)
{
    return check_limit(
        "threads of this user", h->nproc, 4096,
        "raise 'nproc' in /etc/security/limits.conf: a VM has a thread for "
        "each CPU, disk and network, and some more");
}

/* ---- what features want ---------------------------------------------------------------
 */

static Found check_uring(const Host *h)
{
    g_autofree char *off = read_file(h, "/proc/sys/kernel/io_uring_disabled");

    if (!h->uring_errno)
        return found(FOUND_OK, NULL, "io_uring works");
    if (off && !g_str_equal(off, "0"))
        return found(FOUND_WARN,
                     "sudo sysctl kernel.io_uring_disabled=0; disks work "
                     "without, by libaio or threads",
                     "io_uring is turned off (kernel.io_uring_disabled is %s)", off);
    return found(FOUND_WARN, "disks work without, by libaio or threads",
                 "io_uring does not work (%s)", g_strerror(h->uring_errno));
}

/* "0::/user.slice/..." */
static char *own_cgroup(const Host *h)
{
    g_autofree char *text = read_file(h, "/proc/self/cgroup");
    const char *at = text ? g_strrstr(text, "0::/") : NULL;

    return at ? g_strconcat("/sys/fs/cgroup", at + strlen("0::"), NULL) : NULL;
}

static Found check_cgroup(const Host *h)
{
    g_autofree char *own = own_cgroup(h);

    if (!exists(h, "/sys/fs/cgroup/cgroup.controllers"))
        return found(FOUND_WARN,
                     "boot with systemd.unified_cgroup_hierarchy=1; VMs run without, but "
                     "cannot be limited as groups",
                     "cgroup v2 is not at /sys/fs/cgroup");
    if (!own || !may_use(h, own))
        return found(FOUND_WARN,
                     "start VMs by 'systemd-run --user --scope -p Delegate=yes'",
                     "cgroup v2 is there, but this session's group is not delegated to "
                     "the user");
    return found(FOUND_OK, NULL, "cgroup v2, and this session's group is the user's");
}

static bool in_folder(const Host *h, const char *folder, const char *program)
{
    g_autofree char *full = g_strconcat(h->root, folder, "/", program, NULL);

    return *folder && access(full, X_OK) == 0;
}

/* A new string: the folder of a program; NULL: it is not installed. */
static char *find_in_path(const Host *h, const char *program)
{
    g_auto(GStrv) folders = g_strsplit(h->path ? h->path : "", ":", 0);

    for (char **f = folders; *f; f++)
        if (in_folder(h, *f, program))
            return g_strdup(*f);
    return NULL;
}

static Found check_virtiofsd(const Host *h)
{
    g_autofree char *folder = find_in_path(h, "virtiofsd");

    for (const char *const *f = virtiofsd_folders; !folder && *f; f++)
        if (in_folder(h, *f, "virtiofsd"))
            folder = g_strdup(*f);
    if (folder)
        return found(FOUND_OK, NULL, "virtiofsd is in %s", folder);
    return found(FOUND_WARN, "sudo apt install virtiofsd, or qemu-system-common",
                 "virtiofsd is not installed, which sharing folders needs");
}

static Found check_extra_program(const Host *h, const char *program, const char *instead)
{
    g_autofree char *folder = find_in_path(h, program);

    if (folder)
        return found(FOUND_OK, NULL, "%s is in %s; %s without it", program, folder,
                     instead);
    return found(FOUND_OK, NULL, "%s is not installed; %s without it", program, instead);
}

static Found check_qemu_img(const Host *h)
{
    return check_extra_program(h, "qemu-img", "hutch image works");
}

static Found check_passt(const Host *h)
{
    return check_extra_program(h, "passt", "--net user works");
}

static Found check_switch(const Host *h)
{
    if (h->switch_error)
        return found(FOUND_WARN, "--net user works without", "%s", h->switch_error);
    return found(FOUND_OK, NULL, "hutch-switch is there, for 'hutch net'");
}

static Found check_pcap(const Host *h)
{
    if (h->pcap_error)
        return found(FOUND_WARN,
                     "sudo apt install libpcap0.8; rules without 'pcap' work without",
                     "filters as tcpdump has them cannot be made: %s", h->pcap_error);
    return found(FOUND_OK, NULL, "libpcap works, for filters in rules and captures");
}

static Found check_runtime(const Host *h)
{
    if (!h->runtime || !g_path_is_absolute(h->runtime))
        return h->is_root
                   ? found(FOUND_OK, NULL, "run folders of VMs are in /run/hutch")
                   : found(FOUND_WARN,
                           "log in by a session of systemd's, or export XDG_RUNTIME_DIR; "
                           "--control PATH works without",
                           "XDG_RUNTIME_DIR is not set, so that VMs can have no name");
    if (!may_use(h, h->runtime))
        return found(FOUND_WARN, "export XDG_RUNTIME_DIR=/run/user/$(id -u)",
                     "XDG_RUNTIME_DIR, %s, is no folder of this user's, so that VMs can "
                     "have no name",
                     h->runtime);
    return found(FOUND_OK, NULL, "run folders of VMs are in %s/hutch", h->runtime);
}

const Check doctor_checks[] = {
    {"kvm", check_device},
    {"vm", check_vm},
    {"kvm-kind", check_kind},
    {"cpu", check_cpu},
    {"memory", check_memory},
    {"hugepages", check_hugepages},
    {"thp", check_thp},
    {"ksm", check_ksm},
    {"nofile", check_nofile},
    {"memlock", check_memlock},
    {"nproc", check_nproc},
    {"runtime", check_runtime},
    {"io_uring", check_uring},
    {"userfaultfd", check_userfault},
    {"cgroup", check_cgroup},
    {"tun", check_tun},
    {"vhost_net", check_vhost_net},
    {"vhost_vsock", check_vhost_vsock},
    {"qemu-img", check_qemu_img},
    {"virtiofsd", check_virtiofsd},
    {"passt", check_passt},
    {"switch", check_switch},
    {"libpcap", check_pcap},
    {0},
};
