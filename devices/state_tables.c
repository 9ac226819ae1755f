/* See devices/state_tables.h.  Not here, for they have nothing to save: debug exits and
 * the panic port. */
#include "devices/state_tables.h"

#include "devices/state_private.h"

const StateTable *const devices_state_tables[] = {
    &acpi_pm_state_table,  &i8042_state_table,
    &msix_state_table,     &pci_function_state_table,
    &pci_host_state_table, &pci_hotplug_state_table,
    &rtc_state_table,      &serial_state_table,
    &vmgenid_state_table,  NULL,
};
