/* ACPI fixed hardware (ACPI 6.4, 4.8.2 to 4.8.4): PM1a event and control registers, PM
 * timer, one block of general-purpose events, the port that hands the machine over to
 * ACPI, and the reset register.  Of the sleep states only S5, off, exists.
 *
 * Nothing ticks: the timer is worked out from the clock when it is read, and a host timer
 * runs only while the guest has its overflow interrupt enabled.
 *
 * Registers: vCPU threads, under the device's lock; power button, events and the host
 * timer: main thread, which takes it. */
#include "devices/platform.h"
#include "devices/regs.h"
#include "devices/state_private.h"

/* Offsets from ACPI_PM_BASE, each register a word or, the timer, a dword. */
enum {
    PM1_STS = 0,
    PM1_EN = 2,
    PM1_CNT = ACPI_PM1_CNT - ACPI_PM_BASE,
    PM_TMR = ACPI_PM_TMR - ACPI_PM_BASE,
    PM_SIZE = PM_TMR + 4,
};
enum { GPE_STS = 0, GPE_EN = ACPI_GPE0_LEN / 2 };

/* ACPI 6.4, 4.8.3.1: the status and enable bits that we have. */
enum { PM1_TIMER = 0x0001, PM1_POWER_BUTTON = 0x0100 };
#define PM1_EN_MASK 0x0721 /* timer, global, power and sleep button, RTC */

/* 4.8.3.2 */
enum {
    CNT_SCI_EN = 0x0001,
    CNT_MASK = 0x1c03,
    CNT_SLP_TYP_SHIFT = 10,
    CNT_SLP_EN = 0x2000
};

enum { RESET_NOW = 4, RESET_MASK = 0x0e };

#define TIMER_HZ     3579545ull
#define TIMER_HALF   BIT64(31) /* the status bit is set when bit 31 changes */
#define TIMER_NS_MAX BIT64(61)

typedef struct AcpiPmState { /* guest-visible */
    uint16_t sts, en, cnt;
    uint8_t gpe_sts[GPE_EN], gpe_en[GPE_EN];
    uint8_t smi_cmd, reset;
    uint64_t half_seen; /* halves of the timer that went into sts */
    uint64_t timer_ns;  /* since the timer read 0; only in a saved state */
} AcpiPmState;

static const StateField acpi_pm_fields[] = {
    STATE_FIELD(AcpiPmState, sts, 1, U16, .max = PM1_TIMER | PM1_POWER_BUTTON,
                .help = "PM1 status: timer, power button"),
    STATE_FIELD(AcpiPmState, en, 2, U16, .max = PM1_EN_MASK, .help = "PM1 enable"),
    STATE_FIELD(AcpiPmState, cnt, 3, U16, .max = CNT_MASK,
                .help = "PM1 control; bit 0: ACPI is on"),
    STATE_INTS(AcpiPmState, gpe_sts, 4, U8, .help = "events that happened"),
    STATE_INTS(AcpiPmState, gpe_en, 5, U8, .help = "events that interrupt"),
    STATE_FIELD(AcpiPmState, smi_cmd, 6, U8, .help = "port 0xb2 as last written"),
    STATE_FIELD(AcpiPmState, reset, 7, U8, .help = "port 0xcf9 as last written"),
    STATE_HOLE(AcpiPmState, reset, half_seen),
    STATE_FIELD(AcpiPmState, half_seen, 8, U64,
                .help = "overflows of the timer's bit 31"),
    STATE_FIELD(AcpiPmState, timer_ns, 9, U64, .max = TIMER_NS_MAX,
                .help = "what the timer shows, in nanoseconds"),
    {},
};

static bool acpi_pm_check(const void *p, GError **error)
{
    const AcpiPmState *s = p;

    if ((s->sts & ~(PM1_TIMER | PM1_POWER_BUTTON)) || (s->en & ~PM1_EN_MASK) ||
        (s->cnt & ~CNT_MASK) || (s->reset & (RESET_NOW | ~RESET_MASK)))
        return fail(error, VM_ERROR_CORRUPT,
                    "PM1 status, enable, control and reset are 0x%x, 0x%x, 0x%x, 0x%x",
                    s->sts, s->en, s->cnt, s->reset);
    return true;
}

const StateTable acpi_pm_state_table = {.name = "acpi-pm",
                                        .version = 1,
                                        .size = sizeof(AcpiPmState),
                                        .fields = acpi_pm_fields,
                                        .check = acpi_pm_check};

typedef struct AcpiPm {
    Device dev;
    AcpiPmState s;
    uint8_t gpe_level[GPE_EN]; /* as their sources hold them */
    int64_t epoch_ns;          /* when the timer read 0 */
    BusRegion pm, gpe, reset, smi;
    Bus *pio;
    IrqLine sci;
    IoLoop *main;
    IoTimer timer; /* the main loop's */
    IoPost rearm;
    bool armed; /* the host timer runs or is about to */
    const PlatformEvents *events;
} AcpiPm;

/* ---- timer and SCI: functions of the registers and the clock ------------------- */

static uint64_t timer_ticks(const AcpiPm *pm)
{
    uint64_t ns = clock_ns() - pm->epoch_ns;

    return (unsigned __int128)ns * TIMER_HZ / 1000000000;
}

static void update(AcpiPm *pm)
{
    AcpiPmState *s = &pm->s;
    uint64_t half = timer_ticks(pm) / TIMER_HALF;
    bool sci;

    if (half != s->half_seen) {
        s->half_seen = half;
        s->sts |= PM1_TIMER;
    }
    sci = s->sts & s->en;
    for (unsigned i = 0; i < GPE_EN; i++) {
        s->gpe_sts[i] |= pm->gpe_level[i];
        sci |= (s->gpe_sts[i] & s->gpe_en[i]) != 0;
    }
    irq_set(&pm->sci, sci && (s->cnt & CNT_SCI_EN));

    if ((s->en & PM1_TIMER) && !(s->sts & PM1_TIMER) && !pm->armed) {
        pm->armed = true;
        ioloop_post(pm->main, &pm->rearm);
    }
}

static void on_timer(void *opaque)
{
    AcpiPm *pm = opaque;

    LOCK_GUARD(&pm->dev.lock);
    pm->armed = false;
    update(pm);
}

static void on_rearm(void *opaque)
{
    AcpiPm *pm = opaque;
    uint64_t ticks;

    LOCK_GUARD(&pm->dev.lock);
    ticks = (timer_ticks(pm) / TIMER_HALF + 1) * TIMER_HALF;
    ioloop_timer(pm->main, &pm->timer,
                 pm->epoch_ns +
                     (int64_t)((unsigned __int128)ticks * 1000000000 / TIMER_HZ) + 1,
                 on_timer, pm);
}

/* ---- PM1a and the timer -------------------------------------------------------- */

static uint8_t pm_read8(Device *d, unsigned reg)
{
    AcpiPm *pm = (AcpiPm *)d;
    uint8_t image[PM_SIZE] = {0};

    store_le16(image + PM1_STS, pm->s.sts);
    store_le16(image + PM1_EN, pm->s.en);
    store_le16(image + PM1_CNT, pm->s.cnt);
    return image[reg];
}

/* The timer is read as a whole: its bytes must belong together. */
static uint64_t pm_read(Device *d, uint64_t offset, unsigned size)
{
    AcpiPm *pm = (AcpiPm *)d;

    update(pm);
    if (offset >= PM_TMR)
        return (uint32_t)timer_ticks(pm) >> 8 * (offset - PM_TMR);
    return regs_read(d, offset, size, PM_SIZE, pm_read8);
}

static void write_control(AcpiPm *pm, unsigned reg, uint8_t value)
{
    unsigned shift = 8 * (reg - PM1_CNT);
    uint16_t written = value << shift, mask = CNT_MASK & 0xff << shift;

    pm->s.cnt = (pm->s.cnt & ~mask) | (written & mask);
    if ((written & CNT_SLP_EN) && (pm->s.cnt >> CNT_SLP_TYP_SHIFT & 7) == ACPI_S5)
        pm->events->power_off(pm->events->opaque);
}

static void pm_write8(Device *d, unsigned reg, uint8_t value)
{
    AcpiPm *pm = (AcpiPm *)d;
    unsigned shift = 8 * (reg & 1);

    switch (reg) {
    case PM1_STS:
    case PM1_STS + 1:
        pm->s.sts &= ~(value << shift);
        break;
    case PM1_EN:
    case PM1_EN + 1:
        pm->s.en = ((pm->s.en & ~(0xff << shift)) | value << shift) & PM1_EN_MASK;
        break;
    case PM1_CNT:
    case PM1_CNT + 1:
        write_control(pm, reg, value);
        break;
    }
}

static void pm_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    update((AcpiPm *)d); /* what has happened by now is cleared, what comes is not */
    regs_write(d, offset, size, value, PM_SIZE, pm_write8);
    update((AcpiPm *)d);
}

static const BusOps pm_ops = {pm_read, pm_write};

/* ---- general-purpose events (4.8.4.1) ------------------------------------------ */

static uint8_t gpe_read8(Device *d, unsigned reg)
{
    AcpiPm *pm = (AcpiPm *)d;

    return reg < GPE_EN ? pm->s.gpe_sts[reg] : pm->s.gpe_en[reg - GPE_EN];
}

static void gpe_write8(Device *d, unsigned reg, uint8_t value)
{
    AcpiPm *pm = (AcpiPm *)d;

    if (reg < GPE_EN)
        pm->s.gpe_sts[reg] &= ~value;
    else
        pm->s.gpe_en[reg - GPE_EN] = value;
    update(pm);
}

static uint64_t gpe_read(Device *d, uint64_t offset, unsigned size)
{
    return regs_read(d, offset, size, ACPI_GPE0_LEN, gpe_read8);
}

static void gpe_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    regs_write(d, offset, size, value, ACPI_GPE0_LEN, gpe_write8);
}

static const BusOps gpe_ops = {gpe_read, gpe_write};

/* ---- SMI command port: hands the fixed hardware to ACPI and back (5.2.9, SMI_CMD)  */

static uint64_t smi_read(Device *d, uint64_t offset, unsigned size)
{
    return ((AcpiPm *)d)->s.smi_cmd;
}

static void smi_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    AcpiPm *pm = (AcpiPm *)d;

    pm->s.smi_cmd = value;
    if (pm->s.smi_cmd == ACPI_ENABLE)
        pm->s.cnt |= CNT_SCI_EN;
    else if (pm->s.smi_cmd == ACPI_DISABLE)
        pm->s.cnt &= ~CNT_SCI_EN;
    update(pm);
}

static const BusOps smi_ops = {smi_read, smi_write};

/* ---- reset register (4.8.3.6), the reset control port of Intel's chipsets ------ */

static uint64_t reset_read(Device *d, uint64_t offset, unsigned size)
{
    return ((AcpiPm *)d)->s.reset;
}

static void reset_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    AcpiPm *pm = (AcpiPm *)d;

    pm->s.reset = value & RESET_MASK & ~RESET_NOW;
    if (value & RESET_NOW)
        pm->events->reset(pm->events->opaque);
}

static const BusOps reset_ops = {reset_read, reset_write};

/* ---- the machine's side -------------------------------------------------------- */

void acpi_pm_power_button(Device *d)
{
    AcpiPm *pm = (AcpiPm *)d;

    LOCK_GUARD(&d->lock);
    pm->s.sts |= PM1_POWER_BUTTON;
    update(pm);
}

void acpi_pm_raise_gpe(Device *d, unsigned bit)
{
    AcpiPm *pm = (AcpiPm *)d;

    g_return_if_fail(bit < 8 * GPE_EN);
    LOCK_GUARD(&d->lock);
    pm->s.gpe_sts[bit / 8] |= BIT(bit % 8);
    update(pm);
}

void acpi_pm_set_gpe(Device *d, unsigned bit, bool level)
{
    AcpiPm *pm = (AcpiPm *)d;

    g_return_if_fail(bit < 8 * GPE_EN);
    LOCK_GUARD(&d->lock);
    if (level)
        pm->gpe_level[bit / 8] |= BIT(bit % 8);
    else
        pm->gpe_level[bit / 8] &= ~BIT(bit % 8);
    update(pm);
}

void acpi_pm_put_forward(Device *d, int64_t ns)
{
    LOCK_GUARD(&d->lock);
    ((AcpiPm *)d)->epoch_ns -= CLAMP(ns, 0, (int64_t)TIMER_NS_MAX);
}

bool acpi_pm_gpe_enabled(Device *d, unsigned bit)
{
    AcpiPm *pm = (AcpiPm *)d;

    g_return_val_if_fail(bit < 8 * GPE_EN, false);
    LOCK_GUARD(&d->lock);
    return (pm->s.cnt & CNT_SCI_EN) && (pm->s.gpe_en[bit / 8] & BIT(bit % 8));
}

static void acpi_pm_reset(Device *d)
{
    AcpiPm *pm = (AcpiPm *)d;

    LOCK_GUARD(&d->lock);
    pm->s = (AcpiPmState){0};
    memset(pm->gpe_level, 0,
           sizeof(pm->gpe_level)); /* a source that stands sets it again */
    pm->epoch_ns = clock_ns();
    update(pm);
}

/* After a load the line has to be raised and the host timer armed. */
static void acpi_pm_resume(Device *d)
{
    LOCK_GUARD(&d->lock);
    update((AcpiPm *)d);
}

static void acpi_pm_save(Device *d, StateWriter *w)
{
    AcpiPm *pm = (AcpiPm *)d;
    AcpiPmState s;

    LOCK_GUARD(&d->lock);
    s = pm->s;
    s.timer_ns = MIN((uint64_t)(clock_ns() - pm->epoch_ns), TIMER_NS_MAX);
    state_put(w, d->id, &acpi_pm_state_table, &s);
}

/* The timer goes on from where it stood, as the guest's other clocks do.  What holds an
 * event says so again when it is resumed. */
static bool acpi_pm_load(Device *d, StateReader *r, GError **error)
{
    AcpiPm *pm = (AcpiPm *)d;

    LOCK_GUARD(&d->lock);
    if (!state_get(r, d->id, &acpi_pm_state_table, &pm->s, error))
        return false;
    pm->epoch_ns = clock_ns() - (int64_t)pm->s.timer_ns;
    return true;
}

static void acpi_pm_release(Device *d)
{
    AcpiPm *pm = (AcpiPm *)d;

    bus_unmap(pm->pio, &pm->pm);
    bus_unmap(pm->pio, &pm->gpe);
    bus_unmap(pm->pio, &pm->smi);
    bus_unmap(pm->pio, &pm->reset);
    ioloop_timer_cancel(&pm->timer);
    irq_set(&pm->sci, false);
    device_finish(d);
    g_free(pm);
}

static const DeviceOps acpi_pm_ops = {
    .name = "acpi-pm",
    .reset = acpi_pm_reset,
    .resume = acpi_pm_resume,
    .release = acpi_pm_release,
    .save = acpi_pm_save,
    .load = acpi_pm_load,
};

Device *acpi_pm_new(Bus *pio, IrqController *ic, unsigned gsi, IoLoop *main,
                    const PlatformEvents *events)
{
    AcpiPm *pm = g_new0(AcpiPm, 1);
    Device *d = &pm->dev;

    device_init(d, &acpi_pm_ops, "acpi-pm");
    irq_connect(&pm->sci, ic, gsi);
    pm->pio = pio;
    pm->main = main;
    pm->events = events;
    pm->rearm = (IoPost){.fn = on_rearm, .opaque = pm};
    pm->pm = (BusRegion){.dev = d, .ops = &pm_ops, .size = PM_SIZE};
    pm->gpe = (BusRegion){.dev = d, .ops = &gpe_ops, .size = ACPI_GPE0_LEN};
    pm->smi = (BusRegion){.dev = d, .ops = &smi_ops, .size = 1};
    pm->reset = (BusRegion){.dev = d, .ops = &reset_ops, .size = 1};
    acpi_pm_reset(d);
    bus_map(pio, &pm->pm, ACPI_PM_BASE);
    bus_map(pio, &pm->gpe, ACPI_GPE0);
    bus_map(pio, &pm->smi, ACPI_SMI_CMD);
    bus_map(pio, &pm->reset, ACPI_RESET_PORT);
    return d;
}
