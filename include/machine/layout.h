/* Where things are in a PC's guest-physical address space.  One place, read by the board,
 * the boot loaders and the ACPI tables.
 *
 *   0          .. 640 KiB   RAM; the boot loader's structures below 64 KiB
 *   640 KiB    .. 896 KiB   nothing (where a PC has its VGA and option ROMs)
 *   896 KiB    .. 1 MiB     RAM, reserved: RSDP, ACPI tables, VM generation ID
 *   1 MiB      .. 3 GiB     RAM, as much as there is
 *   3 GiB      .. 3.5 GiB   32-bit PCI BARs
 *   3.5 GiB    .. + 1 MiB   ECAM of bus 0
 *   0xfeb00000 ..           virtio-mmio, 4 KiB each; then IOAPIC, local APICs
 *   4 GiB      ..           the rest of the RAM
 *   64 GiB-aligned above it 64-bit PCI BARs
 */
#pragma once

#include <stdint.h>

#include "util/bits.h"

#define LAYOUT_GDT              0x500ull
#define LAYOUT_START_INFO       0x6000ull /* PVH or multiboot information, a page */
#define LAYOUT_BOOT_PARAMS      0x7000ull
#define LAYOUT_PAGE_TABLES      0x9000ull /* PML4, PDPT, four page directories */
#define LAYOUT_CMDLINE          0x20000ull
#define LAYOUT_CMDLINE_MAX      0x10000ull
#define LAYOUT_LOW_RAM_END      0xa0000ull
#define LAYOUT_EBDA             0x9fc00ull /* the last KiB of low RAM is the firmware's by custom */
#define LAYOUT_BIOS             0xe0000ull
#define LAYOUT_RSDP             0xe0000ull
#define LAYOUT_ACPI             0xe1000ull
#define LAYOUT_ACPI_SIZE        0x1d000ull
#define LAYOUT_VMGENID          0xfe000ull /* a page */
#define LAYOUT_HIGH_RAM         (1 * MIB)
#define LAYOUT_LOW_RAM_MAX      (3 * GIB)
#define LAYOUT_MMIO32           (3 * GIB)
#define LAYOUT_MMIO32_SIZE      (512 * MIB)
#define LAYOUT_ECAM             0xe0000000ull
#define LAYOUT_ECAM_SIZE        (1 * MIB)
#define LAYOUT_VIRTIO_MMIO      0xfeb00000ull
#define LAYOUT_VIRTIO_MMIO_STEP 0x1000ull
#define LAYOUT_ABOVE_4G         (4 * GIB)
#define LAYOUT_MMIO64_SIZE      (64 * GIB)

/* Where the serial ports are; the other devices say so in devices/platform.h. */
enum { PORT_SERIAL0 = 0x3f8, PORT_SERIAL1 = 0x2f8 };

/* Interrupt wiring. */
enum {
    GSI_SERIAL0 = 4,
    GSI_SERIAL1 = 3,
    GSI_RTC = 8,
    GSI_SCI = 9,
    GSI_INTX = 16,        /* four from here for PCI's INTA-INTD */
    GSI_VIRTIO_MMIO = 16, /* up to eight, when there is no PCI */
    MAX_VIRTIO_MMIO = 8,
};
