/* The ACPI tables, read back as a guest's kernel does and judged by iasl. */
#include "machine/acpi.h"

#include <glib/gstdio.h>

#include "devices/platform.h"
#include "src/machine/aml.h"
#include "util/bits.h"

#define RSDP   0xe0000
#define TABLES 0xe1000

typedef struct Fixture {
    GuestMem gm;
    AcpiConfig config;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    GuestMemOptions options = {.size = 1 * MIB};

    g_assert_true(gm_init(&f->gm, &options, NULL));
    g_assert_true(gm_add(&f->gm, 0, 1 * MIB, NULL));
    f->config = (AcpiConfig){
        .n_cpus = 4,
        .rsdp = RSDP,
        .tables = TABLES,
        .tables_size = 0x10000,
        .pci = true,
        .ecam_base = 0xb0000000,
        .mmio32_base = 0xc0000000,
        .mmio32_size = 0x3c000000,
        .mmio64_base = 0x800000000,
        .mmio64_size = 0x800000000,
        .intx_gsi_base = 16,
        .sci_gsi = 9,
        .vmgenid = 0x9f028,
        .serial = {true, true},
    };
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    gm_finish(&f->gm);
}

static void write_tables(Fixture *f)
{
    GError *error = NULL;

    acpi_write(&f->gm, &f->config, &error);
    g_assert_no_error(error);
}

static uint8_t sum(const uint8_t *bytes, size_t len)
{
    uint8_t total = 0;

    while (len--)
        total += *bytes++;
    return total;
}

/* The XSDT's table of that signature, or NULL. */
static const uint8_t *find(Fixture *f, const char *signature)
{
    const uint8_t *rsdp = gm_at(&f->gm, RSDP, 36);
    const uint8_t *xsdt = gm_at(&f->gm, load_le64(rsdp + 24), 36);

    for (unsigned at = 36; at < load_le32(xsdt + 4); at += 8) {
        const uint8_t *table = gm_at(&f->gm, load_le64(xsdt + at), 36);
        if (!memcmp(table, signature, 4))
            return table;
    }
    return NULL;
}

static const uint8_t *dsdt(Fixture *f)
{
    return gm_at(&f->gm, load_le64(find(f, "FACP") + 140), 36);
}

static bool contains(const uint8_t *table, const void *what, size_t len)
{
    return memmem(table, load_le32(table + 4), what, len);
}

static void both_roots_lead_to_the_same_tables(Fixture *f, gconstpointer unused)
{
    write_tables(f);
    const uint8_t *rsdp = gm_at(&f->gm, RSDP, 36);
    const uint8_t *rsdt = gm_at(&f->gm, load_le32(rsdp + 16), 36);
    const uint8_t *xsdt = gm_at(&f->gm, load_le64(rsdp + 24), 36);

    g_assert_cmpmem(rsdp, 8, "RSD PTR ", 8);
    g_assert_cmpuint(rsdp[15], ==, 2);
    g_assert_cmpuint(sum(rsdp, 20), ==, 0);
    g_assert_cmpuint(sum(rsdp, 36), ==, 0);
    g_assert_cmpuint(load_le32(rsdt + 4), ==, 36 + 3 * 4);
    g_assert_cmpuint(load_le32(xsdt + 4), ==, 36 + 3 * 8);
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmphex(load_le32(rsdt + 36 + 4 * i), ==, load_le64(xsdt + 36 + 8 * i));
}

static void every_table_sums_to_zero(Fixture *f, gconstpointer unused)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG"};

    write_tables(f);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *table = find(f, names[i]);
        g_assert_nonnull(table);
        g_assert_cmpuint(sum(table, load_le32(table + 4)), ==, 0);
    }
    g_assert_cmpuint(sum(dsdt(f), load_le32(dsdt(f) + 4)), ==, 0);
}

/* Port in the generic address at `gas`, which must agree with a 32-bit field. */
static void same_block(const uint8_t *fadt, unsigned old, unsigned len, unsigned gas)
{
    g_assert_cmpuint(fadt[gas], ==, 1);
    g_assert_cmpuint(fadt[gas + 1], ==, 8 * fadt[len]);
    g_assert_cmphex(load_le64(fadt + gas + 4), ==, load_le32(fadt + old));
}

static void fadt_says_the_same_in_32_and_64_bits(Fixture *f, gconstpointer unused)
{
    write_tables(f);
    const uint8_t *fadt = find(f, "FACP");

    g_assert_cmpuint(load_le32(fadt + 4), ==, 276);
    g_assert_cmphex(load_le32(fadt + 36), ==, load_le64(fadt + 132));
    g_assert_cmphex(load_le32(fadt + 40), ==, load_le64(fadt + 140));
    same_block(fadt, 56, 88, 148);
    same_block(fadt, 64, 89, 172);
    same_block(fadt, 76, 91, 208);
    same_block(fadt, 80, 92, 220);
    g_assert_cmpuint(load_le16(fadt + 46), ==, 9);
}

static void fadt_describes_our_fixed_hardware(Fixture *f, gconstpointer unused)
{
    write_tables(f);
    const uint8_t *fadt = find(f, "FACP");
    uint32_t flags = load_le32(fadt + 112);
    const uint8_t *facs = gm_at(&f->gm, load_le32(fadt + 36), 64);

    g_assert_cmphex(load_le32(fadt + 56), ==, ACPI_PM1_EVT);
    g_assert_cmphex(load_le64(fadt + 120), ==, ACPI_RESET_PORT);
    g_assert_cmphex(fadt[128], ==, ACPI_RESET_VALUE);
    g_assert_cmphex(fadt[108], ==, 0x32);
    g_assert_false(flags & BIT(4));  /* the power button is fixed hardware */
    g_assert_true(flags & BIT(8));   /* 32-bit timer */
    g_assert_true(flags & BIT(10));  /* reset register */
    g_assert_false(flags & BIT(20)); /* not hardware-reduced */
    g_assert_cmpmem(facs, 4, "FACS", 4);
    g_assert_true(is_aligned(load_le32(fadt + 36), 64));
}

/* Calls for each MADT entry of that type. */
static unsigned count_entries(const uint8_t *madt, unsigned type, const uint8_t **last)
{
    unsigned n = 0, end = load_le32(madt + 4), at;

    for (at = 44; at + 1 < end; at += madt[at + 1]) {
        g_assert_cmpuint(madt[at + 1], >=, 2);
        if (madt[at] == type) {
            *last = madt + at;
            n++;
        }
    }
    g_assert_cmpuint(at, ==, end);
    return n;
}

static void cpus_from_255_on_are_x2apics(Fixture *f, gconstpointer unused)
{
    const uint8_t *madt, *last = NULL;

    f->config.n_cpus = 300;
    write_tables(f);
    madt = find(f, "APIC");
    g_assert_cmpuint(count_entries(madt, 0, &last), ==, 255);
    g_assert_cmpuint(last[3], ==, 254);
    g_assert_cmpuint(count_entries(madt, 9, &last), ==, 45);
    g_assert_cmpuint(load_le32(last + 4), ==, 299);
    g_assert_cmpuint(load_le32(last + 12), ==, 299);
    g_assert_cmpuint(count_entries(madt, 10, &last), ==, 1);
}

static void madt_routes_the_timer_and_the_sci(Fixture *f, gconstpointer unused)
{
    const uint8_t *madt, *last = NULL;

    write_tables(f);
    madt = find(f, "APIC");
    g_assert_cmpuint(count_entries(madt, 0, &last), ==, 4);
    g_assert_cmpuint(count_entries(madt, 9, &last), ==, 0);
    g_assert_cmpuint(count_entries(madt, 1, &last), ==, 1);
    g_assert_cmphex(load_le32(last + 4), ==, 0xfec00000);
    g_assert_cmpuint(count_entries(madt, 2, &last), ==, 2);
    g_assert_cmpuint(last[3], ==, 9);
    g_assert_cmpuint(load_le32(last + 4), ==, 9);
    g_assert_cmphex(load_le16(last + 8), ==, 0xd);
    g_assert_cmpuint(count_entries(madt, 4, &last), ==, 1);
}

static void without_pci_there_is_no_mcfg_and_no_bridge(Fixture *f, gconstpointer unused)
{
    static const AcpiMmioDevice mmio[] = {{0xd0000000, 512, 5}, {0xd0000200, 512, 6}};

    f->config.pci = false;
    f->config.mmio = mmio;
    f->config.n_mmio = 2;
    write_tables(f);
    g_assert_null(find(f, "MCFG"));
    g_assert_false(contains(dsdt(f), "PCI0", 4));
    g_assert_true(contains(dsdt(f), "LNRO0005", 8));
    g_assert_true(contains(dsdt(f), "VR01", 4));
}

static void tables_too_big_for_their_place_are_refused(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    f->config.tables_size = 2048;
    g_assert_false(acpi_write(&f->gm, &f->config, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_cmpuint(*(uint8_t *)gm_at(&f->gm, TABLES, 1), ==, 0);
}

static void a_place_outside_ram_is_refused(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    f->config.tables = 0xff000;
    f->config.tables_size = 2 * MIB;
    f->config.n_cpus = 255;
    g_assert_false(acpi_write(&f->gm, &f->config, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
}

static void package_lengths_count_themselves(void)
{
    static const unsigned sizes[] = {0, 56, 57, 58, 59, 4086, 4087, 4088, 4089, 70000};

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        Aml a;
        aml_init(&a);
        aml_package(&a, 0);
        for (unsigned n = 0; n < sizes[i]; n++)
            aml_int(&a, 0);
        aml_end(&a);
        g_autoptr(GByteArray) bytes = aml_finish(&a);
        const uint8_t *p = bytes->data + 1;
        unsigned follow = *p >> 6, length = follow ? *p & 15 : *p & 63;
        for (unsigned n = 1; n <= follow; n++)
            length |= p[n] << (4 + 8 * (n - 1));
        g_assert_cmpuint(length, ==, bytes->len - 1);
        g_assert_cmpuint(follow, ==, length < 64 ? 0 : length < 4096 ? 1 : 2);
    }
}

/* ---- iasl ------------------------------------------------------------------ */

static void run_iasl(const char *folder, const char *const *args, bool must_be_clean)
{
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(folder, (char **)args, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err,
                 &status, &error);
    g_assert_no_error(error);
    g_test_message("%s%s", out, err);
    g_assert_cmpint(status, ==, 0);
    g_assert_null(strstr(err, "Error"));
    g_assert_null(strstr(err, "Invalid"));
    g_assert_null(strstr(err, "checksum"));
    if (must_be_clean)
        g_assert_nonnull(strstr(out, "0 Errors, 0 Warnings"));
}

static void disassemble(const char *folder, const uint8_t *table)
{
    g_autofree char *name = g_strndup((const char *)table, 4);
    g_autofree char *aml = g_strconcat(name, ".aml", NULL);
    g_autofree char *dsl = g_strconcat(name, ".dsl", NULL);
    g_autofree char *path = g_build_filename(folder, aml, NULL);
    g_autofree char *dsl_path = g_build_filename(folder, dsl, NULL);
    size_t len = load_le32(table + 4);

    g_assert_true(g_file_set_contents(path, (const char *)table, len, NULL));
    run_iasl(folder, (const char *const[]){"iasl", "-d", aml, NULL}, false);
    if (!memcmp(table, "DSDT", 4))
        run_iasl(folder, (const char *const[]){"iasl", "-p", "again", dsl, NULL}, true);
    g_unlink(path);
    g_unlink(dsl_path);
}

static void iasl_reads_every_table(Fixture *f, gconstpointer with_mmio)
{
    static const AcpiMmioDevice mmio[] = {{0xd0000000, 512, 5}, {0xd0000200, 512, 6}};
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *folder = NULL, *again = NULL;
    const uint8_t *table;

    if (!iasl) {
        g_test_skip("iasl is not installed (package acpica-tools)");
        return;
    }
    if (with_mmio) {
        f->config.mmio = mmio;
        f->config.n_mmio = 2;
    }
    write_tables(f);
    folder = g_dir_make_tmp("hutch-acpi-XXXXXX", NULL);
    again = g_build_filename(folder, "again.aml", NULL);
    disassemble(folder, dsdt(f));
    disassemble(folder, find(f, "FACP"));
    disassemble(folder, find(f, "APIC"));
    disassemble(folder, find(f, "MCFG"));
    table = find(f, "FACP");
    disassemble(folder, gm_at(&f->gm, load_le32(table + 36), 64));
    g_unlink(again);
    g_rmdir(folder);
}

#define TEST(fn, data) g_test_add("/acpi/" #fn, Fixture, data, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(both_roots_lead_to_the_same_tables, NULL);
    TEST(every_table_sums_to_zero, NULL);
    TEST(fadt_says_the_same_in_32_and_64_bits, NULL);
    TEST(fadt_describes_our_fixed_hardware, NULL);
    TEST(cpus_from_255_on_are_x2apics, NULL);
    TEST(madt_routes_the_timer_and_the_sci, NULL);
    TEST(without_pci_there_is_no_mcfg_and_no_bridge, NULL);
    TEST(tables_too_big_for_their_place_are_refused, NULL);
    TEST(a_place_outside_ram_is_refused, NULL);
    TEST(iasl_reads_every_table, NULL);
    g_test_add("/acpi/iasl_reads_every_table_with_virtio_mmio", Fixture, "mmio", set_up,
               iasl_reads_every_table, tear_down);
    g_test_add_func("/aml/package_lengths_count_themselves",
                    package_lengths_count_themselves);
    return g_test_run();
}
