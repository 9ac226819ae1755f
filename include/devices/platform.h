/* The small devices that make a PC: each is one file in devices/, made on the main thread
 * before the vCPUs run and released by device_release().  Callbacks run on a vCPU thread
 * with the device's lock held, so they post and return. */
#pragma once

#include "backend/chardev.h"
#include "core/bus.h"
#include "core/guestmem.h"
#include "core/irq.h"
#include "util/ioloop.h"

typedef struct PlatformEvents {
    void (*power_off)(void *opaque);
    void (*reset)(void *opaque);
    void (*panicked)(void *opaque);
    void (*debug_exit)(void *opaque, unsigned status);
    /* The first byte since power-on that a driver sends by interrupt: what Linux and its
     * like do for programs, while the kernel's own messages go out by polling. */
    void (*user_output)(void *opaque);
    void *opaque;
} PlatformEvents;

/* 16550A UART (National Semiconductor PC16550D); 8 ports from `base`.  Takes over the
 * chardev (NULL: unconnected), whose loop must be `main`; events (kept; NULL: nobody is
 * told). */
Device *serial_new(const char *id, Bus *pio, uint16_t base, IrqController *ic,
                   unsigned gsi, Chardev *chardev, IoLoop *main,
                   const PlatformEvents *events);

/* MC146818 real-time clock and CMOS RAM at 0x70; UTC, with update, alarm and periodic
 * interrupts.  ram_below_4g and ram_above_4g fill the size bytes that old software reads.
 */
Device *rtc_new(Bus *pio, IrqController *ic, unsigned gsi, IoLoop *main,
                uint64_t ram_below_4g, uint64_t ram_above_4g);

/* Intel 8042 keyboard controller at 0x60/0x64, as much as kernels use of one without
 * keyboard or mouse: self-test, A20, output port, and reset by command 0xfe. */
Device *i8042_new(Bus *pio, const PlatformEvents *events);

/* The panic port of QEMU's docs/specs/pvpanic: byte at 0x505, bit 0 panicked. */
enum { PVPANIC_PORT = 0x505 };
Device *pvpanic_new(Bus *pio, const PlatformEvents *events);

/* Test exits.  Port 0xf4 follows QEMU's isa-debug-exit, status (value << 1) | 1; port
 * 0x501 gives the value itself.  Above 123 the status given is 123. */
Device *debug_exit_new(Bus *pio, const PlatformEvents *events);

/* ACPI fixed hardware (ACPI 6.4, 4.8): PM1a event and control blocks, PM timer and the
 * reset register (port 0xcf9).  SCI on `gsi`. */
enum {
    ACPI_PM_BASE = 0x600,
    ACPI_PM1_EVT = 0x600,
    ACPI_PM1_CNT = 0x604,
    ACPI_PM_TMR = 0x608,
    ACPI_GPE0 = 0x620,
    ACPI_GPE0_LEN = 4,
    ACPI_RESET_PORT = 0xcf9,
    ACPI_RESET_VALUE = 0x06,
    ACPI_SMI_CMD = 0xb2,
    ACPI_ENABLE = 0xf0,
    ACPI_DISABLE = 0xf1,
    ACPI_S5 = 5
};
Device *acpi_pm_new(Bus *pio, IrqController *ic, unsigned gsi, IoLoop *main,
                    const PlatformEvents *events);
void acpi_pm_power_button(Device *pm); /* main thread; takes the device's lock */
void acpi_pm_raise_gpe(Device *pm, unsigned bit); /* main thread */

/* Main thread, after a load: the timer is `ns` further than it was, as are the guest's
 * other clocks.  Less than none counts as none. */
void acpi_pm_put_forward(Device *pm, int64_t ns);

/* Any thread, pm's lock not held.  An event whose cause may last: while `level`, its
 * status cannot be cleared. */
void acpi_pm_set_gpe(Device *pm, unsigned bit, bool level);
bool acpi_pm_gpe_enabled(Device *pm, unsigned bit); /* the same; and ACPI is on */

/* VM generation ID (Microsoft's vmgenid, QEMU docs/specs/vmgenid): 16 bytes of guest RAM,
 * at the page `gpa`, filled with `guid`, which changes when a VM is cloned. */
enum { VMGENID_OFFSET = 40, VMGENID_GPE = 5 };
Device *vmgenid_new(GuestMem *gm, uint64_t gpa, const uint8_t guid[16]);
bool vmgenid_set(Device *d, const uint8_t guid[16]); /* then raise VMGENID_GPE */
