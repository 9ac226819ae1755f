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
#include <time.h>

#include "devices/platform.h"
#include "devices/regs.h"
#include "devices/rtc_calendar.h"
#include "devices/state_private.h"
#include "util/bits.h"

enum { INDEX_PORT = 0x70, RTC_PORTS = 2, CMOS_SIZE = 128 };

/* Data sheet, figure 10; century and the rest as PC firmware has them. */
enum {
    SECONDS = 0,
    SECONDS_ALARM = 1,
    MINUTES = 2,
    MINUTES_ALARM = 3,
    HOURS = 4,
    HOURS_ALARM = 5,
    WEEKDAY = 6,
    DAY = 7,
    MONTH = 8,
    YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
    EQUIPMENT = 0x14,
    BASE_MEMORY = 0x15,
    EXTENDED_MEMORY = 0x17,
    CHECKSUM_FIRST = 0x10,
    CHECKSUM = 0x2e,
    EXTENDED_MEMORY_2 = 0x30,
    CENTURY = 0x32,
    MEMORY_ABOVE_16M = 0x34,
    MEMORY_ABOVE_4G = 0x5b,
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_RATE = 0x0f, A_DEFAULT = 0x26 };
enum { A_DIVIDER_RESET = 0x60 }; /* 110 and 111 hold the divider chain */
enum { B_SET = 0x80, B_BINARY = 4, B_24H = 2 };
enum { FLAG_PERIODIC = 0x40, FLAG_ALARM = 0x20, FLAG_UPDATE = 0x10, FLAG_ANY = 0x80 };
enum { FLAGS = FLAG_PERIODIC | FLAG_ALARM | FLAG_UPDATE }; /* in C; the same bits in B */
enum { D_VALID = 0x80 };
enum { PM = 0x80, DONT_CARE = 0xc0 };

/* Time is counted in ticks of 2^-20 s: the periods of a 32768 Hz clock are whole numbers
 * of them, and 64 bits hold any year that the registers can. */
#define SECOND    (1ll << 20)
#define NEVER     INT64_MAX
#define CLOCK_MAX (1ll << 60) /* more than any year that the registers can show */
#define UIP_TICKS (2228 * SECOND / 1000000) /* t_BUC + t_UC: data sheet, table 5 */

typedef struct RtcState { /* guest-visible */
    uint8_t cmos[CMOS_SIZE];
    uint8_t index;
    int64_t offset; /* guest's clock minus the host's */
    int64_t seen;   /* guest's clock at the last catch-up */
} RtcState;

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

static int64_t host_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * SECOND + t.tv_nsec * SECOND / 1000000000;
}

/* Rounded up, so that a timer does not fire before its event. */
static int64_t ticks_to_ns(int64_t ticks)
{
    return ticks / SECOND * 1000000000 + (ticks % SECOND + 1) * 1000000000 / SECOND;
}

/* ---- the time registers ---------------------------------------------------- */

static bool is_halted(const Rtc *r)
{
    const uint8_t *cmos = r->s.cmos;

    return (cmos[REG_B] & B_SET) || (cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static int64_t guest_clock(const Rtc *r)
{
    return CLAMP(host_clock() + r->s.offset, 0,
                 CLOCK_MAX); /* the host's may be set back */
}

static uint8_t encode(const Rtc *r, unsigned value)
{
    return r->s.cmos[REG_B] & B_BINARY ? value : value / 10 % 10 << 4 | value % 10;
}

static unsigned decode(const Rtc *r, uint8_t byte)
{
    return r->s.cmos[REG_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hours(const Rtc *r, unsigned hours)
{
    if (r->s.cmos[REG_B] & B_24H)
        return encode(r, hours);
    return encode(r, hours % 12 ? hours % 12 : 12) | (hours >= 12 ? PM : 0);
}

static unsigned decode_hours(const Rtc *r, uint8_t byte)
{
    if (r->s.cmos[REG_B] & B_24H)
        return decode(r, byte);
    return decode(r, byte & ~PM) % 12 + (byte & PM ? 12 : 0);
}

/* What the time registers show at `clock` goes into the CMOS. */
static void registers_store(Rtc *r, int64_t clock)
{
    uint8_t *cmos = r->s.cmos;
    Calendar c = calendar_from_seconds(clock / SECOND);

    cmos[SECONDS] = encode(r, c.second);
    cmos[MINUTES] = encode(r, c.minute);
    cmos[HOURS] = encode_hours(r, c.hour);
    cmos[WEEKDAY] = encode(r, c.weekday + 1);
    cmos[DAY] = encode(r, c.day);
    cmos[MONTH] = encode(r, c.month);
    cmos[YEAR] = encode(r, c.year % 100);
    cmos[CENTURY] = encode(r, c.year / 100);
}

/* The guest may have written anything: a 77th month counts on from the year. */
static int64_t registers_seconds(const Rtc *r)
{
    const uint8_t *cmos = r->s.cmos;
    Calendar c = {
        .year = decode(r, cmos[CENTURY]) * 100 + decode(r, cmos[YEAR]),
        .month = decode(r, cmos[MONTH]),
        .day = decode(r, cmos[DAY]),
        .hour = decode_hours(r, cmos[HOURS]),
        .minute = decode(r, cmos[MINUTES]),
        .second = decode(r, cmos[SECONDS]),
    };

    return MAX(calendar_to_seconds(&c), 0);
}

/* From now on the clock shows what the registers say, `fraction` into that second. */
static void clock_set(Rtc *r, int64_t fraction)
{
    r->s.seen = registers_seconds(r) * SECOND + fraction;
    r->s.offset = r->s.seen - host_clock();
}

static bool is_time(unsigned index)
{
    return index == CENTURY || (index <= YEAR && index != SECONDS_ALARM &&
                                index != MINUTES_ALARM && index != HOURS_ALARM);
}

/* ---- flags and interrupts -------------------------------------------------- */

/* Ticks between periodic interrupts; 0: off.  Rates 1 and 2 of the 32 kHz time base are
 * those of 8 and 9 (data sheet, table 3). */
static int64_t period(const Rtc *r)
{
    unsigned rate = r->s.cmos[REG_A] & A_RATE;

    if (!rate || (r->s.cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET)
        return 0;
    return SECOND >> 16 << (rate <= 2 ? rate + 7 : rate);
}

enum { ALARM_ANY = -1, ALARM_NEVER = -2 };

/* The number that an alarm register waits for.  The chip compares bytes, so a byte that
 * no time is written as never matches. */
static int alarm_number(const Rtc *r, unsigned index)
{
    uint8_t byte = r->s.cmos[index];
    bool hours = index == HOURS_ALARM;
    unsigned n = hours ? decode_hours(r, byte) : decode(r, byte);

    if (byte >= DONT_CARE)
        return ALARM_ANY;
    if (n >= (hours ? 24 : 60) || byte != (hours ? encode_hours(r, n) : encode(r, n)))
        return ALARM_NEVER;
    return n;
}

static bool alarm_matches(int wanted, unsigned now)
{
    return wanted == ALARM_ANY || wanted == (int)now;
}

/* The first second after `second` at which the alarm goes off; -1: never.  The walk by
 * hours, minutes and seconds takes each at most twice round. */
static int64_t next_alarm(const Rtc *r, int64_t second)
{
    int hour = alarm_number(r, HOURS_ALARM), minute = alarm_number(r, MINUTES_ALARM);
    int sec = alarm_number(r, SECONDS_ALARM);
    int64_t at = second + 1, end = at + SECONDS_PER_DAY;

    if (hour == ALARM_NEVER || minute == ALARM_NEVER || sec == ALARM_NEVER)
        return -1;
    while (at < end) {
        if (!alarm_matches(hour, at / 3600 % 24))
            at += 3600 - at % 3600;
        else if (!alarm_matches(minute, at / 60 % 60))
            at += 60 - at % 60;
        else if (!alarm_matches(sec, at % 60))
            at++;
        else
            return at;
    }
    return -1;
}

static bool crossed(int64_t from, int64_t to, int64_t step)
{
    return step && from / step != to / step;
}

/* Sets the flags for what has happened by now. */
static void catch_up(Rtc *r)
{
    uint8_t *cmos = r->s.cmos;
    int64_t was = r->s.seen, now = guest_clock(r), alarm;

    if (now < was)
        was = now; /* the host's clock was set back */
    r->s.seen = now;
    if (crossed(was, now, period(r)))
        cmos[REG_C] |= FLAG_PERIODIC;
    if (is_halted(r) || !crossed(was, now, SECOND))
        return;
    cmos[REG_C] |= FLAG_UPDATE;
    alarm = next_alarm(r, was / SECOND);
    if (alarm >= 0 && alarm <= now / SECOND)
        cmos[REG_C] |= FLAG_ALARM;
}

/* When the first of the enabled, not yet pending interrupts comes: guest's clock. */
static int64_t next_event(const Rtc *r)
{
    const uint8_t *cmos = r->s.cmos;
    uint8_t awaited = cmos[REG_B] & ~cmos[REG_C];
    int64_t now = r->s.seen, next = NEVER, alarm;

    if ((awaited & FLAG_PERIODIC) && period(r))
        next = (now / period(r) + 1) * period(r);
    if ((awaited & FLAG_UPDATE) && !is_halted(r))
        next = MIN(next, (now / SECOND + 1) * SECOND);
    if ((awaited & FLAG_ALARM) && !is_halted(r)) {
        alarm = next_alarm(r, now / SECOND);
        if (alarm >= 0)
            next = MIN(next, alarm * SECOND);
    }
    return next;
}

/* Call after any change: the line is a function of B and C, the timer of those and the
 * clock.  Only the main thread touches the timer, so it is told. */
static void update(Rtc *r)
{
    uint8_t *cmos = r->s.cmos;
    int64_t next, wanted;

    catch_up(r);
    cmos[REG_C] &= ~FLAG_ANY;
    if (cmos[REG_C] & cmos[REG_B] & FLAGS)
        cmos[REG_C] |= FLAG_ANY;
    irq_set(&r->irq, cmos[REG_C] & FLAG_ANY);

    next = next_event(r);
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
    left = r->wanted - host_clock();
    left = CLAMP(left, 0, SECONDS_PER_DAY * SECOND); /* too early is put right then */
    ioloop_timer(r->main, &r->timer, clock_ns() + ticks_to_ns(left), on_timer, r);
}

/* ---- register accesses ----------------------------------------------------- */

static uint8_t read_a(const Rtc *r)
{
    bool soon = r->s.seen % SECOND >= SECOND - UIP_TICKS;

    return r->s.cmos[REG_A] | (soon && !is_halted(r) ? A_UIP : 0);
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
    if (is_time(index) && !is_halted(r))
        registers_store(r, r->s.seen);
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
    bool was_halted = is_halted(r);
    bool was_held = (r->s.cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;

    if (!was_halted)
        registers_store(r, r->s.seen); /* in the format that B has until now */
    if (index == REG_B && value & B_SET)
        value &= ~FLAG_UPDATE; /* SET also clears UIE */
    r->s.cmos[index] = index == REG_A ? value & ~A_UIP : value;
    if (was_held && (r->s.cmos[REG_A] & A_DIVIDER_RESET) != A_DIVIDER_RESET) {
        r->s.seen += SECOND / 2 - r->s.seen % SECOND; /* also while SET still halts it */
        r->s.offset = r->s.seen - host_clock();
    }
    if (was_halted && !is_halted(r))
        clock_set(r, r->s.seen % SECOND);
}

static void write_register(Rtc *r, unsigned index, uint8_t value)
{
    update(r);
    if (index == REG_A || index == REG_B) {
        write_control(r, index, value);
    } else if (is_time(index) && !is_halted(r)) {
        registers_store(r, r->s.seen);
        r->s.cmos[index] = value;
        clock_set(r, r->s.seen % SECOND);
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

/* ---- life ------------------------------------------------------------------ */

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
    if (is_halted(r)) { /* as firmware does, lest the clock stand still for ever */
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
    r->s.seen = guest_clock(r);
    r->region = (BusRegion){.dev = &r->dev, .ops = &rtc_bus_ops, .size = RTC_PORTS};
    bus_map(pio, &r->region, INDEX_PORT);
    return &r->dev;
}
