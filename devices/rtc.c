/* MC146818 real-time clock and CMOS RAM (Motorola MC146818A data sheet, 1984), index at
 * port 0x70, data at 0x71, with the RAM laid out as PC firmware does.
 *
 * The clock is the host's CLOCK_REALTIME plus an offset, which changes when the guest
 * sets the time.  While updates are halted the registers are plain bytes; while they run,
 * they are worked out when read.  So are the flags of register C: rtc_catch_up() asks
 * what has happened since it was last called.
 *
 * A host timer runs only for an interrupt that is enabled and not yet pending, so the
 * guest gets one when it has acknowledged the last: it cannot make us run faster than
 * it does itself.
 *
 * Saved is the offset from the host's clock: like one with a battery, the clock shows the
 * right time after a restore, and an alarm that was missed goes off.
 *
 * Registers: vCPU threads, under the device's lock.  The timer runs on the main loop and
 * takes it. */
#include "devices/regs.h"
#include "devices/rtc_calendar.h"
#include "devices/rtc_private.h"
#include "devices/state_private.h"
#include "util/bits.h"

enum { INDEX_PORT = 0x70, RTC_PORTS = 2 };

static const StateField rtc_fields[] = {
    STATE_INTS(RtcState, cmos, 1, U8, .help = "registers and CMOS RAM"),
    STATE_FIELD(RtcState, index, 2, U8, .max = CMOS_SIZE - 1,
                .help = "register selected"),
    STATE_HOLE(RtcState, index, offset),
    STATE_FIELD(RtcState, offset, 3, I64, .help = "from the host's clock, in 2^-20 s"),
    STATE_FIELD(RtcState, seen, 4, U64, .max = CLOCK_MAX, .help = "clock, in 2^-20 s"),
    {},
};

static bool rtc_check(const void *p, GError **error)
{
    const RtcState *s = p;

    if (s->offset > CLOCK_MAX || s->offset < -CLOCK_MAX)
        return fail(error, VM_ERROR_CORRUPT, "field 'offset': no clock is so far off");
    if ((s->cmos[REG_A] & A_UIP) || (s->cmos[REG_C] & ~(FLAGS | FLAG_ANY)) ||
        s->cmos[REG_D] != D_VALID)
        return fail(error, VM_ERROR_CORRUPT,
                    "field 'cmos': registers A, C and D are 0x%x, 0x%x and 0x%x",
                    s->cmos[REG_A], s->cmos[REG_C], s->cmos[REG_D]);
    return true;
}

const StateTable rtc_state_table = {.name = "rtc",
                                    .version = 1,
                                    .size = sizeof(RtcState),
                                    .fields = rtc_fields,
                                    .check = rtc_check};

typedef struct Rtc {
    Device dev;
    RtcState s;
    BusRegion region;
    Bus *pio;
    IrqLine irq;
    IoLoop *main;
    IoTimer timer; /* the main loop's */
    IoPost rearm;
    int64_t wanted; /* host's clock: when the timer should fire; 0: not at all */
    uint64_t ram_below_4g, ram_above_4g;
} Rtc;

/* ---- the line and the timer ---------------------------------------------------- */

/* Rounded up, so that a timer does not fire before its event. */
static int64_t ticks_to_ns(int64_t ticks)
{
    return ticks / SECOND * 1000000000 + (ticks % SECOND + 1) * 1000000000 / SECOND;
}

/* Call after any change: the line is a function of B and C, the timer of those and the
 * clock.  Only the main thread touches the timer, so it is told. */
static void update(Rtc *r)
{
    uint8_t *cmos = r->s.cmos;
    int64_t next, wanted;

    rtc_catch_up(&r->s);
    cmos[REG_C] &= ~FLAG_ANY;
    if (cmos[REG_C] & cmos[REG_B] & FLAGS)
        cmos[REG_C] |= FLAG_ANY;
    irq_set(&r->irq, cmos[REG_C] & FLAG_ANY);

    next = rtc_next_event(&r->s);
    wanted = next == NEVER ? 0 : next - r->s.offset;
    if (wanted == r->wanted)
        return;
    r->wanted = wanted;
    ioloop_post(r->main, &r->rearm);
}

static void on_timer(void *opaque)
{
    Rtc *r = opaque;

    LOCK_GUARD(&r->dev.lock);
    r->wanted = 0;
    update(r);
}

static void on_rearm(void *opaque)
{
    Rtc *r = opaque;
    int64_t left;

    LOCK_GUARD(&r->dev.lock);
    if (!r->wanted) {
        ioloop_timer_cancel(&r->timer);
        return;
    }
    left = r->wanted - rtc_host_clock();
    left = CLAMP(left, 0, SECONDS_PER_DAY * SECOND); /* too early is put right then */
    ioloop_timer(r->main, &r->timer, clock_ns() + ticks_to_ns(left), on_timer, r);
}

/* ---- register accesses --------------------------------------------------------- */

static uint8_t read_a(const Rtc *r)
{
    bool soon = r->s.seen % SECOND >= SECOND - UIP_TICKS;

    return r->s.cmos[REG_A] | (soon && !rtc_is_halted(&r->s) ? A_UIP : 0);
}

static uint8_t read_c(Rtc *r)
{
    uint8_t value = r->s.cmos[REG_C];

    r->s.cmos[REG_C] = 0;
    return value;
}

static uint8_t read_register(Rtc *r, unsigned index)
{
    uint8_t value;

    update(r);
    if (index == REG_A)
        return read_a(r);
    if (rtc_is_time(index) && !rtc_is_halted(&r->s))
        rtc_registers_store(&r->s, r->s.seen);
    if (index != REG_C)
        return r->s.cmos[index];
    value = read_c(r);
    update(r);
    return value;
}

/* Writes A or B and does what halting and resuming the clock mean: time stands still in
 * the registers, and goes on from them.  After the divider was held, the first update
 * comes half a second later (data sheet, "Divider control"). */
static void write_control(Rtc *r, unsigned index, uint8_t value)
{
    bool was_halted = rtc_is_halted(&r->s);
    bool was_held = rtc_is_held(&r->s);

    if (!was_halted)
        rtc_registers_store(&r->s, r->s.seen); /* in the format that B has until now */
    if (index == REG_B && value & B_SET)
        value &= ~FLAG_UPDATE; /* SET also clears UIE */
    r->s.cmos[index] = index == REG_A ? value & ~A_UIP : value;
    if (was_held && !rtc_is_held(&r->s)) {
        r->s.seen += SECOND / 2 - r->s.seen % SECOND; /* also while SET still halts it */
        r->s.offset = r->s.seen - rtc_host_clock();
    }
    if (was_halted && !rtc_is_halted(&r->s))
        rtc_clock_set(&r->s, r->s.seen % SECOND);
}

static void write_register(Rtc *r, unsigned index, uint8_t value)
{
    update(r);
    if (index == REG_A || index == REG_B) {
        write_control(r, index, value);
    } else if (rtc_is_time(index) && !rtc_is_halted(&r->s)) {
        rtc_registers_store(&r->s, r->s.seen);
        r->s.cmos[index] = value;
        rtc_clock_set(&r->s, r->s.seen % SECOND);
    } else if (index != REG_C && index != REG_D) {
        r->s.cmos[index] = value;
    }
    update(r);
}

/* The index cannot be read back on a PC. */
static uint8_t rtc_read8(Device *d, unsigned port)
{
    Rtc *r = (Rtc *)d;

    return port ? read_register(r, r->s.index) : 0xff;
}

static void rtc_write8(Device *d, unsigned port, uint8_t value)
{
    Rtc *r = (Rtc *)d;

    if (port)
        write_register(r, r->s.index, value);
    else
        r->s.index = value % CMOS_SIZE; /* bit 7 masks NMIs on the board */
}

static uint64_t rtc_read(Device *d, uint64_t offset, unsigned size)
{
    return regs_read(d, offset, size, RTC_PORTS, rtc_read8);
}

static void rtc_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    regs_write(d, offset, size, value, RTC_PORTS, rtc_write8);
}

static const BusOps rtc_bus_ops = {rtc_read, rtc_write};

/* ---- life ---------------------------------------------------------------------- */

/* Sizes as old software reads them: KiB below 640 KiB and above 1 MiB, then 64 KiB units
 * above 16 MiB and above 4 GiB. */
static void fill_cmos(Rtc *r)
{
    uint8_t *cmos = r->s.cmos;
    uint64_t low = r->ram_below_4g;
    uint64_t above_1m = low > MIB ? MIN((low - MIB) / KIB, 0xffff) : 0;
    uint64_t above_16m = low > 16 * MIB ? MIN((low - 16 * MIB) / (64 * KIB), 0xffff) : 0;
    unsigned sum = 0;

    store_le16(cmos + BASE_MEMORY, MIN(low / KIB, 640));
    store_le16(cmos + EXTENDED_MEMORY, above_1m);
    store_le16(cmos + EXTENDED_MEMORY_2, above_1m);
    store_le16(cmos + MEMORY_ABOVE_16M, above_16m);
    store_le(cmos + MEMORY_ABOVE_4G, MIN(r->ram_above_4g / (64 * KIB), 0xffffff), 3);
    cmos[EQUIPMENT] = 2; /* a numeric coprocessor; no diskettes */
    for (unsigned i = CHECKSUM_FIRST; i < CHECKSUM; i++)
        sum += cmos[i];
    cmos[CHECKSUM] = sum >> 8;
    cmos[CHECKSUM + 1] = sum;
}

/* The clock and the RAM have a battery: a reset only stops interrupts. */
static void rtc_reset(Device *d)
{
    Rtc *r = (Rtc *)d;

    LOCK_GUARD(&d->lock);
    update(r);
    if (rtc_is_halted(
            &r->s)) { /* as firmware does, lest the clock stand still for ever */
        write_control(r, REG_A, A_DEFAULT);
        write_control(r, REG_B, r->s.cmos[REG_B] & ~B_SET);
    }
    r->s.cmos[REG_B] &= ~FLAGS;
    r->s.cmos[REG_C] = 0;
    r->s.index = 0;
    update(r);
}

/* After a load the timer has to be armed. */
static void rtc_resume(Device *d)
{
    LOCK_GUARD(&d->lock);
    update((Rtc *)d);
}

static void rtc_save(Device *d, StateWriter *w)
{
    LOCK_GUARD(&d->lock);
    state_put(w, d->id, &rtc_state_table, &((Rtc *)d)->s);
}

static bool rtc_load(Device *d, StateReader *r, GError **error)
{
    Rtc *rtc = (Rtc *)d;

    LOCK_GUARD(&d->lock);
    if (!state_get(r, d->id, &rtc_state_table, &rtc->s, error))
        return false;
    irq_set(&rtc->irq, rtc->s.cmos[REG_C] & FLAG_ANY);
    return true;
}

static void rtc_release(Device *d)
{
    Rtc *r = (Rtc *)d;

    bus_unmap(r->pio, &r->region);
    ioloop_timer_cancel(&r->timer);
    irq_set(&r->irq, false);
    device_finish(d);
    g_free(r);
}

static const DeviceOps rtc_ops = {
    .name = "rtc",
    .reset = rtc_reset,
    .resume = rtc_resume,
    .release = rtc_release,
    .save = rtc_save,
    .load = rtc_load,
};

Device *rtc_new(Bus *pio, IrqController *ic, unsigned gsi, IoLoop *main,
                uint64_t ram_below_4g, uint64_t ram_above_4g)
{
    Rtc *r = g_new0(Rtc, 1);

    device_init(&r->dev, &rtc_ops, "rtc");
    irq_connect(&r->irq, ic, gsi);
    r->pio = pio;
    r->main = main;
    r->rearm = (IoPost){.fn = on_rearm, .opaque = r};
    r->ram_below_4g = ram_below_4g;
    r->ram_above_4g = ram_above_4g;
    fill_cmos(r);
    r->s.cmos[REG_A] = A_DEFAULT;
    r->s.cmos[REG_B] = B_24H;
    r->s.cmos[REG_D] = D_VALID;
    r->s.seen = rtc_guest_clock(&r->s);
    r->region = (BusRegion){.dev = &r->dev, .ops = &rtc_bus_ops, .size = RTC_PORTS};
    bus_map(pio, &r->region, INDEX_PORT);
    return &r->dev;
}
