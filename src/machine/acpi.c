/* The ACPI tables of the PC board (ACPI 6.4, chapter 5).  What they say must be what
 * devices/ does: the numbers come from devices/platform.h.
 *
 * The tables are built in one block as it will lie in guest RAM, so that each can point
 * at those before it, and copied there at the end.
 *
 * Not hardware-reduced: fixed power button, PM timer, SCI. */
#include "machine/acpi.h"

#include "acpi_dsdt.h"
#include "devices/platform.h"
#include "util/bits.h"

enum {
    RSDP_SIZE = 36,
    FACS_SIZE = 64,
    FADT_REVISION = 6,
    FADT_MINOR = 4,
    MADT_REVISION = 5,
    DSDT_REVISION = 2, /* integers have 64 bits */
    FACS_VERSION = 2,
    TABLE_ALIGN = 64, /* the FACS wants it, and cache lines are not worse for it */
    RTC_CENTURY = 0x32,
};
#define LAPIC_BASE  0xfee00000u
#define IOAPIC_BASE 0xfec00000u

typedef struct Tables {
    const AcpiConfig *config;
    GByteArray *bytes; /* from config->tables on */
    uint64_t facs, dsdt;
    uint32_t listed[4]; /* what RSDT and XSDT point at */
    unsigned n_listed;
} Tables;

/* ---- pieces -------------------------------------------------------------------- */

static void put(Tables *t, uint64_t value, unsigned size)
{
    uint8_t bytes[8];

    store_le(bytes, value, size);
    g_byte_array_append(t->bytes, bytes, size);
}

static void put_text(Tables *t, const char *text, unsigned n)
{
    g_byte_array_append(t->bytes, (const uint8_t *)text, n);
}

static void put_zeros(Tables *t, unsigned n)
{
    while (n--)
        put(t, 0, 1);
}

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;

    while (len--)
        sum += *bytes++;
    return -sum;
}

static uint64_t align_table(Tables *t)
{
    put_zeros(t, align_up(t->bytes->len, TABLE_ALIGN) - t->bytes->len);
    return t->config->tables + t->bytes->len;
}

/* The header common to all tables but RSDP and FACS (5.2.6); length and checksum come
 * when the table ends.  Returns where the table lies. */
static uint64_t begin_table(Tables *t, const char *signature, uint8_t revision)
{
    uint64_t at = align_table(t);

    put_text(t, signature, 4);
    put(t, 0, 4);
    put(t, revision, 1);
    put(t, 0, 1);
    put_text(t, "HUTCH HUTCHVM ", 14);
    put(t, 1, 4);
    put_text(t, "HTCH", 4);
    put(t, 1, 4);
    return at;
}

static void end_table(Tables *t, uint64_t at)
{
    uint8_t *table = t->bytes->data + (at - t->config->tables);
    uint32_t length = t->bytes->data + t->bytes->len - table;

    store_le32(table + 4, length);
    table[9] = checksum(table, length);
}

static void end_listed_table(Tables *t, uint64_t at)
{
    end_table(t, at);
    t->listed[t->n_listed++] = at;
}

static void build_dsdt(Tables *t)
{
    g_autoptr(GByteArray) code = acpi_dsdt_code(t->config);

    t->dsdt = begin_table(t, "DSDT", DSDT_REVISION);
    g_byte_array_append(t->bytes, code->data, code->len);
    end_table(t, t->dsdt);
}

/* ---- FACS (5.2.10) and FADT (5.2.9) -------------------------------------------- */

static void build_facs(Tables *t)
{
    t->facs = align_table(t);
    put_text(t, "FACS", 4);
    put(t, FACS_SIZE, 4);
    put_zeros(t, 24); /* hardware signature, waking vectors, global lock, flags */
    put(t, FACS_VERSION, 1);
    put_zeros(t, FACS_SIZE - 33);
}

enum { /* IA-PC boot architecture (table 5.10) */
       BOOT_LEGACY_DEVICES = BIT(0),
       BOOT_NO_VGA = BIT(2),
};
enum { /* fixed features (table 5.9) */
       FADT_WBINVD = BIT(0),
       FADT_PROC_C1 = BIT(2),
       FADT_NO_FIXED_SLEEP_BUTTON = BIT(5),
       FADT_NO_FIXED_RTC_WAKE = BIT(6),
       FADT_TMR_32BIT = BIT(8),
       FADT_RESET_REG = BIT(10),
};
enum { ACCESS_BYTE = 1, ACCESS_WORD, ACCESS_DWORD };

/* Generic address structure (5.2.3.2) of a register in I/O space; len 0: absent. */
static void put_io_address(Tables *t, uint16_t port, unsigned len, unsigned access)
{
    put(t, len ? 1 : 0, 1);
    put(t, 8 * len, 1);
    put(t, 0, 1);
    put(t, len ? access : 0, 1);
    put(t, port, 8);
}

/* The ACPI 1.0 part: addresses of 32 bits. */
static void fadt_legacy(Tables *t)
{
    put(t, t->facs, 4);
    put(t, t->dsdt, 4);
    put(t, 0, 1); /* reserved */
    put(t, 0, 1); /* preferred power profile: none */
    put(t, t->config->sci_gsi, 2);
    put(t, ACPI_SMI_CMD, 4);
    put(t, ACPI_ENABLE, 1);
    put(t, ACPI_DISABLE, 1);
    put(t, 0, 2); /* S4BIOS_REQ, PSTATE_CNT */
    put(t, ACPI_PM1_EVT, 4);
    put(t, 0, 4); /* PM1b */
    put(t, ACPI_PM1_CNT, 4);
    put(t, 0, 4); /* PM1b */
    put(t, 0, 4); /* PM2 */
    put(t, ACPI_PM_TMR, 4);
    put(t, ACPI_GPE0, 4);
    put(t, 0, 4); /* GPE1 */
    put(t, 4, 1); /* lengths: PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1 */
    put(t, 2, 1);
    put(t, 0, 1);
    put(t, 4, 1);
    put(t, ACPI_GPE0_LEN, 1);
    put(t, 0, 1);
    put(t, 0, 2);     /* GPE1_BASE, CST_CNT */
    put(t, 0xfff, 2); /* C2 and C3 latencies that mean there is neither */
    put(t, 0xfff, 2);
    put_zeros(t, 6); /* flush size and stride, duty cycle */
    put_zeros(t, 2); /* day and month alarm */
    put(t, RTC_CENTURY, 1);
    put(t, BOOT_LEGACY_DEVICES | BOOT_NO_VGA, 2);
    put(t, 0, 1); /* reserved */
    put(t,
        FADT_WBINVD | FADT_PROC_C1 | FADT_NO_FIXED_SLEEP_BUTTON | FADT_NO_FIXED_RTC_WAKE |
            FADT_TMR_32BIT | FADT_RESET_REG,
        4);
}

static void build_fadt(Tables *t)
{
    uint64_t at = begin_table(t, "FACP", FADT_REVISION);

    fadt_legacy(t);
    put_io_address(t, ACPI_RESET_PORT, 1, ACCESS_BYTE);
    put(t, ACPI_RESET_VALUE, 1);
    put(t, 0, 2); /* ARM boot architecture */
    put(t, FADT_MINOR, 1);
    put(t, t->facs, 8);
    put(t, t->dsdt, 8);
    put_io_address(t, ACPI_PM1_EVT, 4, ACCESS_WORD);
    put_io_address(t, 0, 0, 0);
    put_io_address(t, ACPI_PM1_CNT, 2, ACCESS_WORD);
    put_io_address(t, 0, 0, 0);
    put_io_address(t, 0, 0, 0);
    put_io_address(t, ACPI_PM_TMR, 4, ACCESS_DWORD);
    put_io_address(t, ACPI_GPE0, ACPI_GPE0_LEN, ACCESS_BYTE);
    put_io_address(t, 0, 0, 0);
    put_io_address(t, 0, 0, 0); /* sleep control and status: hardware-reduced only */
    put_io_address(t, 0, 0, 0);
    put_text(t, "HUTCH\0\0", 8); /* vendor */
    end_listed_table(t, at);
}

/* ---- MADT (5.2.12) ------------------------------------------------------------- */

enum {
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LAPIC_NMI = 4,
    MADT_X2APIC = 9,
    MADT_X2APIC_NMI = 10,
};
enum { MADT_PCAT_COMPAT = 1, CPU_ENABLED = 1, FIRST_X2APIC_ID = 255 };
enum { ACTIVE_HIGH = 1, LEVEL_TRIGGERED = 3 << 2 }; /* MPS INTI flags (table 5.25) */
enum { ALL_CPUS_8 = 0xff, LINT1 = 1 };
#define ALL_CPUS_32 0xffffffffu

static void madt_cpu(Tables *t, unsigned id)
{
    if (id < FIRST_X2APIC_ID) {
        put(t, MADT_LAPIC, 1);
        put(t, 8, 1);
        put(t, id, 1); /* _UID, then APIC id */
        put(t, id, 1);
        put(t, CPU_ENABLED, 4);
        return;
    }
    put(t, MADT_X2APIC, 1);
    put(t, 16, 1);
    put(t, 0, 2);
    put(t, id, 4);
    put(t, CPU_ENABLED, 4);
    put(t, id, 4);
}

static void madt_override(Tables *t, unsigned irq, unsigned gsi, unsigned flags)
{
    put(t, MADT_OVERRIDE, 1);
    put(t, 10, 1);
    put(t, 0, 1); /* ISA */
    put(t, irq, 1);
    put(t, gsi, 4);
    put(t, flags, 2);
}

static void madt_nmi(Tables *t)
{
    put(t, MADT_LAPIC_NMI, 1);
    put(t, 6, 1);
    put(t, ALL_CPUS_8, 1);
    put(t, 0, 2);
    put(t, LINT1, 1);
    if (t->config->n_cpus <= FIRST_X2APIC_ID)
        return;
    put(t, MADT_X2APIC_NMI, 1);
    put(t, 12, 1);
    put(t, 0, 2);
    put(t, ALL_CPUS_32, 4);
    put(t, LINT1, 1);
    put_zeros(t, 3);
}

static void build_madt(Tables *t)
{
    const AcpiConfig *c = t->config;
    uint64_t at = begin_table(t, "APIC", MADT_REVISION);

    put(t, LAPIC_BASE, 4);
    put(t, MADT_PCAT_COMPAT, 4);
    for (unsigned id = 0; id < c->n_cpus; id++)
        madt_cpu(t, id);
    put(t, MADT_IOAPIC, 1);
    put(t, 12, 1);
    put(t, 0, 2); /* id 0 */
    put(t, IOAPIC_BASE, 4);
    put(t, 0, 4);              /* its pins are GSIs from 0 */
    madt_override(t, 0, 2, 0); /* the PIT is wired to pin 2 */
    if (c->sci_gsi < 16)
        madt_override(t, c->sci_gsi, c->sci_gsi, ACTIVE_HIGH | LEVEL_TRIGGERED);
    madt_nmi(t);
    end_listed_table(t, at);
}

/* ---- MCFG (PCI Firmware 3.2, 4.1.2) -------------------------------------------- */

static void build_mcfg(Tables *t)
{
    uint64_t at = begin_table(t, "MCFG", 1);

    put_zeros(t, 8);
    put(t, t->config->ecam_base, 8);
    put_zeros(t, 4); /* segment 0, buses 0 to 0 */
    put_zeros(t, 4);
    end_listed_table(t, at);
}

/* ---- RSDT, XSDT and RSDP (5.2.5 to 5.2.8) -------------------------------------- */

static uint64_t build_root(Tables *t, const char *signature, unsigned width)
{
    uint64_t at = begin_table(t, signature, 1);

    for (unsigned i = 0; i < t->n_listed; i++)
        put(t, t->listed[i], width);
    end_table(t, at);
    return at;
}

static bool write_rsdp(GuestMem *gm, const AcpiConfig *c, uint64_t rsdt, uint64_t xsdt)
{
    uint8_t rsdp[RSDP_SIZE] = "RSD PTR ";

    memcpy(rsdp + 9, "HUTCH ", 6);
    rsdp[15] = 2; /* revision */
    store_le32(rsdp + 16, rsdt);
    store_le32(rsdp + 20, RSDP_SIZE);
    store_le64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20); /* what ACPI 1.0 had, then all of it */
    rsdp[32] = checksum(rsdp, RSDP_SIZE);
    return gm_write(gm, c->rsdp, rsdp, sizeof(rsdp));
}

bool acpi_write(GuestMem *gm, const AcpiConfig *c, GError **error)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    Tables t = {.config = c, .bytes = bytes};
    uint64_t rsdt, xsdt;

    if (!is_aligned(c->tables, TABLE_ALIGN) ||
        !range_within(c->tables, c->tables_size, 4 * GIB))
        return fail(error, VM_ERROR_INVALID,
                    "ACPI tables at 0x%" G_GINT64_MODIFIER
                    "x: must be aligned and below 4 GiB",
                    c->tables);
    build_facs(&t);
    build_dsdt(&t);
    build_fadt(&t);
    build_madt(&t);
    if (c->pci)
        build_mcfg(&t);
    rsdt = build_root(&t, "RSDT", 4);
    xsdt = build_root(&t, "XSDT", 8);

    if (bytes->len > c->tables_size)
        return fail(error, VM_ERROR_BUSY,
                    "ACPI tables take %u bytes, but there is room for only %u; use fewer "
                    "devices or CPUs",
                    bytes->len, (unsigned)c->tables_size);
    if (!gm_write(gm, c->tables, bytes->data, bytes->len) ||
        !write_rsdp(gm, c, rsdt, xsdt))
        return fail(error, VM_ERROR_INVALID, "ACPI tables do not fit into guest RAM");
    return true;
}
