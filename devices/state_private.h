/* Tables of the states that files of this folder save; each is beside its struct. */
#pragma once

#include "state/state.h"

extern const StateTable acpi_pm_state_table;
extern const StateTable i8042_state_table;
extern const StateTable msix_state_table;
extern const StateTable pci_function_state_table;
extern const StateTable pci_host_state_table;
extern const StateTable pci_hotplug_state_table;
extern const StateTable rtc_state_table;
extern const StateTable serial_state_table;
extern const StateTable vmgenid_state_table;
