/* The loader of saved states, and the devices that take what it gives them.
 *
 * Input: a state file; its sums are put right first, for who can write the file can do
 * that too.  Checked is that any section that a table takes is shown whole, and that a
 * machine which took a state can run, and be saved again. */
#include <stdlib.h>

#include "../unit/devices/saved_pc.h"
#include "../unit/state/sums.h"
#include "mutate_state.h"
#include "snapshot/state_tables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
