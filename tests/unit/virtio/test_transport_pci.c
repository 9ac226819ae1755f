/* virtio-pci (virtio 1.2, 4.1), as a driver and as an attacker use it. */
#include "transport_bench.h"

#define ECAM   0xb0000000ull
#define MMIO64 0x800000000ull
enum { GSI_BASE = 16, SLOT = 3, GSI = GSI_BASE + SLOT % 4, NO_VECTOR = 0xffff };

enum { /* 4.1.4.3: offsets in the common configuration */
       DEVICE_FEATURE_SELECT = 0x00,
       DEVICE_FEATURE = 0x04,
       DRIVER_FEATURE_SELECT = 0x08,
       DRIVER_FEATURE = 0x0c,
       CONFIG_VECTOR = 0x10,
       NUM_QUEUES = 0x12,
       DEVICE_STATUS = 0x14,
       CONFIG_GENERATION = 0x15,
       QUEUE_SELECT = 0x16,
       QUEUE_SIZE = 0x18,
       QUEUE_VECTOR = 0x1a,
       QUEUE_ENABLE = 0x1c,
       QUEUE_NOTIFY_OFF = 0x1e,
       QUEUE_DESC = 0x20,
       QUEUE_DRIVER = 0x28,
       QUEUE_DEVICE = 0x30,
       COMMON_SIZE = 0x38,
};
enum { TYPE_COMMON = 1, TYPE_NOTIFY, TYPE_ISR, TYPE_DEVICE, TYPE_PCI_ACCESS };

static TransportBench t;
static PciBus *bus;
static PciDevice *pci;
/* As found in the capabilities: where in config space, and in guest-physical memory. */
static unsigned cap_at[6], msix_cap;
static uint64_t at[6], msix_table;
static unsigned notify_step;

static uint32_t config_read(unsigned offset, unsigned size)
{
    return pci_config_read(pci, offset, size);
}

static void find_capabilities(void)
{
    uint64_t bar = config_read(PCI_BAR0, 4) & ~15u;

    bar |= (uint64_t)config_read(PCI_BAR0 + 4, 4) << 32;
    memset(cap_at, 0, sizeof(cap_at));
    for (unsigned cap = config_read(PCI_CAP_POINTER, 1); cap;
         cap = config_read(cap + 1, 1)) {
        unsigned type = config_read(cap + 3, 1);

        if (config_read(cap, 1) == 0x11) {
            msix_cap = cap;
            msix_table = bar + (config_read(cap + 4, 4) & ~7u);
            continue;
        }
        g_assert_cmphex(config_read(cap, 1), ==, 0x09);
        g_assert_cmpuint(config_read(cap + 4, 1), ==, 0); /* BAR 0 */
        g_assert_cmpuint(type, <, 6);
        cap_at[type] = cap;
        at[type] = bar + config_read(cap + 8, 4);
    }
    notify_step = config_read(cap_at[TYPE_NOTIFY] + 16, 4);
}

static void enable(bool on)
{
    pci_config_write(pci, PCI_COMMAND, 2,
                     on ? PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : 0);
}

static void make_bus(void)
{
    PciBusConfig config;
    GError *error = NULL;

    config = (PciBusConfig){
        .pio = t.bench.pio,
        .mmio = t.bench.mmio,
        .ic = &t.bench.ic,
        .gsi_base = GSI_BASE,
        .ecam_base = ECAM,
        .mmio32_base = 0xc0000000,
        .mmio32_size = 0x10000000,
        .mmio64_base = MMIO64,
        .mmio64_size = 0x100000000,
    };
    bus = pci_bus_new(&config, &error);
    g_assert_no_error(error);
    pci = virtio_pci_new(t.v);
    g_assert_nonnull(pci);
    g_assert_true(pci_attach(bus, pci, SLOT, &error));
}

static void start(bool catches_kicks)
{
    tb_init(&t, catches_kicks);
    make_bus();
    enable(true);
    find_capabilities();
}

static GBytes *save(void)
{
    StateWriter *w = state_writer_new();
    GError *error = NULL;
    GBytes *state;

    pci_bus_quiesce(bus);
    pci_bus_save(bus, w);
    state = state_writer_end(w, &error);
    g_assert_no_error(error);
    return state;
}

/* Another machine's bus and device over the same RAM. */
static void replace(void)
{
    pci_bus_free(bus);
    g_assert_false(t.bench.gsi[GSI]);
    tb_new_device(&t);
    make_bus();
}

static bool load(GBytes *state, GError **error)
{
    g_autoptr(StateReader) r = state_reader_new(state, error);

    return r && pci_bus_load(bus, r, error) && state_reader_done(r, error);
}

static void restore(void)
{
    g_autoptr(GBytes) before = save(), after = NULL;
    GError *error = NULL;

    replace();
    load(before, &error);
    g_assert_no_error(error);
    after = save();
    g_assert_true(g_bytes_equal(before, after));
    pci_bus_resume(bus);
    tb_run(&t);
}

static void finish(void)
{
    pci_bus_free(bus);
    g_assert_false(t.bench.gsi[GSI]);
    tb_finish(&t);
}

static uint64_t get(unsigned reg, unsigned size)
{
    return tb_read(&t, at[TYPE_COMMON] + reg, size);
}

static void set(unsigned reg, unsigned size, uint64_t value)
{
    tb_write(&t, at[TYPE_COMMON] + reg, size, value);
}

static uint8_t isr(void)
{
    return (uint8_t)tb_read(&t, at[TYPE_ISR], 1);
}

static void kick(unsigned queue)
{
    tb_write(&t, at[TYPE_NOTIFY] + queue * notify_step, 2, queue);
    tb_run(&t);
}

static void negotiate(void)
{
    set(DEVICE_STATUS, 1, 0);
    set(DEVICE_STATUS, 1, 3);
    set(DEVICE_FEATURE_SELECT, 4, 1);
    g_assert_true(get(DEVICE_FEATURE, 4) & 1);
    set(DRIVER_FEATURE_SELECT, 4, 1);
    set(DRIVER_FEATURE, 4, 1); /* VERSION_1 */
    set(DEVICE_STATUS, 1, 0xb);
    g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0xb);
    memset(gm_at(&t.gm, 0, TB_RAM), 0, TB_RAM);
}

static void place_queue(unsigned queue)
{
    set(QUEUE_SELECT, 2, queue);
    g_assert_cmpuint(get(QUEUE_SIZE, 2), ==, ECHO_QUEUE_SIZE);
    g_assert_cmpuint(get(QUEUE_ENABLE, 2), ==, 0);
    g_assert_cmpuint(get(QUEUE_NOTIFY_OFF, 2), ==, queue);
    set(QUEUE_SIZE, 2, TB_SIZE);
    set(QUEUE_DESC, 4, queue * TB_QUEUE + TB_DESC);
    set(QUEUE_DRIVER, 4, queue * TB_QUEUE + TB_DRIVER);
    set(QUEUE_DEVICE, 4, queue * TB_QUEUE + TB_DEVICE);
    set(QUEUE_ENABLE, 2, 1);
    g_assert_cmpuint(get(QUEUE_ENABLE, 2), ==, 1);
}

static void drive(void)
{
    negotiate();
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        place_queue(i);
    set(DEVICE_STATUS, 1, 0xf);
    g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0xf);
}

static void send_request(void)
{
    unsigned before = tb_used(&t, 0);

    tb_offer(&t, 0);
    kick(0);
    g_assert_cmpuint(tb_used(&t, 0), ==, before + 1);
}

/* With MSI-X off. */
static void request_comes_back(void)
{
    send_request();
    g_assert_true(t.bench.gsi[GSI]);
    g_assert_cmphex(isr(), ==, 1);
    g_assert_false(t.bench.gsi[GSI]);
    g_assert_cmphex(isr(), ==, 0);
}

/* Vector n fires message 0x40 + n. */
static void enable_msix(void)
{
    for (unsigned n = 0; n <= ECHO_QUEUES; n++) {
        tb_write(&t, msix_table + 16 * n, 4, 0xfee00000);
        tb_write(&t, msix_table + 16 * n + 8, 4, 0x40 + n);
        tb_write(&t, msix_table + 16 * n + 12, 4, 0);
    }
    pci_config_write(pci, msix_cap + 2, 2, 0x8000);
}

/* ---- what is there ---------------------------------------------------------------- */

static void it_says_what_it_is(void)
{
    start(false);
    g_assert_cmphex(config_read(PCI_VENDOR_ID, 2), ==, 0x1af4);
    g_assert_cmphex(config_read(PCI_DEVICE_ID, 2), ==, 0x1040 + 0x7f);
    g_assert_cmphex(config_read(PCI_REVISION, 1), ==, 1);
    g_assert_cmphex(config_read(PCI_CLASS, 2), ==, 0xff00);
    g_assert_cmphex(config_read(PCI_SUBSYSTEM_VENDOR, 2), ==, 0x1af4);
    g_assert_cmphex(config_read(PCI_SUBSYSTEM_ID, 2), ==, 0x1100);
    g_assert_cmphex(config_read(PCI_BAR0, 1) & 15, ==, 4); /* memory, 64 bits */
    finish();
}

static void each_structure_has_a_page_of_its_own(void)
{
    start(false);
    for (unsigned a = TYPE_COMMON; a <= TYPE_DEVICE; a++) {
        g_assert_cmpuint(cap_at[a], !=, 0);
        g_assert_true(is_aligned(at[a], 0x1000));
        g_assert_cmpuint(at[a] >> 12, !=, msix_table >> 12);
        for (unsigned b = a + 1; b <= TYPE_DEVICE; b++)
            g_assert_cmpuint(at[a] >> 12, !=, at[b] >> 12);
    }
    g_assert_cmpuint(cap_at[TYPE_PCI_ACCESS], !=, 0);
    g_assert_cmpuint(config_read(cap_at[TYPE_COMMON] + 12, 4), ==, COMMON_SIZE);
    g_assert_cmpuint(config_read(cap_at[TYPE_DEVICE] + 12, 4), ==, ECHO_CONFIG);
    g_assert_cmpuint(config_read(cap_at[TYPE_NOTIFY] + 2, 1), ==, 20);
    g_assert_cmpuint(config_read(msix_cap + 2, 2), ==, ECHO_QUEUES); /* n - 1 */
    g_assert_cmpuint(get(NUM_QUEUES, 2), ==, ECHO_QUEUES);
    finish();
}

/* ---- common configuration --------------------------------------------------------- */

static void registers_read_the_same_in_any_width(void)
{
    uint8_t bytes[COMMON_SIZE];

    start(false);
    drive();
    for (unsigned i = 0; i < COMMON_SIZE; i++)
        bytes[i] = (uint8_t)get(i, 1);
    for (unsigned size = 2; size <= 8; size *= 2)
        for (unsigned i = 0; i + size <= COMMON_SIZE; i += size)
            g_assert_cmphex(get(i, size), ==, load_le(bytes + i, size));
    g_assert_cmphex(get(COMMON_SIZE - 1, 8), ==, bytes[COMMON_SIZE - 1]);
    g_assert_cmphex(get(COMMON_SIZE, 4), ==, 0);
    g_assert_cmphex(get(0xffc, 4), ==, 0);
    finish();
}

/* 4.1.3.1 */
static void a_write_of_the_wrong_width_does_nothing(void)
{
    start(false);
    negotiate();
    set(QUEUE_SELECT, 2, 1);
    set(QUEUE_SELECT, 1, 0);
    set(QUEUE_SELECT, 4, 0);
    set(DEVICE_STATUS, 2, 0);
    set(DEVICE_STATUS, 4, 0);
    set(DEVICE_STATUS - 1, 2, 0);
    set(QUEUE_SIZE, 4, 0x10004);
    set(QUEUE_DESC, 2, 0x1234);
    set(QUEUE_DESC + 2, 4, 0x12345678);
    set(DRIVER_FEATURE, 2, 0);
    g_assert_cmpuint(get(QUEUE_SELECT, 2), ==, 1);
    g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0xb);
    g_assert_cmpuint(get(QUEUE_SIZE, 2), ==, ECHO_QUEUE_SIZE);
    g_assert_cmphex(get(QUEUE_DESC, 8), ==, 0);
    finish();
}

static void addresses_have_64_bits(void)
{
    start(false);
    negotiate();
    set(QUEUE_SELECT, 2, 2);
    set(QUEUE_DESC, 4, 0x11111110);
    set(QUEUE_DESC + 4, 4, 0x22222222);
    set(QUEUE_DRIVER + 4, 4, 0x44444444);
    set(QUEUE_DEVICE, 8, 0x6666666655555550);
    g_assert_cmphex(get(QUEUE_DESC, 8), ==, 0x2222222211111110);
    g_assert_cmphex(get(QUEUE_DRIVER, 8), ==, 0x4444444400000000);
    g_assert_cmphex(get(QUEUE_DEVICE, 8), ==, 0x6666666655555550);
    finish();
}

/* The classes of unchecked queue_select and unchecked notify index. */
static void a_queue_that_is_not_there_reads_0(void)
{
    const uint16_t absent[] = {ECHO_QUEUES, VIRTIO_MAX_QUEUES, 0x7fff, 0xffff};

    start(false);
    negotiate();
    for (unsigned i = 0; i < G_N_ELEMENTS(absent); i++) {
        set(QUEUE_SELECT, 2, absent[i]);
        set(QUEUE_SIZE, 2, 4);
        set(QUEUE_ENABLE, 2, 1);
        set(QUEUE_VECTOR, 2, 0);
        set(QUEUE_DESC, 4, 0x1000);
        g_assert_cmpuint(get(QUEUE_SELECT, 2), ==, absent[i]);
        g_assert_cmpuint(get(QUEUE_SIZE, 2), ==, 0);
        g_assert_cmpuint(get(QUEUE_ENABLE, 2), ==, 0);
        g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, NO_VECTOR);
        g_assert_cmphex(get(QUEUE_DESC, 8), ==, 0);
    }
    for (unsigned offset = 0; offset < 0x1000; offset++)
        tb_write(&t, at[TYPE_NOTIFY] + offset, 2, 0xffff);
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        place_queue(i);
    set(DEVICE_STATUS, 1, 0xf);
    request_comes_back();
    finish();
}

/* The class of CVE-2026-5747: a queue's geometry changed under a running device. */
static void queue_registers_are_frozen_after_driver_ok(void)
{
    start(true);
    drive();
    for (unsigned i = 0; i < ECHO_QUEUES; i++) {
        set(QUEUE_SELECT, 2, i);
        set(QUEUE_SIZE, 2, 0x8000);
        set(QUEUE_ENABLE, 2, 0);
        for (unsigned reg = QUEUE_DESC; reg < COMMON_SIZE; reg += 4)
            set(reg, 4, 0xdeadbee0);
        g_assert_cmpuint(get(QUEUE_SIZE, 2), ==, TB_SIZE);
        g_assert_cmpuint(get(QUEUE_ENABLE, 2), ==, 1);
        g_assert_cmphex(get(QUEUE_DESC, 8), ==, i * TB_QUEUE + TB_DESC);
        g_assert_cmphex(get(QUEUE_DRIVER, 8), ==, i * TB_QUEUE + TB_DRIVER);
        g_assert_cmphex(get(QUEUE_DEVICE, 8), ==, i * TB_QUEUE + TB_DEVICE);
    }
    request_comes_back();
    finish();
}

static void a_bad_size_breaks_the_device_at_driver_ok(void)
{
    const uint16_t bad[] = {0, 3, 2 * ECHO_QUEUE_SIZE, 0xffff};

    start(false);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        negotiate();
        place_queue(0);
        set(QUEUE_SIZE, 2, bad[i]);
        set(DEVICE_STATUS, 1, 0xf);
        g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0x4f);
        g_assert_cmphex(isr(), ==, 2);
    }
    drive();
    request_comes_back();
    finish();
}

/* ---- kicks ------------------------------------------------------------------------ */

static void a_kick_works_with_the_kernels_help_and_without(void)
{
    for (int catches = 0; catches < 2; catches++) {
        start(catches);
        g_assert_cmpuint(t.n_kicks, ==, catches ? ECHO_QUEUES : 0);
        drive();
        for (unsigned i = 0; i < 20; i++)
            request_comes_back();
        drive(); /* reset, and all over again */
        request_comes_back();
        finish();
    }
}

static void kicks_move_with_the_bar(void)
{
    uint64_t was;

    start(true);
    drive();
    for (unsigned i = 0; i < 5; i++) {
        was = at[TYPE_NOTIFY];
        pci_config_write(pci, PCI_BAR0 + 4, 4, 0x9 + i);
        find_capabilities();
        g_assert_cmphex(at[TYPE_NOTIFY], !=, was);
        g_assert_cmpuint(t.n_kicks, ==, ECHO_QUEUES);
        for (unsigned k = 0; k < t.n_kicks; k++) {
            g_assert_cmphex(t.kick[k].addr & ~0xfffull, ==, at[TYPE_NOTIFY]);
            g_assert_cmphex(t.kick[k].addr >> 2 & 0x3ff, <, ECHO_QUEUES);
        }
        request_comes_back();
    }
    enable(false);
    g_assert_cmpuint(t.n_kicks, ==, 0);
    enable(true);
    g_assert_cmpuint(t.n_kicks, ==, ECHO_QUEUES);
    request_comes_back();
    finish();
}

/* ---- interrupts ------------------------------------------------------------------- */

static void without_msix_the_line_follows_the_isr(void)
{
    start(true);
    drive();
    send_request();
    virtio_config_changed(t.v);
    g_assert_true(t.bench.gsi[GSI]);
    g_assert_cmphex(isr(), ==, 3);
    g_assert_false(t.bench.gsi[GSI]);
    virtio_config_changed(t.v);
    g_assert_true(t.bench.gsi[GSI]);
    set(DEVICE_STATUS, 1, 0);
    g_assert_false(t.bench.gsi[GSI]);
    g_assert_cmphex(isr(), ==, 0);
    finish();
}

/* One thread interrupts while another acknowledges: whatever the order, in the end the
 * line is up exactly if there is something to acknowledge. */
static void *interrupter(void *opaque)
{
    for (unsigned i = 0; i < 50; i++)
        virtio_config_changed(t.v);
    return NULL;
}

static void the_line_is_right_whoever_comes_last(void)
{
    start(false);
    drive();
    for (unsigned round = 0; round < 300; round++) {
        pthread_t thread;

        g_assert_cmpint(pthread_create(&thread, NULL, interrupter, NULL), ==, 0);
        for (unsigned i = 0; i < 50; i++)
            isr();
        pthread_join(thread, NULL);
        if (t.bench.gsi[GSI]) {
            g_assert_cmphex(isr(), ==, 2);
        }
        g_assert_false(t.bench.gsi[GSI]);
        g_assert_cmphex(isr(), ==, 0);
    }
    finish();
}

static void with_msix_each_queue_has_its_vector(void)
{
    start(true);
    drive();
    enable_msix();
    set(CONFIG_VECTOR, 2, 0);
    set(QUEUE_SELECT, 2, 0);
    set(QUEUE_VECTOR, 2, 2);
    g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, 2);
    send_request();
    g_assert_cmpint(bench_fired(&t.bench, 0x42), ==, 1);
    g_assert_cmpint(bench_fired(&t.bench, 0x40), ==, 0);
    virtio_config_changed(t.v);
    g_assert_cmpint(bench_fired(&t.bench, 0x42), ==, 0);
    g_assert_cmpint(bench_fired(&t.bench, 0x40), ==, 1);
    g_assert_false(t.bench.gsi[GSI]);
    g_assert_cmphex(isr(), ==, 0); /* 4.1.4.5: it belongs to INTx */
    finish();
}

static void no_vector_is_silent(void)
{
    start(true);
    drive();
    enable_msix();
    g_assert_cmphex(get(CONFIG_VECTOR, 2), ==, NO_VECTOR);
    set(QUEUE_SELECT, 2, 0);
    g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, NO_VECTOR);
    send_request();
    virtio_config_changed(t.v);
    for (unsigned n = 0; n <= ECHO_QUEUES; n++)
        g_assert_cmpint(bench_fired(&t.bench, 0x40 + n), ==, 0);
    g_assert_false(t.bench.gsi[GSI]);
    finish();
}

/* 4.1.5.1.2 */
static void a_vector_that_is_not_there_reads_back_as_none(void)
{
    const uint16_t absent[] = {ECHO_QUEUES + 1, 0x7ff, 0xfffe, 0xffff};

    start(false);
    for (unsigned i = 0; i < G_N_ELEMENTS(absent); i++) {
        set(CONFIG_VECTOR, 2, 1);
        set(CONFIG_VECTOR, 2, absent[i]);
        g_assert_cmphex(get(CONFIG_VECTOR, 2), ==, NO_VECTOR);
        set(QUEUE_VECTOR, 2, 1);
        set(QUEUE_VECTOR, 2, absent[i]);
        g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, NO_VECTOR);
    }
    finish();
}

static void reset_forgets_vectors_and_selection(void)
{
    start(false);
    drive();
    set(CONFIG_VECTOR, 2, 1);
    set(QUEUE_SELECT, 2, 0);
    set(QUEUE_VECTOR, 2, 2);
    set(QUEUE_SELECT, 2, 2);
    set(DEVICE_STATUS, 1, 0);
    g_assert_cmphex(get(CONFIG_VECTOR, 2), ==, NO_VECTOR);
    g_assert_cmpuint(get(QUEUE_SELECT, 2), ==, 0);
    g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, NO_VECTOR);
    finish();
}

/* ---- saved state ------------------------------------------------------------------ */

static void what_was_offered_without_a_kick_is_served_after_a_restore(void)
{
    for (int catches = 0; catches < 2; catches++) {
        start(catches);
        drive();
        for (unsigned i = 0; i < 20; i++) {
            tb_offer(&t, 0);
            restore();
            g_assert_cmpuint(tb_used(&t, 0), ==, 2 * i + 1);
            g_assert_cmpuint(t.n_kicks, ==, catches ? ECHO_QUEUES : 0);
            g_assert_cmphex(isr(), ==, 1);
            request_comes_back();
        }
        finish();
    }
}

static void the_line_is_up_after_a_restore_if_it_was(void)
{
    start(true);
    drive();
    send_request();
    for (unsigned i = 0; i < 2; i++) {
        restore();
        g_assert_true(t.bench.gsi[GSI]);
    }
    g_assert_cmphex(isr(), ==, 1);
    g_assert_false(t.bench.gsi[GSI]);
    restore();
    g_assert_false(t.bench.gsi[GSI]);
    request_comes_back();
    finish();
}

/* The vector of queue 0 masked, when a request comes back. */
static void a_pending_vector_fires_once_wherever_it_is_unmasked(void)
{
    start(true);
    drive();
    enable_msix();
    set(QUEUE_SELECT, 2, 0);
    set(QUEUE_VECTOR, 2, 2);
    tb_write(&t, msix_table + 16 * 2 + 12, 4, 1);
    send_request();
    restore();
    g_assert_cmphex(get(QUEUE_VECTOR, 2), ==, 2);
    g_assert_cmpint(bench_fired(&t.bench, 0x42), <=, 0);
    tb_write(&t, msix_table + 16 * 2 + 12, 4, 0);
    g_assert_cmpint(bench_fired(&t.bench, 0x42), ==, 1);
    restore();
    g_assert_cmpint(bench_fired(&t.bench, 0x42), ==, 0);
    send_request();
    g_assert_cmpint(bench_fired(&t.bench, 0x42), ==, 1);
    finish();
}

static void a_vector_that_is_not_there_is_refused(void)
{
    static const char *const paths[] = {"config_vector", "queue_vector"};

    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_autoptr(GBytes) state = NULL, lie = NULL;
        g_autoptr(GError) error = NULL;

        start(false);
        drive();
        state = save();
        replace();
        lie = edit_state(state, "echo/virtio-pci", paths[i], 0, ECHO_QUEUES + 1);
        g_assert_false(load(lie, &error));
        g_assert_nonnull(strstr(error->message, "vector 4 of a device that has 4"));
        finish();
    }
}

/* ---- device configuration --------------------------------------------------------- */

static void config_is_accessed_by_any_size(void)
{
    uint64_t config, generation;

    start(false);
    config = at[TYPE_DEVICE];
    tb_write(&t, config, 8, 0x0807060504030201);
    tb_write(&t, config + 8, 2, 0x0a09);
    g_assert_cmphex(tb_read(&t, config + 6, 4), ==, 0x0a090807);
    g_assert_cmphex(tb_read(&t, config + ECHO_CONFIG, 4), ==, 0);
    g_assert_cmphex(tb_read(&t, config + 0xfff, 8), ==, 0);
    generation = get(CONFIG_GENERATION, 1);
    virtio_config_changed(t.v);
    g_assert_cmpuint(get(CONFIG_GENERATION, 1), ==, generation + 1);
    finish();
}

/* ---- access through config space (4.1.4.9) ---------------------------------------- */

static void aim(uint8_t bar, uint32_t offset, uint32_t len)
{
    pci_config_write(pci, cap_at[TYPE_PCI_ACCESS] + 4, 1, bar);
    pci_config_write(pci, cap_at[TYPE_PCI_ACCESS] + 8, 4, offset);
    pci_config_write(pci, cap_at[TYPE_PCI_ACCESS] + 12, 4, len);
}

static uint32_t through_read(uint32_t offset, uint32_t len)
{
    aim(0, offset, len);
    return config_read(cap_at[TYPE_PCI_ACCESS] + 16, len);
}

static void through_write(uint32_t offset, uint32_t len, uint32_t value)
{
    aim(0, offset, len);
    pci_config_write(pci, cap_at[TYPE_PCI_ACCESS] + 16, len, value);
}

static void config_space_reaches_the_bar_even_when_it_is_off(void)
{
    unsigned notify;

    start(false);
    drive();
    notify = config_read(cap_at[TYPE_NOTIFY] + 8, 4);
    enable(false);
    g_assert_cmpuint(through_read(NUM_QUEUES, 2), ==, ECHO_QUEUES);
    g_assert_cmphex(through_read(DEVICE_STATUS, 1), ==, 0xf);
    through_write(QUEUE_SELECT, 2, 1);
    g_assert_cmphex(through_read(QUEUE_DESC, 4), ==, TB_QUEUE + TB_DESC);
    tb_offer(&t, 0);
    through_write(notify, 2, 0);
    tb_run(&t);
    g_assert_cmpuint(tb_used(&t, 0), ==, 1);
    g_assert_cmphex(through_read(config_read(cap_at[TYPE_ISR] + 8, 4), 1), ==, 1);
    through_write(DEVICE_STATUS, 1, 0);
    g_assert_cmphex(through_read(DEVICE_STATUS, 1), ==, 0);
    finish();
}

static void config_space_reaches_nothing_else(void)
{
    const uint32_t bad[][3] = {
        {1, DEVICE_STATUS, 1},
        {0, DEVICE_STATUS, 0},
        {0, DEVICE_STATUS, 3},
        {0, DEVICE_STATUS, 8},
        {0, QUEUE_SELECT, 4},
        {0, 0x8000, 1},
        {0, 0x7fff, 2},
        {0, UINT32_MAX, 1},
        {0, UINT32_MAX - 3, 4},
        {255, DEVICE_STATUS, 1},
        {0, DEVICE_STATUS, UINT32_MAX},
    };

    start(false);
    drive();
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        aim((uint8_t)bad[i][0], bad[i][1], bad[i][2]);
        for (unsigned size = 1; size <= 4; size *= 2) {
            pci_config_write(pci, cap_at[TYPE_PCI_ACCESS] + 16, size, 0);
            g_assert_cmphex(config_read(cap_at[TYPE_PCI_ACCESS] + 16, size), ==, 0);
        }
        g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0xf);
    }
    request_comes_back();
    finish();
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void the_machines_reset_is_a_reset(void)
{
    start(true);
    drive();
    virtio_config_changed(t.v);
    pci_bus_reset(bus);
    g_assert_false(t.bench.gsi[GSI]);
    g_assert_cmpuint(t.n_kicks, ==, 0);
    enable(true);
    find_capabilities();
    g_assert_cmphex(get(DEVICE_STATUS, 1), ==, 0);
    drive();
    device_quiesce(&pci->dev);
    device_resume(&pci->dev);
    request_comes_back();
    finish();
}

/* Its threads may interrupt until it is gone, by message and by the line. */
static void a_release_in_the_middle_of_work_is_survived(void)
{
    for (unsigned msix = 0; msix < 2; msix++) {
        start(true);
        drive();
        if (msix)
            enable_msix();
        tb_offer(&t, 2); /* the slow queue: it is completed by the release */
        kick(2);
        finish();
        g_assert_false(t.bench.gsi[GSI]);
    }
}

static void on_retired(void *opaque)
{
    *(bool *)opaque = true;
}

static void an_unplugged_device_ends_its_work_and_says_so(void)
{
    bool retired = false;
    IoPost post = {.fn = on_retired, .opaque = &retired};
    Echo *e;

    start(true);
    e = (Echo *)t.v;
    drive();
    enable_msix();
    tb_offer(&t, 2);
    kick(2);
    g_assert_cmpuint(e->n_slow, ==, 1);
    pci_unplug(pci);
    g_assert_cmpuint(t.n_kicks, ==, 0);
    g_assert_cmpuint(e->n_slow, ==, 1);
    virtio_retire(t.v, &post);
    tb_run(&t);
    g_assert_true(retired);
    g_assert_cmpuint(e->n_slow, ==, 0);
    g_assert_false(t.v->live);
    virtio_wait_retired(t.v); /* harmless */
    device_release(&pci->dev);
    for (unsigned i = 0; i < BENCH_MAX_MSI; i++)
        g_assert_false(t.bench.msi[i].used);
    finish();
}

static void a_device_that_was_never_attached_is_released(void)
{
    tb_init(&t, true);
    pci = virtio_pci_new(t.v);
    device_release(&pci->dev);
    tb_finish(&t);
}

static void any_storm_of_accesses_is_survived(void)
{
    uint64_t base;

    start(true);
    drive();
    enable_msix();
    base = at[TYPE_COMMON];
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t addr = base + (unsigned)g_test_rand_int_range(0, i % 2 ? 0x38 : 0x8000);
        unsigned size = 1u << g_test_rand_int_range(0, 4);
        uint64_t value = (uint64_t)g_test_rand_int() >> g_test_rand_int_range(0, 32);

        if (i % 3)
            addr &= ~(uint64_t)(size - 1);
        switch (i % 5) {
        case 0:
            tb_read(&t, addr, size);
            break;
        case 1:
            through_write((uint32_t)(addr - base), size, (uint32_t)value);
            break;
        case 2:
            through_read((uint32_t)(addr - base), size);
            break;
        default:
            tb_write(&t, addr, size, value);
        }
        if (i % 1000 == 0)
            tb_run(&t);
    }
    pci_config_write(pci, msix_cap + 2, 2, 0);
    drive();
    isr();
    request_comes_back();
    finish();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/transport_pci/" #fn, fn)
    TEST(it_says_what_it_is);
    TEST(what_was_offered_without_a_kick_is_served_after_a_restore);
    TEST(the_line_is_up_after_a_restore_if_it_was);
    TEST(a_pending_vector_fires_once_wherever_it_is_unmasked);
    TEST(a_vector_that_is_not_there_is_refused);
    TEST(each_structure_has_a_page_of_its_own);
    TEST(registers_read_the_same_in_any_width);
    TEST(a_write_of_the_wrong_width_does_nothing);
    TEST(addresses_have_64_bits);
    TEST(a_queue_that_is_not_there_reads_0);
    TEST(queue_registers_are_frozen_after_driver_ok);
    TEST(a_bad_size_breaks_the_device_at_driver_ok);
    TEST(a_kick_works_with_the_kernels_help_and_without);
    TEST(kicks_move_with_the_bar);
    TEST(without_msix_the_line_follows_the_isr);
    TEST(the_line_is_right_whoever_comes_last);
    TEST(with_msix_each_queue_has_its_vector);
    TEST(no_vector_is_silent);
    TEST(a_vector_that_is_not_there_reads_back_as_none);
    TEST(reset_forgets_vectors_and_selection);
    TEST(config_is_accessed_by_any_size);
    TEST(config_space_reaches_the_bar_even_when_it_is_off);
    TEST(config_space_reaches_nothing_else);
    TEST(the_machines_reset_is_a_reset);
    TEST(a_release_in_the_middle_of_work_is_survived);
    TEST(an_unplugged_device_ends_its_work_and_says_so);
    TEST(a_device_that_was_never_attached_is_released);
    TEST(any_storm_of_accesses_is_survived);
    return g_test_run();
}
