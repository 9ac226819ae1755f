/* Devices that come and go in a machine that runs, on this host's own KVM, with a guest
 * of a few instructions. */
#include "machine/hotplug.h"

#include <elf.h>
#include <glib/gstdio.h>
#include <malloc.h>
#include <string.h>

#include "src/machine/machine_private.h"
#include "util/log.h"

#define ECAM_SLOT(slot, reg) (0xe0000000ull + ((uint64_t)(slot) << 15) + (reg))
#define BAR_AT               0xd0000000ull
enum { ENTRY = 0x200000, DISK_SIZE = 1 << 20, MSIX_TABLE = 0x4000, MSIX_CAP = 0x40 };

/* ---- guests ----------------------------------------------------------------------- */

/* Gives up whatever it is asked for. */
static const uint8_t obeys[] = {
    0xba, 0x44, 0x06, 0x00, 0x00, /* loop: mov edx, 0x644 */
    0xed,                         /*       in  eax, dx */
    0xba, 0x48, 0x06, 0x00, 0x00, /*       mov edx, 0x648 */
    0xef,                         /*       out dx, eax */
    0xeb, 0xf2,                   /*       jmp loop */
};
/* Likewise, but forgets what it is asked first. */
static const uint8_t forgets[] = {
    0x31, 0xc9,                   /*       xor ecx, ecx */
    0xba, 0x44, 0x06, 0x00, 0x00, /* loop: mov edx, 0x644 */
    0xed,                         /*       in  eax, dx */
    0x85, 0xc0,                   /*       test eax, eax */
    0x74, 0xf6,                   /*       jz  loop */
    0x41,                         /*       inc ecx */
    0x83, 0xf9, 0x02,             /*       cmp ecx, 2 */
    0x72, 0xf0,                   /*       jb  loop */
    0xba, 0x48, 0x06, 0x00, 0x00, /*       mov edx, 0x648 */
    0xef,                         /*       out dx, eax */
    0xeb, 0xe8,                   /*       jmp loop */
};
/* Knows nothing. */
static const uint8_t ignores[] = {0xeb, 0xfe};
/* Gives up everything, all the time. */
static const uint8_t throws_out[] = {
    0xba, 0x48, 0x06, 0x00, 0x00, /*       mov edx, 0x648 */
    0xb8, 0xff, 0xff, 0xff, 0xff, /*       mov eax, -1 */
    0xef,                         /* loop: out dx, eax */
    0xeb, 0xfd,                   /*       jmp loop */
};

typedef struct Kernel { /* with a PVH note */
    Elf64_Ehdr eh;
    Elf64_Phdr ph[2];
    struct {
        Elf64_Nhdr head;
        char owner[4];
        uint32_t entry;
    } note;
    uint8_t code[64];
} Kernel;

static Kernel kernel(const uint8_t *code, size_t size)
{
    Kernel k = {
        .eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
               .e_type = ET_EXEC,
               .e_machine = EM_X86_64,
               .e_entry = ENTRY,
               .e_phoff = offsetof(Kernel, ph),
               .e_phentsize = sizeof(Elf64_Phdr),
               .e_phnum = 2},
        .ph = {{.p_type = PT_LOAD,
                .p_offset = offsetof(Kernel, code),
                .p_paddr = ENTRY,
                .p_filesz = sizeof(k.code),
                .p_memsz = sizeof(k.code)},
               {.p_type = PT_NOTE,
                .p_offset = offsetof(Kernel, note),
                .p_filesz = sizeof(k.note),
                .p_memsz = sizeof(k.note)}},
        .note = {{4, 4, 18}, "Xen", ENTRY},
    };

    memcpy(k.code, code, size);
    return k;
}

/* ---- the machine ------------------------------------------------------------------- */

typedef struct Fixture {
    char *folder, *kernel, *disk;
    Config *config;
    Machine *m;
    MachineListener listener;
    /* Called on the main loop: once when the machine runs, then after each deletion. */
    void (*step)(struct Fixture *f);
    IoPost step_post;
    unsigned deleted;
    char last[32];
} Fixture;

static void run_step(void *opaque)
{
    Fixture *f = opaque;

    f->step(f);
}

static void on_event(void *opaque, const char *name, json_t *data)
{
    Fixture *f = opaque;

    if (g_str_equal(name, "DEVICE_DELETED")) {
        f->deleted++;
        g_strlcpy(f->last, json_string_value(json_object_get(data, "device")),
                  sizeof(f->last));
        ioloop_post(machine_loop(f->m), &f->step_post);
    }
    json_decref(data);
}

static const VirtioOps *ops_of(const char *option)
{
    return config_option(option)->ops;
}

static bool add(Fixture *f, const char *option, const char *text, GError **error)
{
    const VirtioOps *ops = ops_of(option);
    void *options = ops->params ? param_new(ops->params) : NULL;

    if (options)
        g_assert_true(param_parse(ops->params, options, text, NULL));
    return machine_device_add(f->m, ops, options, NULL, error);
}

static bool add_disk(Fixture *f, const char *more, GError **error)
{
    g_autofree char *text = g_strdup_printf("%s,format=raw%s", f->disk, more);

    return add(f, "disk", text, error);
}

static void must(bool ok, const GError *error)
{
    g_assert_no_error(error);
    g_assert_true(ok);
}

/* False, and the test marked as skipped, where there is no KVM. */
static bool set_up(Fixture *f, const uint8_t *code, size_t size, const char *transport)
{
    Kernel k = kernel(code, size);
    GError *error = NULL;
    int64_t now = clock_ns();

    *f = (Fixture){.listener = {on_event, f}, .step_post = {run_step, f}};
    if (g_access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm cannot be opened on this machine");
        return false;
    }
    f->folder = g_dir_make_tmp("hotplug-XXXXXX", NULL);
    f->kernel = g_build_filename(f->folder, "kernel", NULL);
    f->disk = g_build_filename(f->folder, "disk", NULL);
    g_file_set_contents(f->kernel, (const char *)&k, sizeof(k), NULL);
    g_autofree char *zeroes = g_malloc0(DISK_SIZE);
    g_file_set_contents(f->disk, zeroes, DISK_SIZE, NULL);

    f->config = config_new();
    must(config_set(f->config, config_option("kernel"), f->kernel, &error), error);
    must(config_set(f->config, config_option("memory"), "16M", &error), error);
    must(config_set(f->config, config_option("serial"), "none", &error), error);
    must(config_set(f->config, config_option("rng"), NULL, &error), error);
    must(config_set(f->config, config_option("transport"), transport, &error), error);
    must(config_finish(f->config, &error), error);
    f->m = machine_new(f->config, NULL, now, &error);
    g_assert_no_error(error);
    machine_set_listener(f->m, &f->listener);
    return true;
}

static void tear_down(Fixture *f)
{
    machine_free(f->m);
    config_free(f->config);
    g_unlink(f->kernel);
    g_unlink(f->disk);
    g_rmdir(f->folder);
    g_free(f->folder);
    g_free(f->kernel);
    g_free(f->disk);
}

/* Until some step calls machine_quit(). */
static void run(Fixture *f, void (*step)(Fixture *f))
{
    MachineResult result;

    f->step = step;
    ioloop_post(machine_loop(f->m), &f->step_post);
    machine_run(f->m, &result);
    g_assert_cmpint(result.end, ==, END_QUIT);
    machine_result_clear(&result);
}

static unsigned count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

/* As a driver would: a place for the BAR, and every vector with a message. */
static void use_vectors(Fixture *f)
{
    Bus *mmio = board_mmio(machine_board(f->m));
    MachineDevice d;
    unsigned n = 0, slot;

    while (machine_device(f->m, n, &d))
        n++;
    machine_device(f->m, n - 1, &d);
    slot = d.pci->slot;
    g_assert_cmpuint(slot, ==, 2); /* the bridge, the rng, then the first free one */
    bus_write(mmio, ECAM_SLOT(slot, PCI_BAR0), 4, BAR_AT);
    bus_write(mmio, ECAM_SLOT(slot, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
    bus_write(mmio, ECAM_SLOT(slot, MSIX_CAP + 2), 2, 0x8000);
    for (unsigned i = 0; i < msix_vectors(d.pci->msix); i++) {
        bus_write(mmio, BAR_AT + MSIX_TABLE + 16 * i, 4, 0xfee00000);
        bus_write(mmio, BAR_AT + MSIX_TABLE + 16 * i + 8, 4, 0x40 + i);
        bus_write(mmio, BAR_AT + MSIX_TABLE + 16 * i + 12, 4, 0);
    }
    g_assert_cmphex(pci_config_read(d.pci, MSIX_CAP, 1), ==, 0x11);
}

/* ---- promises ---------------------------------------------------------------------- */

enum { CYCLES = 1000, WARM = 100 };
static unsigned warm_fds;
static size_t warm_bytes;

static void next_cycle(Fixture *f)
{
    bool disk = f->deleted % 8 == 0;
    GError *error = NULL;

    if (f->deleted == WARM) {
        warm_fds = count_fds();
        warm_bytes = mallinfo2().uordblks;
    }
    if (f->deleted == CYCLES) {
        g_assert_cmpuint(count_fds(), ==, warm_fds);
        g_assert_cmpuint(mallinfo2().uordblks, <, warm_bytes + 4096);
        machine_quit(f->m);
        return;
    }
    if (disk) {
        must(add_disk(f, ",id=new,queues=4", &error), error);
        use_vectors(f); /* which takes KVM milliseconds each */
    } else {
        must(add(f, "rng", NULL, &error), error);
    }
    must(machine_device_remove(f->m, disk ? "new" : "rng1", NULL, &error), error);
}

static void a_thousand_devices_come_and_go_and_leave_nothing_behind(void)
{
    Fixture f;

    if (!set_up(&f, obeys, sizeof(obeys), "pci"))
        return;
    run(&f, next_cycle);
    tear_down(&f);
}

static void ignored(Fixture *f)
{
    GError *error = NULL;
    MachineDevice d;
    bool heard = true;

    if (f->deleted) {
        g_assert_cmpstr(f->last, ==, "new");
        g_assert_null(machine_find_device(f->m, "new"));
        g_assert_nonnull(machine_find_device(f->m, "rng0"));
        must(add_disk(f, ",id=new", &error), error); /* the image is free again */
        machine_quit(f->m);
        return;
    }
    must(add_disk(f, ",id=new", &error), error);
    for (unsigned i = 0; i < 3; i++)
        must(machine_device_remove(f->m, "new", &heard, &error), error);
    g_assert_false(heard);
    g_assert_true(machine_device(f->m, 1, &d));
    g_assert_cmpint(d.removal, ==, PCI_REMOVAL_ASKED);
    g_assert_true(d.added);
    machine_reset(f->m);
}

static void a_request_that_is_ignored_is_carried_out_by_a_reset(void)
{
    Fixture f;

    if (!set_up(&f, ignores, sizeof(ignores), "pci"))
        return;
    run(&f, ignored);
    tear_down(&f);
}

static void ask_once(Fixture *f)
{
    GError *error = NULL;

    if (f->deleted)
        machine_quit(f->m);
    else
        must(machine_device_remove(f->m, "rng0", NULL, &error), error);
}

static void a_request_that_a_guest_took_too_early_is_repeated(void)
{
    Fixture f;

    if (!set_up(&f, forgets, sizeof(forgets), "pci"))
        return;
    run(&f, ask_once);
    tear_down(&f);
}

static void add_what_is_thrown_out(Fixture *f)
{
    GError *error = NULL;
    MachineDevice d;

    if (f->deleted == 50) {
        g_assert_false(machine_device(f->m, 0, &d));
        machine_quit(f->m);
    } else if (f->deleted) {
        must(add_disk(f, "", &error), error);
    }
}

/* It may do so, even to what it was started with; not to the host bridge. */
static void a_guest_that_ejects_everything_all_the_time_only_loses_its_devices(void)
{
    uint64_t vendor;
    Fixture f;

    if (!set_up(&f, throws_out, sizeof(throws_out), "pci"))
        return;
    run(&f, add_what_is_thrown_out);
    bus_read(board_mmio(machine_board(f.m)), ECAM_SLOT(0, PCI_VENDOR_ID), 2, &vendor);
    g_assert_cmphex(vendor, ==, 0x1b36);
    tear_down(&f);
}

static void paused(Fixture *f)
{
    GError *error = NULL;

    if (f->deleted) {
        machine_quit(f->m);
        return;
    }
    must(add_disk(f, ",id=new", &error), error);
    machine_stop(f->m, STATE_PAUSED);
    must(machine_device_remove(f->m, "new", NULL, &error), error);
    must(add(f, "rng", NULL, &error), error);
    g_assert_cmpint(machine_state(f->m), ==, STATE_PAUSED);
    g_assert_nonnull(machine_find_device(f->m, "new"));
    machine_cont(f->m);
}

static void devices_come_and_are_asked_for_while_the_machine_is_paused(void)
{
    Fixture f;

    if (!set_up(&f, obeys, sizeof(obeys), "pci"))
        return;
    run(&f, paused);
    tear_down(&f);
}

static void ends_at_once(Fixture *f)
{
    GError *error = NULL;

    must(add_disk(f, ",id=new", &error), error);
    must(machine_device_remove(f->m, "new", NULL, &error), error);
    machine_reset(f->m); /* it is off the bus, and not yet gone */
    machine_quit(f->m);
}

static void a_machine_may_end_while_a_device_leaves(void)
{
    Fixture f;

    if (!set_up(&f, ignores, sizeof(ignores), "pci"))
        return;
    run(&f, ends_at_once);
    tear_down(&f);
}

static void refused(bool ok, GError *error, int code, const char *words)
{
    g_assert_false(ok);
    g_assert_error(error, VM_ERROR, code);
    if (!strstr(error->message, words))
        g_error("'%s' does not say '%s'", error->message, words);
    g_error_free(error);
}

static void what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing_behind(void)
{
    GError *error = NULL;
    unsigned fds;
    bool ok;
    Fixture f;

    if (!set_up(&f, ignores, sizeof(ignores), "pci"))
        return;
    must(add_disk(&f, ",id=new,readonly", &error), error);
    fds = count_fds();
    ok = add_disk(&f, ",id=new,readonly", &error);
    refused(ok, error, VM_ERROR_INVALID, "id 'new' is that of another device");
    error = NULL;
    ok = add_disk(&f, ",id=rng0,readonly", &error);
    refused(ok, error, VM_ERROR_INVALID, "'rng0'");
    error = NULL;
    ok = add_disk(&f, ",readonly,id=an-id-of-more-than-thirty-one-bytes", &error);
    refused(ok, error, VM_ERROR_INVALID, "longer than 31");
    error = NULL;
    ok = add(&f, "disk", "/does/not/exist", &error);
    refused(ok, error, VM_ERROR_IO, "disk0: ");
    error = NULL;
    ok = machine_device_remove(f.m, "nobody", NULL, &error);
    refused(ok, error, VM_ERROR_NOT_FOUND, "'nobody'");
    error = NULL;
    g_assert_cmpuint(count_fds(), ==, fds);
    for (unsigned i = 3; i < PCI_MAX_SLOTS; i++)
        must(add(&f, "rng", NULL, &error), error);
    fds = count_fds();
    ok = add(&f, "rng", NULL, &error);
    refused(ok, error, VM_ERROR_BUSY, "slots are taken");
    g_assert_cmpuint(count_fds(), ==, fds);
    tear_down(&f);
}

static void virtio_mmio_has_no_hotplug_and_says_so(void)
{
    GError *error = NULL;
    MachineDevice d;
    bool ok;
    Fixture f;

    if (!set_up(&f, ignores, sizeof(ignores), "mmio"))
        return;
    ok = add_disk(&f, "", &error);
    refused(ok, error, VM_ERROR_UNSUPPORTED, "--transport pci");
    error = NULL;
    ok = machine_device_remove(f.m, "rng0", NULL, &error);
    refused(ok, error, VM_ERROR_UNSUPPORTED, "--transport pci");
    g_assert_true(machine_device(f.m, 0, &d));
    g_assert_null(d.pci);
    g_assert_false(machine_device(f.m, 1, &d));
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/hotplug/" #fn, fn)
    TEST(what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing_behind);
    TEST(virtio_mmio_has_no_hotplug_and_says_so);
    TEST(a_request_that_is_ignored_is_carried_out_by_a_reset);
    TEST(a_request_that_a_guest_took_too_early_is_repeated);
    TEST(devices_come_and_are_asked_for_while_the_machine_is_paused);
    TEST(a_machine_may_end_while_a_device_leaves);
    TEST(a_guest_that_ejects_everything_all_the_time_only_loses_its_devices);
    TEST(a_thousand_devices_come_and_go_and_leave_nothing_behind);
    return g_test_run();
}
