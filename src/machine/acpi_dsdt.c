/* The code of the DSDT: what the devices are, where, and wired to what (ACPI 6.4,
 * chapters 6 and 7).
 *
 * No 8042 is announced, although one answers (devices/i8042.c): nothing is plugged into
 * it, and kernels that are not told of it do not spend their boot probing for a
 * keyboard. */
#include "acpi_dsdt.h"

#include "aml.h"
#include "devices/pci_hotplug.h"
#include "devices/platform.h"
#include "machine/layout.h"
#include "util/bits.h"

enum { COM_PORTS = 8, GPE_EVENT_NAME = 6 };
enum { DEVICE_CHECK = 1, EJECT_REQUEST = 3, STATUS_CHANGED = 0x80 }; /* 5.6.6 */

/* 32 slots, four pins each, wired to an I/O APIC pin directly: no link device (6.2.13).
 */
static void dsdt_pci_routing(Aml *a, const AcpiConfig *c)
{
    aml_named_package(a, "_PRT", PCI_MAX_SLOTS * 4);
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff); /* every function */
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, c->intx_gsi_base + (slot + pin) % 4);
            aml_end(a);
        }
    }
    aml_end(a);
}

/* "S001"; by hand, as printing would take a third of the table's time. */
static void slot_name(char name[5], unsigned slot)
{
    const char digits[5] = {'S', '0', (char)('0' + slot / 10), (char)('0' + slot % 10)};

    memcpy(name, digits, sizeof(digits));
}

/* What devices/pci_hotplug.c answers.  Every slot but the host bridge's can be filled and
 * emptied: it has an _EJ0, by which operating systems know it (6.3.3), and no _STA, so
 * that they look whether a function answers there.  HPNT(slots, event) passes an event
 * on to the slots of a mask. */
static void dsdt_pci_slots(Aml *a)
{
    static const char *const fields[] = {"HPUP", "HPDN", "HPEJ"};
    char name[5];

    aml_io_region(a, "HPRG", PCI_HOTPLUG_PORT, PCI_HOTPLUG_SIZE);
    aml_dword_fields(a, "HPRG", fields, G_N_ELEMENTS(fields));
    for (unsigned slot = 1; slot < PCI_MAX_SLOTS; slot++) {
        slot_name(name, slot);
        aml_device(a, name);
        aml_name_int(a, "_ADR", slot << 16);
        aml_name_int(a, "_SUN", slot);
        aml_method(a, "_EJ0", 1);
        aml_store_int(a, BIT(slot), "HPEJ");
        aml_end(a);
        aml_end(a);
    }
    aml_method(a, "HPNT", 2);
    for (unsigned slot = 1; slot < PCI_MAX_SLOTS; slot++) {
        slot_name(name, slot);
        aml_if_bits(a, 0, BIT(slot));
        aml_notify_arg(a, name, 1);
        aml_end(a);
    }
    aml_end(a);
}

/* A conventional bridge: no function on it has a PCI Express capability, so there is
 * nothing to negotiate by _OSC. */
static void dsdt_pci(Aml *a, const AcpiConfig *c)
{
    AmlResources r;

    aml_device(a, "PCI0");
    aml_name_eisaid(a, "_HID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    aml_crs_begin(&r);
    aml_window_bus(&r, 0, 0);
    aml_io(&r, 0xcf8, 8);
    aml_window_io(&r, 0, 0xcf7);
    aml_window_io(&r, 0xd00, 0xffff);
    if (c->mmio32_size)
        aml_window_memory32(&r, c->mmio32_base, c->mmio32_base + c->mmio32_size - 1);
    if (c->mmio64_size)
        aml_window_memory64(&r, c->mmio64_base, c->mmio64_base + c->mmio64_size - 1);
    aml_crs_end(a, &r);
    dsdt_pci_routing(a, c);
    dsdt_pci_slots(a);
    aml_end(a);

    /* Kernels use MCFG only if its memory is reserved (PCI Firmware 3.2, 4.1.2). */
    aml_device(a, "ECAM");
    aml_name_eisaid(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 0);
    aml_crs_begin(&r);
    aml_io(&r, PCI_HOTPLUG_PORT, PCI_HOTPLUG_SIZE);
    if (c->ecam_base < 4 * GIB)
        aml_memory32_fixed(&r, c->ecam_base, 1 * MIB);
    else
        aml_memory64_fixed(&r, c->ecam_base, 1 * MIB);
    aml_crs_end(a, &r);
    aml_end(a);
}

static void dsdt_serial(Aml *a, unsigned n)
{
    static const struct {
        const char *name;
        uint16_t port;
        unsigned irq;
    } com[] = {{"COM1", PORT_SERIAL0, GSI_SERIAL0}, {"COM2", PORT_SERIAL1, GSI_SERIAL1}};
    AmlResources r;

    aml_device(a, com[n].name);
    aml_name_eisaid(a, "_HID", "PNP0501");
    aml_name_int(a, "_UID", n + 1);
    aml_crs_begin(&r);
    aml_io(&r, com[n].port, COM_PORTS);
    aml_irq(&r, com[n].irq);
    aml_crs_end(a, &r);
    aml_end(a);
}

static void dsdt_rtc(Aml *a)
{
    AmlResources r;

    aml_device(a, "RTC");
    aml_name_eisaid(a, "_HID", "PNP0B00");
    aml_crs_begin(&r);
    aml_io(&r, 0x70, 2);
    aml_irq(&r, GSI_RTC);
    aml_crs_end(a, &r);
    aml_end(a);
}

/* QEMU docs/specs/pvpanic, "ACPI interface". */
static void dsdt_pvpanic(Aml *a)
{
    AmlResources r;

    aml_device(a, "PEVT");
    aml_name_string(a, "_HID", "QEMU0001");
    aml_crs_begin(&r);
    aml_io(&r, PVPANIC_PORT, 1);
    aml_crs_end(a, &r);
    aml_name_int(a, "_STA", 0xf);
    aml_end(a);
}

/* Drivers find it by _CID.  Windows and Linux know it by one name or the other. */
static void dsdt_vmgenid(Aml *a, const AcpiConfig *c)
{
    aml_device(a, "VGEN");
    aml_name_string(a, "_HID", "HTCH0001");
    aml_named_package(a, "_CID", 2);
    aml_string(a, "VM_Gen_Counter");
    aml_string(a, "VMGENCTR");
    aml_end(a);
    aml_name_string(a, "_DDN", "VM_Gen_Counter");
    aml_named_package(a, "ADDR", 2);
    aml_int(a, c->vmgenid & 0xffffffff);
    aml_int(a, c->vmgenid >> 32);
    aml_end(a);
    aml_end(a);
}

static void dsdt_virtio_mmio(Aml *a, const AcpiConfig *c)
{
    for (unsigned i = 0; i < c->n_mmio; i++) {
        char name[5];
        AmlResources r;

        g_snprintf(name, sizeof(name), "VR%02X", i & 0xff);
        aml_device(a, name);
        aml_name_string(a, "_HID", "LNRO0005");
        aml_name_int(a, "_UID", i);
        aml_crs_begin(&r);
        aml_memory32_fixed(&r, c->mmio[i].base, c->mmio[i].size);
        aml_interrupt(&r, c->mmio[i].gsi);
        aml_crs_end(a, &r);
        aml_end(a);
    }
}

/* A method's name says which event it is for, and whether that is an edge or a level
 * (5.6.4.1). */
static void dsdt_event(Aml *a, char kind, unsigned gpe)
{
    char name[GPE_EVENT_NAME];

    g_snprintf(name, sizeof(name), "_%c%02X", kind, gpe);
    aml_method(a, name, 0);
}

static void dsdt_events(Aml *a, const AcpiConfig *c)
{
    aml_scope(a, "\\_GPE");
    if (c->pci) {
        dsdt_event(a, 'L', PCI_HOTPLUG_GPE);
        aml_call_with_field(a, "\\_SB.PCI0.HPNT", "\\_SB.PCI0.HPDN", EJECT_REQUEST);
        aml_call_with_field(a, "\\_SB.PCI0.HPNT", "\\_SB.PCI0.HPUP", DEVICE_CHECK);
        aml_end(a);
    }
    if (c->vmgenid) {
        dsdt_event(a, 'E', VMGENID_GPE);
        aml_notify(a, "\\_SB.VGEN", STATUS_CHANGED);
        aml_end(a);
    }
    aml_end(a);
}

GByteArray *acpi_dsdt_code(const AcpiConfig *c)
{
    Aml a;

    aml_init(&a);
    aml_scope(&a, "\\_SB");
    if (c->pci)
        dsdt_pci(&a, c);
    for (unsigned i = 0; i < G_N_ELEMENTS(c->serial); i++)
        if (c->serial[i])
            dsdt_serial(&a, i);
    dsdt_rtc(&a);
    dsdt_pvpanic(&a);
    if (c->vmgenid)
        dsdt_vmgenid(&a, c);
    dsdt_virtio_mmio(&a, c);
    aml_end(&a);
    dsdt_events(&a, c);

    aml_named_package(&a, "\\_S5", 4); /* PM1a and PM1b sleep types, reserved (7.4.2) */
    aml_int(&a, ACPI_S5);
    aml_int(&a, ACPI_S5);
    aml_int(&a, 0);
    aml_int(&a, 0);
    aml_end(&a);
    return aml_finish(&a);
}
