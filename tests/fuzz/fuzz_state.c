/* The loader of saved states, and the devices that take what it gives them.
 *
 * Input: a state file; its sums are put right first, for who can write the file can do
 * that too.  Checked is that any section that a table takes is shown whole, and that a
 * machine which took a state can run, and be saved again. */
#include <stdlib.h>

#include "../unit/devices/saved_pc.h"
#include "../unit/state/sums.h"
#include "snapshot/state_tables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max); /* libFuzzer's */

static void read_all(GBytes *bytes)
{
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);

    if (r)
        json_decref(state_describe(r, state_all_tables()));
}

static void load_and_use(GBytes *bytes)
{
    SavedPc pc;

    saved_pc_init(&pc);
    if (saved_pc_load(&pc, bytes, NULL)) {
        saved_pc_resume(&pc);
        for (uint16_t port = 0x3f8; port < 0x400; port++) {
            in(&pc.b, port, 1);
            out(&pc.b, port, 1, port);
        }
        for (unsigned i = 0; i < 128; i++) {
            out(&pc.b, 0x70, 1, i);
            in(&pc.b, 0x71, 1);
        }
        in(&pc.b, ACPI_PM_TMR, 4);
        for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
            PciDevice *p = pci_device_at(pc.bus, slot);

            for (unsigned i = 0; p && p->msix && i < SAVED_PC_VECTORS; i++)
                msix_notify(p->msix, i);
        }
        g_bytes_unref(saved_pc_save(&pc)); /* fails loudly */
    }
    saved_pc_finish(&pc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_malloc(size + 1);

    memcpy(copy, data, size);
    state_fix_sums(copy, size);
    g_autoptr(GBytes) bytes = g_bytes_new(copy, size);
    read_all(bytes);
    load_and_use(bytes);
    return 0;
}

/* Where the n-th field of the file is, counted through all sections and round again; its
 * length in *ret_len.  0: there is none. */
static size_t find_field(const uint8_t *p, size_t size, unsigned n, size_t *ret_len)
{
    size_t first = 0, first_len = 0;
    unsigned found = 0;

    for (size_t at = 12; size - at >= 16 && memcmp(p + at, "SECT", 4) == 0;) {
        size_t field = at + 16 + p[at + 14] + p[at + 15];
        size_t end = field + load_le32(p + at + 8);

        if (end > size)
            break;
        while (end - field >= 6 && end - field - 6 >= load_le32(p + field + 2)) {
            *ret_len = load_le32(p + field + 2);
            if (!first) {
                first = field + 6;
                first_len = *ret_len;
            }
            if (found++ == n)
                return field + 6;
            field += 6 + *ret_len;
        }
        at = end;
    }
    *ret_len = first_len;
    return n && found ? find_field(p, size, n % found, ret_len) : first;
}

/* Mostly, one field gets another value and the rest stays good: noise would hardly ever
 * get to the checks of values. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size_t len, at = size < 28 ? 0 : find_field(data, size, seed >> 3 & 0xfff, &len);

    if (!(seed & 7) || !at || !len)
        return LLVMFuzzerMutate(data, size, max);
    if (seed & 1 && len <= 8)
        data[at + (seed >> 16) % len] = seed >> 24;
    else
        LLVMFuzzerMutate(data + at, len, len);
    return size;
}
