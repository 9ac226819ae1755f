/* ACPI tables (ACPI 6.4, chapter 5; AML, chapter 20) for the PC board: RSDP, XSDT, FADT,
 * FACS, MADT, MCFG and a DSDT.  Written into guest RAM before the vCPUs run. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/guestmem.h"

typedef struct AcpiMmioDevice {
    uint64_t base;
    uint32_t size, gsi;
} AcpiMmioDevice;

typedef struct AcpiConfig {
    unsigned n_cpus; /* APIC ids 0 .. n_cpus - 1 */
    uint64_t rsdp;   /* where the RSDP goes: 16-byte aligned, below 1 MiB */
    uint64_t tables; /* where the tables go, and how much room there is */
    uint64_t tables_size;
    bool pci;
    uint64_t ecam_base; /* bus 0 only */
    uint64_t mmio32_base, mmio32_size, mmio64_base, mmio64_size;
    unsigned intx_gsi_base; /* pins A-D of slot s: base + (s + pin) % 4 */
    unsigned sci_gsi;
    uint64_t vmgenid; /* guest-physical address of the GUID */
    bool serial[2];
    const AcpiMmioDevice *mmio; /* virtio-mmio devices ("LNRO0005") */
    unsigned n_mmio;
} AcpiConfig;

bool acpi_write(GuestMem *gm, const AcpiConfig *config, GError **error);
