/* hutch doctor on hosts that we make up: a folder with their files. */
#include "src/cli/doctor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Fixture {
    char *root;
    Host h;
} Fixture;

static void put(const Fixture *f, const char *path, const char *text)
{
    g_autofree char *full = g_strconcat(f->root, path, NULL);
    g_autofree char *folder = g_path_get_dirname(full);

    g_assert_cmpint(g_mkdir_with_parents(folder, 0755), ==, 0);
    g_assert_true(g_file_set_contents(full, text, -1, NULL));
}

/* A host on which nothing is amiss. */
static void set_up(Fixture *f)
{
    g_autofree char *program = NULL;

    f->root = g_dir_make_tmp("hutch-XXXXXX", NULL);
    f->h = (Host){.root = f->root,
                  .path = "/nowhere::/bin",
                  .runtime = "/run/user/7",
                  .nofile = 1 << 20,
                  .memlock = UINT64_MAX,
                  .nproc = 1 << 20};
    put(f, "/dev/kvm", "");
    put(f, "/dev/net/tun", "");
    put(f, "/dev/userfaultfd", "");
    put(f, "/sys/module/kvm_amd/refcnt", "0\n");
    put(f, "/run/user/7/x", "");
    put(f, "/bin/virtiofsd", "");
    program = g_strconcat(f->root, "/bin/virtiofsd", NULL);
    chmod(program, 0755);
    put(f, "/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm\nbugs\t\t: vmx\n");
    put(f, "/proc/meminfo",
        "MemTotal: 9 kB\nMemAvailable:  4194304 kB\nHugePages_Total: 4\n"
        "HugePages_Free: 3\nHugepagesize: 2048 kB\n");
    put(f, "/proc/self/cgroup", "0::/user.slice/mine\n");
    put(f, "/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    put(f, "/sys/fs/cgroup/user.slice/mine/cgroup.procs", "");
    put(f, "/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put(f, "/sys/kernel/mm/ksm/run", "1\n");
}

static void tear_down(Fixture *f)
{
    char *argv[] = {(char *)"rm", (char *)"-r", f->root, NULL};

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, NULL, NULL));
    g_free(f->root);
}

static void drop(const Fixture *f, const char *path)
{
    g_autofree char *full = g_strconcat(f->root, path, NULL);

    g_assert_cmpint(unlink(full), ==, 0);
}

/* The check of that name finds `level`, and says `words`. */
static void finds(const Fixture *f, const char *name, FoundLevel level, const char *words)
{
    for (const Check *c = doctor_checks; c->name; c++) {
        Found found;

        if (!g_str_equal(c->name, name))
            continue;
        found = c->look(&f->h);
        if (found.level != level || !strstr(found.text, words))
            g_error("%s: %d, %s; not %d, %s", name, found.level, found.text, level,
                    words);
        g_assert_true(level == FOUND_OK ? !found.way_out
                                        : found.way_out || strstr(name, "vm"));
        g_free(found.text);
        return;
    }
    g_error("there is no check '%s'", name);
}

static void nothing_is_said_of_a_good_host(void)
{
    Fixture f;

    set_up(&f);
    for (const Check *c = doctor_checks; c->name; c++) {
        Found found = c->look(&f.h);

        if (found.level != FOUND_OK || found.way_out)
            g_error("%s: %s", c->name, found.text);
        g_free(found.text);
    }
    finds(&f, "kvm-kind", FOUND_OK, "AMD-V");
    finds(&f, "cpu", FOUND_OK, "AMD-V");
    finds(&f, "hugepages", FOUND_OK, "3 of 4 huge pages of 2048 KiB");
    finds(&f, "memory", FOUND_OK, "4096 MiB");
    finds(&f, "ksm", FOUND_OK, "is on");
    finds(&f, "runtime", FOUND_OK, "/run/user/7/hutch");
    finds(&f, "virtiofsd", FOUND_OK, "in /bin");
    finds(&f, "switch", FOUND_OK, "hutch-switch");
    tear_down(&f);
}

/* An empty disk: everything that is not there is missed, and nothing crashes. */
static void an_empty_host_has_no_kvm(void)
{
    Fixture f = {.root = g_dir_make_tmp("hutch-XXXXXX", NULL)};

    f.h = (Host){.root = f.root,
                 .switch_error = (char *)"no hutch-switch",
                 .pcap_error = (char *)"no library"};
    finds(&f, "kvm", FOUND_FAIL, "not there");
    finds(&f, "kvm-kind", FOUND_WARN, "no module");
    finds(&f, "cpu", FOUND_WARN, "no VT-x or AMD-V");
    finds(&f, "memory", FOUND_WARN, "0 MiB");
    finds(&f, "thp", FOUND_WARN, "off");
    finds(&f, "ksm", FOUND_OK, "not in this kernel");
    finds(&f, "nofile", FOUND_WARN, "0 at most");
    finds(&f, "runtime", FOUND_WARN, "not set");
    finds(&f, "cgroup", FOUND_WARN, "not at /sys/fs/cgroup");
    finds(&f, "tun", FOUND_WARN, "not there");
    finds(&f, "virtiofsd", FOUND_WARN, "not installed");
    finds(&f, "switch", FOUND_WARN, "no hutch-switch");
    finds(&f, "libpcap", FOUND_WARN, "no library");
    tear_down(&f);
}

static void each_thing_amiss_is_found(void)
{
    char reason[] = "open /dev/kvm: it bites";
    Fixture f;

    set_up(&f);
    f.h.vm_error = reason;
    finds(&f, "vm", FOUND_FAIL, "it bites");
    drop(&f, "/sys/module/kvm_amd/refcnt");
    {
        g_autofree char *module = g_strconcat(f.root, "/sys/module/kvm_amd", NULL);

        g_assert_cmpint(rmdir(module), ==, 0);
    }
    put(&f, "/sys/module/kvm_pvm/refcnt", "0\n");
    finds(&f, "kvm-kind", FOUND_WARN, "pvm");
    put(&f, "/proc/cpuinfo", "x\nflags\t\t: fpu hypervisor vmxx\nvmx flags\t: vmx\n");
    finds(&f, "cpu", FOUND_WARN, "a virtual machine itself");
    put(&f, "/proc/cpuinfo", "x\nflags\t\t: fpu hypervisor vmx");
    finds(&f, "cpu", FOUND_OK, "VT-x, given by a hypervisor");
    put(&f, "/proc/meminfo", "MemAvailable: 1024 kB\n");
    finds(&f, "memory", FOUND_WARN, "1 MiB");
    put(&f, "/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    finds(&f, "thp", FOUND_WARN, "off");
    f.h.nofile = 1024;
    finds(&f, "nofile", FOUND_WARN, "1024 at most");
    f.h.uring_errno = EPERM;
    finds(&f, "io_uring", FOUND_WARN, g_strerror(EPERM));
    put(&f, "/proc/sys/kernel/io_uring_disabled", "2\n");
    finds(&f, "io_uring", FOUND_WARN, "io_uring_disabled is 2");
    drop(&f, "/dev/userfaultfd");
    finds(&f, "userfaultfd", FOUND_WARN, "not for faults in the kernel");
    f.h.userfault_errno = ENOSYS;
    finds(&f, "userfaultfd", FOUND_WARN, "does not work");
    put(&f, "/proc/self/cgroup", "0::/system.slice\n");
    finds(&f, "cgroup", FOUND_WARN, "not delegated");
    drop(&f, "/bin/virtiofsd");
    finds(&f, "virtiofsd", FOUND_WARN, "not installed");
    f.h.runtime = "/run/user/8";
    finds(&f, "runtime", FOUND_WARN, "no folder of this user's");
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/cli/doctor/" #name, name)
    TEST(nothing_is_said_of_a_good_host);
    TEST(an_empty_host_has_no_kvm);
    TEST(each_thing_amiss_is_found);
    return g_test_run();
}
