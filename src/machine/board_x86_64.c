/* The PC board: PCI (or virtio-mmio) and the legacy devices that stock kernels look for;
 * addresses are those of machine/layout.h. */
#include "devices/pci_hotplug.h"
#include "machine/acpi.h"
#include "machine/board.h"
#include "machine/layout.h"
#include "virtio/transport.h"

#include <errno.h>
#include <sys/random.h>

enum { MAX_DEVICES = 64 };

struct Board {
    const BoardContext *ctx;
    IrqController ic;
    Bus *pio, *mmio;
    PciBus *pci;
    Device *acpi_pm, *hotplug, *vmgenid;
    Device *devices[MAX_DEVICES]; /* all but those on PCI, in the order they were made */
    unsigned n_devices;
    AcpiMmioDevice mmio_devices[MAX_VIRTIO_MMIO];
    unsigned n_mmio;
    VirtioEnv env;
    const Chardev *serial[CONFIG_MAX_SERIALS]; /* the devices own them */
    uint8_t guid[16];
    char *cmdline; /* the user's, with virtio-mmio devices announced */
    BootSource source;
};

bool board_memory(GuestMem *gm, uint64_t size, GError **error)
{
    uint64_t low = MIN(size, LAYOUT_LOW_RAM_MAX);

    return gm_add(gm, 0, low, error) &&
           (size == low || gm_add(gm, LAYOUT_ABOVE_4G, size - low, error));
}

static uint64_t low_ram(const Board *b)
{
    return MIN(b->ctx->gm->size, LAYOUT_LOW_RAM_MAX);
}

static uint64_t high_ram(const Board *b)
{
    return b->ctx->gm->size - low_ram(b);
}

/* Above all RAM, aligned so that it lies apart from any that is added later. */
static uint64_t mmio64_base(const Board *b)
{
    return align_up(LAYOUT_ABOVE_4G + high_ram(b), LAYOUT_MMIO64_SIZE);
}

static Device *add(Board *b, Device *d)
{
    if (d)
        b->devices[b->n_devices++] = d;
    return d;
}

/* ---- legacy devices ------------------------------------------------------------ */

static bool add_serial(Board *b, unsigned i, uint16_t port, unsigned gsi, GError **error)
{
    const ChardevOptions *options = b->ctx->config->serial[i];
    const char *id = i ? "serial1" : "serial0";
    Chardev *chardev;

    if (!options)
        return true;
    chardev = chardev_open(options, id, b->ctx->main, error);
    if (!chardev) {
        g_prefix_error(error, "%s: ", id);
        return false;
    }
    b->serial[i] = chardev;
    add(b, serial_new(id, b->pio, port, &b->ic, gsi, chardev, b->ctx->main,
                      &b->ctx->events));
    return true;
}

const Chardev *board_serial_chardev(const Board *b, unsigned n)
{
    return n < CONFIG_MAX_SERIALS ? b->serial[n] : NULL;
}

static bool new_guid(Board *b, GError **error)
{
    ssize_t n;

    do
        n = getrandom(b->guid, sizeof(b->guid), 0);
    while (n < 0 && errno == EINTR);
    return n == sizeof(b->guid) || fail_errno(error, "VM generation ID: random bytes");
}

static bool add_legacy_devices(Board *b, GError **error)
{
    const BoardContext *ctx = b->ctx;

    if (!add_serial(b, 0, PORT_SERIAL0, GSI_SERIAL0, error) ||
        !add_serial(b, 1, PORT_SERIAL1, GSI_SERIAL1, error) || !new_guid(b, error))
        return false;
    add(b, rtc_new(b->pio, &b->ic, GSI_RTC, ctx->main, low_ram(b), high_ram(b)));
    add(b, i8042_new(b->pio, &ctx->events));
    add(b, pvpanic_new(b->pio, &ctx->events));
    if (ctx->config->debug_exit)
        add(b, debug_exit_new(b->pio, &ctx->events));
    b->acpi_pm = add(b, acpi_pm_new(b->pio, &b->ic, GSI_SCI, ctx->main, &ctx->events));
    b->vmgenid = add(b, vmgenid_new(ctx->gm, LAYOUT_VMGENID, b->guid));
    return true;
}

/* ---- virtio devices ------------------------------------------------------------ */

static bool add_pci_bus(Board *b, GError **error)
{
    PciBusConfig config = {
        .pio = b->pio,
        .mmio = b->mmio,
        .ic = &b->ic,
        .gsi_base = GSI_INTX,
        .ecam_base = LAYOUT_ECAM,
        .mmio32_base = LAYOUT_MMIO32,
        .mmio32_size = LAYOUT_MMIO32_SIZE,
        .mmio64_base = mmio64_base(b),
        .mmio64_size = LAYOUT_MMIO64_SIZE,
    };

    b->pci = pci_bus_new(&config, error);
    if (!b->pci)
        return false;
    b->hotplug = add(b, pci_hotplug_new(b->pio, b->pci, b->acpi_pm));
    return true;
}

static PciDevice *add_on_pci(Board *b, VirtioDevice *v, int slot, bool running,
                             GError **error)
{
    PciDevice *p = virtio_pci_new(v);

    if (running ? pci_plug(b->pci, p, error) : pci_attach(b->pci, p, slot, error))
        return p;
    device_release(&p->dev);
    return NULL;
}

static bool add_on_mmio(Board *b, VirtioDevice *v, GError **error)
{
    unsigned i = b->n_mmio;
    AcpiMmioDevice where = {LAYOUT_VIRTIO_MMIO + i * LAYOUT_VIRTIO_MMIO_STEP,
                            VIRTIO_MMIO_SIZE, GSI_VIRTIO_MMIO + i};
    char *cmdline;

    if (i == MAX_VIRTIO_MMIO) {
        virtio_free(v);
        return fail(error, VM_ERROR_INVALID,
                    "--transport mmio: no room for more than %d virtio devices; use pci",
                    MAX_VIRTIO_MMIO);
    }
    if (!add(b, virtio_mmio_new(v, b->mmio, where.base, &b->ic, where.gsi, error)))
        return false;
    b->mmio_devices[b->n_mmio++] = where;
    cmdline = g_strdup_printf("%s virtio_mmio.device=%u@0x%" G_GINT64_MODIFIER "x:%u",
                              b->cmdline, where.size, (guint64)where.base, where.gsi);
    g_free(b->cmdline);
    b->source.cmdline = b->cmdline = cmdline;
    return true;
}

bool board_plug(Board *b, VirtioDevice *v, int slot, bool running, PciDevice **ret_pci,
                GError **error)
{
    *ret_pci = NULL;
    if (!b->pci)
        return add_on_mmio(b, v, error);
    *ret_pci = add_on_pci(b, v, slot, running, error);
    return *ret_pci != NULL;
}

VirtioEnv *board_virtio_env(Board *b)
{
    return &b->env;
}

PciBus *board_pci_bus(Board *b)
{
    return b->pci;
}

Device *board_pci_hotplug(Board *b)
{
    return b->hotplug;
}

/* ---- life-cycle ---------------------------------------------------------------- */

Board *board_new(const BoardContext *ctx, GError **error)
{
    Board *b = g_new0(Board, 1);

    b->ctx = ctx;
    b->pio = bus_new(true);
    b->mmio = bus_new(false);
    bus_set_kick_ops(b->pio, &kvm_kick_ops, ctx->kvm);
    bus_set_kick_ops(b->mmio, &kvm_kick_ops, ctx->kvm);
    irq_controller_init(&b->ic, &kvm_irq_ops, ctx->kvm);
    b->cmdline = g_strdup(ctx->source->cmdline);
    b->env = (VirtioEnv){
        .gm = ctx->gm,
        .main = ctx->main,
        .n_cpus = (unsigned)ctx->config->cpus,
        .name = ctx->config->name,
        .stop = ctx->stop,
        .event = ctx->event,
        .opaque = ctx->opaque,
    };
    b->source = *ctx->source;
    b->source.cmdline = b->cmdline;
    if (!add_legacy_devices(b, error) ||
        (ctx->config->transport == TRANSPORT_PCI && !add_pci_bus(b, error))) {
        board_free(b);
        return NULL;
    }
    return b;
}

void board_free(Board *b)
{
    if (!b)
        return;
    pci_bus_free(b->pci);
    while (b->n_devices)
        device_release(b->devices[--b->n_devices]);
    bus_free(b->pio);
    bus_free(b->mmio);
    g_free(b->cmdline);
    g_free(b);
}

Bus *board_pio(Board *b)
{
    return b->pio;
}

Bus *board_mmio(Board *b)
{
    return b->mmio;
}

static unsigned memory_map(const Board *b, MemMapEntry map[MEMMAP_MAX])
{
    const MemMapEntry all[] = {
        {0, LAYOUT_EBDA, MEMMAP_RAM},
        {LAYOUT_EBDA, LAYOUT_LOW_RAM_END - LAYOUT_EBDA, MEMMAP_RESERVED},
        {LAYOUT_BIOS, LAYOUT_HIGH_RAM - LAYOUT_BIOS, MEMMAP_RESERVED},
        {LAYOUT_HIGH_RAM, low_ram(b) - LAYOUT_HIGH_RAM, MEMMAP_RAM},
        {LAYOUT_ECAM, b->pci ? LAYOUT_ECAM_SIZE : 0, MEMMAP_RESERVED},
        {LAYOUT_ABOVE_4G, high_ram(b), MEMMAP_RAM},
    };
    unsigned n = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++)
        if (all[i].size)
            map[n++] = all[i];
    return n;
}

static bool put_tables(Board *b, GError **error)
{
    AcpiConfig acpi = {
        .n_cpus = (unsigned)b->ctx->config->cpus,
        .rsdp = LAYOUT_RSDP,
        .tables = LAYOUT_ACPI,
        .tables_size = LAYOUT_ACPI_SIZE,
        .pci = b->pci != NULL,
        .ecam_base = LAYOUT_ECAM,
        .mmio32_base = LAYOUT_MMIO32,
        .mmio32_size = LAYOUT_MMIO32_SIZE,
        .mmio64_base = mmio64_base(b),
        .mmio64_size = LAYOUT_MMIO64_SIZE,
        .intx_gsi_base = GSI_INTX,
        .sci_gsi = GSI_SCI,
        .vmgenid = LAYOUT_VMGENID + VMGENID_OFFSET,
        .serial = {b->ctx->config->serial[0] != NULL, b->ctx->config->serial[1] != NULL},
        .mmio = b->mmio_devices,
        .n_mmio = b->n_mmio,
    };

    return acpi_write(b->ctx->gm, &acpi, error);
}

bool board_load(Board *b, BootEntry *ret, GError **error)
{
    BootContext ctx = {
        .gm = b->ctx->gm,
        .source = &b->source,
        .low_ram_end = low_ram(b),
        .rsdp = LAYOUT_RSDP,
    };

    ctx.n_map = memory_map(b, ctx.map);
    return put_tables(b, error) && boot_load(&ctx, ret, error);
}

static void for_each(Board *b, void (*fn)(Device *))
{
    for (unsigned i = 0; i < b->n_devices; i++)
        fn(b->devices[i]);
}

void board_reset(Board *b)
{
    if (b->pci)
        pci_bus_reset(b->pci);
    for_each(b, device_reset);
}

void board_quiesce(Board *b)
{
    if (b->pci)
        pci_bus_quiesce(b->pci);
    for_each(b, device_quiesce);
}

void board_resume(Board *b)
{
    for_each(b, device_resume);
    if (b->pci)
        pci_bus_resume(b->pci);
}

/* ---- saving -------------------------------------------------------------------- */

char *board_pinned(Board *b)
{
    const char *why;

    for (unsigned i = 0; i < b->n_devices; i++)
        if ((why = device_pinned(b->devices[i])))
            return g_strdup_printf("%s: %s", b->devices[i]->id, why);
    return NULL;
}

bool board_save(Board *b, StateWriter *w, GError **error)
{
    for (unsigned i = 0; i < b->n_devices; i++)
        device_save(b->devices[i], w);
    if (b->pci)
        pci_bus_save(b->pci, w);
    return true;
}

bool board_load_state(Board *b, StateReader *r, GError **error)
{
    if (b->pci && !pci_bus_load(b->pci, r, error)) /* first: hotplug looks at the slots */
        return false;
    for (unsigned i = 0; i < b->n_devices; i++)
        if (!device_load(b->devices[i], r, error))
            return false;
    return true;
}

void board_put_forward(Board *b, int64_t ns)
{
    acpi_pm_put_forward(b->acpi_pm, ns);
}

bool board_new_generation(Board *b, GError **error)
{
    if (!new_guid(b, error) || !vmgenid_set(b->vmgenid, b->guid))
        return false;
    acpi_pm_raise_gpe(b->acpi_pm, VMGENID_GPE);
    return true;
}

void board_power_button(Board *b)
{
    acpi_pm_power_button(b->acpi_pm);
}
