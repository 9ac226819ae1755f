/* Devices that are saved and loaded are, to the guest, the same as before. */
#include "../state/sums.h"
#include "devices/state_tables.h"
#include "saved_pc.h"

/* ---- all of them ---------------------------------------------------------------------
 */

/* Time goes on between two states: what the PM timer shows is put out of the account. */
static json_t *describe(GBytes *bytes)
{
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);
    json_t *all = state_describe(r, devices_state_tables);
    json_t *pm = json_object_get(json_object_get(all, "acpi-pm"), "fields");

    g_assert_cmpint(json_object_del(pm, "timer_ns"), ==, 0);
    return all;
}

static void assert_same(GBytes *a, GBytes *b)
{
    json_t *first = describe(a), *second = describe(b);
    g_autofree char *one = json_dumps(first, JSON_INDENT(1));
    g_autofree char *other = json_dumps(second, JSON_INDENT(1));

    g_assert_cmpuint(g_bytes_get_size(a), ==, g_bytes_get_size(b));
    g_assert_cmpstr(one, ==, other);
    json_decref(first);
    json_decref(second);
}

static void what_was_saved_is_saved_again_after_a_load(void)
{
    for (unsigned round = 0; round < 200; round++) {
        g_autoptr(GBytes) before = NULL, after = NULL;
        g_autoptr(GError) error = NULL;
        SavedPc was, is;

        saved_pc_init(&was);
        saved_pc_storm(&was, round * 10);
        before = saved_pc_save(&was);
        saved_pc_init(&is);
        saved_pc_load(&is, before, &error);
        g_assert_no_error(error);
        after = saved_pc_save(&is);
        assert_same(before, after);
        saved_pc_finish(&is);
        saved_pc_finish(&was);
    }
}

/* Lines are as they were, and no message leaves for what was long over. */
static void lines_come_back_and_messages_do_not(void)
{
    for (unsigned round = 0; round < 100; round++) {
        g_autoptr(GBytes) state = NULL;
        SavedPc was, is;
        uint64_t count;

        saved_pc_init(&was);
        saved_pc_storm(&was, 2000);
        state = saved_pc_save(&was);
        saved_pc_init(&is);
        g_assert_true(saved_pc_load(&is, state, NULL));
        saved_pc_resume(&is);
        saved_pc_resume(&was); /* the clock's flags, too, are brought up to date by it */
        for (unsigned gsi = 0; gsi < IRQ_MAX_GSI; gsi++)
            if (gsi != 8) /* its next second may begin at any moment */
                g_assert_cmpint(is.b.gsi[gsi], ==, was.b.gsi[gsi]);
        for (unsigned i = 0; i < BENCH_MAX_MSI; i++)
            if (is.b.msi[i].used)
                g_assert_cmpint(read(is.b.msi[i].eventfd, &count, 8), ==, -1);
        saved_pc_finish(&is);
        saved_pc_finish(&was);
    }
}

/* Who can write the file can set any field: a load fails, or what is loaded can be used.
 */
static void made_up_states_do_no_harm(void)
{
    g_autoptr(GBytes) state = NULL;
    const uint8_t *bytes;
    unsigned refused = 0;
    SavedPc pc;
    size_t size;

    saved_pc_init(&pc);
    saved_pc_storm(&pc, 3000);
    state = saved_pc_save(&pc);
    bytes = g_bytes_get_data(state, &size);
    saved_pc_finish(&pc);
    for (unsigned round = 0; round < 2000; round++) {
        g_autofree uint8_t *copy = g_memdup2(bytes, size);
        g_autoptr(GError) error = NULL;

        for (unsigned n = g_test_rand_int_range(1, 4); n; n--)
            copy[g_test_rand_int_range(12, size)] = g_test_rand_int();
        state_fix_sums(copy, size);
        g_autoptr(GBytes) hostile = g_bytes_new(copy, size);
        saved_pc_init(&pc);
        if (saved_pc_load(&pc, hostile, &error)) {
            saved_pc_resume(&pc);
            saved_pc_storm(&pc, 50);
        } else {
            g_assert_nonnull(error);
            refused++;
        }
        saved_pc_finish(&pc);
    }
    g_assert_cmpuint(refused, >, 500);
}

/* With HUTCH_GOLDEN_MAKE: writes a file for tests/state/golden, for a new version. */
static void make_golden(void)
{
    const char *path = g_getenv("HUTCH_GOLDEN_MAKE");
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    SavedPc pc;

    if (!path) {
        g_test_skip("HUTCH_GOLDEN_MAKE is not set");
        return;
    }
    saved_pc_init(&pc);
    saved_pc_storm(&pc, 5000);
    state = saved_pc_save(&pc);
    saved_pc_finish(&pc);
    g_file_set_contents(path, g_bytes_get_data(state, NULL), g_bytes_get_size(state),
                        &error);
    g_assert_no_error(error);
}

/* What the first hutch that could write loads for ever. */
static void golden_files_load(void)
{
    const char *folder = g_getenv("HUTCH_GOLDEN");
    g_autofree char *path = g_strdup_printf("%s/devices-1.state", folder);
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    char *contents;
    gsize size;
    SavedPc pc;

    if (!folder) {
        g_test_skip("HUTCH_GOLDEN is not set");
        return;
    }
    g_file_get_contents(path, &contents, &size, &error);
    g_assert_no_error(error);
    state = g_bytes_new_take(contents, size);
    saved_pc_init(&pc);
    saved_pc_load(&pc, state, &error);
    g_assert_no_error(error);
    saved_pc_resume(&pc);
    saved_pc_finish(&pc);
}

/* ---- one after the other ---------------------------------------------------------- */

typedef struct Pair { /* the machine that is saved, and the one that takes over */
    SavedPc was, is;
} Pair;

static void pair_set_up(Pair *p, gconstpointer unused)
{
    saved_pc_init(&p->was);
    saved_pc_init(&p->is);
}

static void pair_tear_down(Pair *p, gconstpointer unused)
{
    saved_pc_finish(&p->was);
    saved_pc_finish(&p->is);
}

static void move(Pair *p)
{
    g_autoptr(GBytes) state = saved_pc_save(&p->was);
    g_autoptr(GError) error = NULL;

    saved_pc_load(&p->is, state, &error);
    g_assert_no_error(error);
    saved_pc_resume(&p->is);
}

static void expect_refusal(Pair *p, const char *says)
{
    g_autoptr(GBytes) state = saved_pc_save(&p->was);
    g_autoptr(GError) error = NULL;

    g_assert_false(saved_pc_load(&p->is, state, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_CORRUPT);
    if (!strstr(error->message, says))
        g_error("'%s' does not say '%s'", error->message, says);
}

static uint8_t cmos(SavedPc *pc, uint8_t index)
{
    out(&pc->b, 0x70, 1, index);
    return in(&pc->b, 0x71, 1);
}

static void the_clock_goes_on_and_its_alarm_stands(Pair *p, gconstpointer unused)
{
    unsigned seconds;

    out(&p->was.b, 0x70, 1, 0x0b);
    out(&p->was.b, 0x71, 1, 0x26); /* binary, 24 hours, alarm interrupts */
    for (unsigned i = 1; i <= 5; i += 2) {
        out(&p->was.b, 0x70, 1, i);
        out(&p->was.b, 0x71, 1, 0xff); /* every second */
    }
    cmos(&p->was, 0x0c);
    move(p);
    seconds = cmos(&p->is, 0);
    g_assert_cmpuint((seconds + 60 - cmos(&p->was, 0)) % 60, <=, 1);
    for (int64_t end = clock_ns() + 10000000000; !(cmos(&p->is, 0x0c) & 0x20);)
        g_assert_cmpint(clock_ns(), <, end);
}

static uint32_t pm_timer(SavedPc *pc)
{
    return in(&pc->b, ACPI_PM_TMR, 4);
}

static void the_pm_timer_goes_on_from_where_it_stood(Pair *p, gconstpointer unused)
{
    uint32_t stood, passed;
    int64_t begin;

    while (pm_timer(&p->was) < 3579545 / 20) /* well ahead of one that starts now */
        ;
    stood = pm_timer(&p->was);
    begin = clock_ns();
    move(p);
    passed = pm_timer(&p->is) - stood;
    g_assert_cmpuint(passed, <=,
                     (uint64_t)(clock_ns() - begin) * 3579545 / 1000000000 + 1);
}

/* Otherwise a kernel that compares its clocks would distrust one of them. */
static void the_pm_timer_catches_up_with_the_others(Pair *p, gconstpointer unused)
{
    uint32_t stood = pm_timer(&p->was);

    move(p);
    acpi_pm_put_forward(p->is.pm, -5);
    g_assert_cmpuint(pm_timer(&p->is) - stood, <, 100 * 3579545u);
    acpi_pm_put_forward(p->is.pm, 100ll * 1000000000);
    g_assert_cmpuint(pm_timer(&p->is) - stood, >=, 100 * 3579545u);
}

static void the_generation_stays_until_somebody_changes_it(Pair *p, gconstpointer unused)
{
    static const uint8_t other[16] = {9, 9, 9};
    uint8_t seen[16];

    vmgenid_set(p->was.legacy[6], other);
    move(p);
    g_assert_true(gm_read(&p->is.gm, 0xe000 + VMGENID_OFFSET, seen, sizeof(seen)));
    g_assert_cmpmem(seen, sizeof(seen), other, sizeof(other));
}

static uint32_t ecam(SavedPc *pc, unsigned slot, unsigned reg)
{
    uint64_t value;

    bus_read(pc->b.mmio, SAVED_PC_ECAM + (slot << 15) + reg, 4, &value);
    return value;
}

static void ecam_write(SavedPc *pc, unsigned slot, unsigned reg, uint32_t value)
{
    bus_write(pc->b.mmio, SAVED_PC_ECAM + (slot << 15) + reg, 4, value);
}

static bool answers(SavedPc *pc, uint64_t addr)
{
    uint64_t value;

    return bus_read(pc->b.mmio, addr, 4, &value);
}

static void bars_answer_where_they_were(Pair *p, gconstpointer unused)
{
    ecam_write(&p->was, 2, PCI_BAR0, 0xd0000000);
    ecam_write(&p->was, 2, PCI_COMMAND, PCI_COMMAND_MEMORY);
    ecam_write(&p->was, 3, PCI_BAR0, 0xd0000000); /* taken: it waits */
    ecam_write(&p->was, 3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    move(p);
    g_assert_true(answers(&p->is, 0xd0000000));
    g_assert_true(pci_device_at(p->is.bus, 2)->bar[0].region.mapped);
    g_assert_false(pci_device_at(p->is.bus, 3)->bar[0].region.mapped);
    ecam_write(&p->is, 2, PCI_COMMAND, 0);
    g_assert_true(pci_device_at(p->is.bus, 3)->bar[0].region.mapped);
}

static void messages_are_routed_as_they_were(Pair *p, gconstpointer unused)
{
    PciDevice *was = pci_device_at(p->was.bus, 1), *is = pci_device_at(p->is.bus, 1);
    uint64_t table = SAVED_PC_MMIO32 + 0x1000;

    ecam_write(&p->was, 1, PCI_COMMAND, PCI_COMMAND_MEMORY);
    for (unsigned i = 0; i < 2; i++) {
        bus_write(p->was.b.mmio, table + 16 * i, 4, 0xfee00000);
        bus_write(p->was.b.mmio, table + 16 * i + 8, 4, 40 + i);
    }
    bus_write(p->was.b.mmio, table + 12, 4, 0); /* vector 1 stays masked */
    ecam_write(&p->was, 1, was->last_cap, 0x80000000);
    g_assert_true(msix_enabled(was->msix));
    msix_notify(was->msix, 1); /* pending */
    move(p);

    g_assert_true(msix_enabled(is->msix));
    msix_notify(is->msix, 0);
    g_assert_cmpint(bench_fired(&p->is.b, 40), ==, 1);
    g_assert_cmpint(bench_fired(&p->is.b, 41), ==, -1);
    bus_write(p->is.b.mmio, table + 16 + 12, 4, 0);
    g_assert_cmpint(bench_fired(&p->is.b, 41), ==, 1);
}

static void interrupt_lines_are_high_again(Pair *p, gconstpointer unused)
{
    pci_set_intx(pci_device_at(p->was.bus, 2), true);
    g_assert_true(p->was.b.gsi[18]);
    move(p);
    g_assert_true(p->is.b.gsi[18]);
    pci_set_intx(pci_device_at(p->is.bus, 2), false);
    g_assert_false(p->is.b.gsi[18]);
}

/* A machine that is made anew has no hole where a device was unplugged. */
static void functions_come_back_into_their_slots(void)
{
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    SavedPc was, is;
    PciDevice *gone;

    saved_pc_init(&was);
    gone = pci_device_at(was.bus, 1);
    pci_unplug(gone);
    pci_hotplug_unplugged(was.hotplug, 1);
    device_release(&gone->dev);
    ecam_write(&was, 3, PCI_COMMAND, PCI_COMMAND_MEMORY);
    pci_set_intx(pci_device_at(was.bus, 3), true);
    state = saved_pc_save(&was);

    saved_pc_init_with(&is, 0);
    saved_pc_add(&is, "fn1"); /* slot 1 */
    saved_pc_add(&is, "fn2");
    saved_pc_load(&is, state, &error);
    g_assert_no_error(error);
    saved_pc_resume(&is);
    g_assert_null(pci_device_at(is.bus, 1));
    g_assert_cmpstr(pci_device_at(is.bus, 2)->dev.id, ==, "fn1");
    g_assert_cmpuint(pci_device_at(is.bus, 3)->slot, ==, 3);
    g_assert_true(is.b.gsi[19]);
    out(&is.b, PCI_HOTPLUG_PORT + PCI_HOTPLUG_EJECT, 4, BIT(3)); /* may still go */
    g_assert_cmphex(ecam(&is, 3, 0), ==, 0xffffffff);
    saved_pc_finish(&is);
    saved_pc_finish(&was);
}

static void what_the_guest_gave_up_is_not_saved(void)
{
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    SavedPc was, is;

    saved_pc_init(&was);
    pci_hotplug_ask(was.hotplug, 3);
    out(&was.b, PCI_HOTPLUG_PORT + PCI_HOTPLUG_EJECT, 4, BIT(3));
    state = saved_pc_save(&was);
    saved_pc_init_with(&is, 2);
    saved_pc_load(&is, state, &error);
    g_assert_no_error(error);
    saved_pc_finish(&is);
    saved_pc_finish(&was);
}

static void a_request_for_removal_stands(Pair *p, gconstpointer unused)
{
    pci_hotplug_ask(p->was.hotplug, 2);
    out(&p->was.b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    out(&p->was.b, ACPI_GPE0 + 2, 1, BIT(PCI_HOTPLUG_GPE));
    g_assert_true(p->was.b.gsi[9]);
    move(p);
    g_assert_true(p->is.b.gsi[9]);
    g_assert_cmpint(pci_hotplug_removal(p->is.hotplug, 2), ==, PCI_REMOVAL_ASKED);
    g_assert_cmphex(in(&p->is.b, PCI_HOTPLUG_PORT + PCI_HOTPLUG_DOWN, 4), ==, BIT(2));
    out(&p->is.b, ACPI_GPE0, 1, 0xff); /* its cause is gone, so it can be cleared */
    g_assert_false(p->is.b.gsi[9]);
}

static void another_device_is_refused(Pair *p, gconstpointer unused)
{
    PciDevice *fn = pci_device_at(p->was.bus, 2);

    fn->s.config[PCI_DEVICE_ID] = 0x79;
    expect_refusal(p, "section 'fn1/pci', field 'config': byte 0x02 is 0x79, and 0x78");
}

static void a_machine_with_other_devices_is_refused(void)
{
    Pair p;

    saved_pc_init(&p.was);
    saved_pc_init_with(&p.is, 2);
    expect_refusal(&p, "'fn2' was in slot 3, and this machine has no PCI device");
    saved_pc_finish(&p.is);
    saved_pc_init_with(&p.is, 4);
    expect_refusal(&p, "this machine has 'fn3', and the one that was saved had not");
    saved_pc_finish(&p.is);
    saved_pc_finish(&p.was);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/saved/again", what_was_saved_is_saved_again_after_a_load);
    g_test_add_func("/saved/lines", lines_come_back_and_messages_do_not);
    g_test_add_func("/saved/hostile", made_up_states_do_no_harm);
    g_test_add_func("/saved/golden", golden_files_load);
    g_test_add_func("/saved/make-golden", make_golden);
#define TEST(path, fn) g_test_add(path, Pair, NULL, pair_set_up, fn, pair_tear_down)
    TEST("/saved/clock", the_clock_goes_on_and_its_alarm_stands);
    TEST("/saved/pm-timer", the_pm_timer_goes_on_from_where_it_stood);
    TEST("/saved/catch-up", the_pm_timer_catches_up_with_the_others);
    TEST("/saved/generation", the_generation_stays_until_somebody_changes_it);
    TEST("/saved/bars", bars_answer_where_they_were);
    TEST("/saved/messages", messages_are_routed_as_they_were);
    TEST("/saved/intx", interrupt_lines_are_high_again);
    TEST("/saved/request", a_request_for_removal_stands);
    TEST("/saved/foreign", another_device_is_refused);
    g_test_add_func("/saved/slots", functions_come_back_into_their_slots);
    g_test_add_func("/saved/ejected", what_the_guest_gave_up_is_not_saved);
    g_test_add_func("/saved/other-machine", a_machine_with_other_devices_is_refused);
    return g_test_run();
}
