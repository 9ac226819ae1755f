/* The saved state of one PCI function: configuration space, where its BARs are, its
 * interrupt line; MSI-X has a section of its own.
 *
 * What the guest cannot write must be what this device has: otherwise the state is that
 * of another device, or of this one with other options. */
#include <inttypes.h>

#include "devices/pci_private.h"
#include "devices/state_private.h"
#include "util/bits.h"

typedef struct PciFunctionState {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t mapped; /* a bit for each BAR that answers */
    uint8_t intx;   /* the line as the device drives it */
} PciFunctionState;

static const StateField function_fields[] = {
    STATE_INTS(PciFunctionState, config, 1, U8, .help = "configuration space"),
    STATE_FIELD(PciFunctionState, mapped, 2, U8, .max = BIT(PCI_BARS) - 1,
                .help = "a bit for each BAR that answers"),
    STATE_FIELD(PciFunctionState, intx, 3, BOOL, .help = "interrupt line"),
    {},
};

const StateTable pci_function_state_table = {.name = "pci-function",
                                             .version = 1,
                                             .size = sizeof(PciFunctionState),
                                             .fields = function_fields};

static char *section_name(const PciDevice *p)
{
    return g_strdup_printf("%s/pci", p->dev.id);
}

void pci_device_save(PciDevice *p, StateWriter *w)
{
    g_autofree char *section = section_name(p);
    PciFunctionState s = {.intx = p->intx_level};

    LOCK_GUARD(&p->dev.lock);
    memcpy(s.config, p->s.config, sizeof(s.config));
    for (unsigned n = 0; n < PCI_BARS; n++)
        if (p->bar[n].region.mapped)
            s.mapped |= BIT(n);
    state_put(w, section, &pci_function_state_table, &s);
    if (p->msix)
        msix_save(p->msix, w);
}

static bool is_this_device(const PciDevice *p, const PciFunctionState *s,
                           const char *section, GError **error)
{
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        if ((s->config[i] ^ p->s.config[i]) & ~p->writable[i])
            return fail(error, VM_ERROR_CORRUPT,
                        "state, section '%s', field 'config': byte 0x%02x is 0x%02x, and "
                        "0x%02x in this device: it is the state of another, or of this "
                        "one with other options",
                        section, i, s->config[i], p->s.config[i]);
    return true;
}

bool pci_device_load(PciDevice *p, StateReader *r, GError **error)
{
    g_autofree char *section = section_name(p);
    PciFunctionState s;
    unsigned bad;

    if (!state_get(r, section, &pci_function_state_table, &s, error) ||
        !is_this_device(p, &s, section, error))
        return false;

    LOCK_GUARD(&p->dev.lock);
    memcpy(p->s.config, s.config, sizeof(s.config));
    __atomic_store_n(&p->intx_level, s.intx, __ATOMIC_RELAXED);
    if (!pci_map_bars(p, s.mapped, &bad))
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section '%s', field 'mapped': BAR %u cannot be at 0x%" PRIx64
                    ": its space is off, or something else is there",
                    section, bad, load_le(s.config + PCI_BAR0 + 4 * bad, 4));
    return !p->msix || msix_load(p->msix, r, error);
}
