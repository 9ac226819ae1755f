/* The real-time clock without its device: the time that the registers show, alarms, and
 * which flags are due.  Pure functions of RtcState and the host's clock; whoever calls
 * holds the device's lock. */
#include <time.h>

#include "devices/rtc_calendar.h"
#include "devices/rtc_private.h"
#include "util/bits.h"

int64_t rtc_host_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * SECOND + t.tv_nsec * SECOND / 1000000000;
}

/* ---- the time registers -------------------------------------------------------- */

bool rtc_is_held(const RtcState *s)
{
    return (s->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

bool rtc_is_halted(const RtcState *s)
{
    return (s->cmos[REG_B] & B_SET) || rtc_is_held(s);
}

int64_t rtc_guest_clock(const RtcState *s)
{
    return CLAMP(rtc_host_clock() + s->offset, 0,
                 CLOCK_MAX); /* the host's may be set back */
}

static uint8_t encode(const RtcState *s, unsigned value)
{
    return s->cmos[REG_B] & B_BINARY ? value : value / 10 % 10 << 4 | value % 10;
}

static unsigned decode(const RtcState *s, uint8_t byte)
{
    return s->cmos[REG_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hours(const RtcState *s, unsigned hours)
{
    if (s->cmos[REG_B] & B_24H)
        return encode(s, hours);
    return encode(s, hours % 12 ? hours % 12 : 12) | (hours >= 12 ? PM : 0);
}

static unsigned decode_hours(const RtcState *s, uint8_t byte)
{
    if (s->cmos[REG_B] & B_24H)
        return decode(s, byte);
    return decode(s, byte & ~PM) % 12 + (byte & PM ? 12 : 0);
}

void rtc_registers_store(RtcState *s, int64_t clock)
{
    uint8_t *cmos = s->cmos;
    Calendar c = calendar_from_seconds(clock / SECOND);

    cmos[SECONDS] = encode(s, c.second);
    cmos[MINUTES] = encode(s, c.minute);
    cmos[HOURS] = encode_hours(s, c.hour);
    cmos[WEEKDAY] = encode(s, c.weekday + 1);
    cmos[DAY] = encode(s, c.day);
    cmos[MONTH] = encode(s, c.month);
    cmos[YEAR] = encode(s, c.year % 100);
    cmos[CENTURY] = encode(s, c.year / 100);
}

/* The guest may have written anything: a 77th month counts on from the year. */
static int64_t registers_seconds(const RtcState *s)
{
    const uint8_t *cmos = s->cmos;
    Calendar c = {
        .year = decode(s, cmos[CENTURY]) * 100 + decode(s, cmos[YEAR]),
        .month = decode(s, cmos[MONTH]),
        .day = decode(s, cmos[DAY]),
        .hour = decode_hours(s, cmos[HOURS]),
        .minute = decode(s, cmos[MINUTES]),
        .second = decode(s, cmos[SECONDS]),
    };

    return MAX(calendar_to_seconds(&c), 0);
}

void rtc_clock_set(RtcState *s, int64_t fraction)
{
    s->seen = registers_seconds(s) * SECOND + fraction;
    s->offset = s->seen - rtc_host_clock();
}

bool rtc_is_time(unsigned index)
{
    return index == CENTURY || (index <= YEAR && index != SECONDS_ALARM &&
                                index != MINUTES_ALARM && index != HOURS_ALARM);
}

/* ---- flags and interrupts ------------------------------------------------------ */

/* Ticks between periodic interrupts; 0: off.  Rates 1 and 2 of the 32 kHz time base are
 * those of 8 and 9 (data sheet, table 3). */
static int64_t period(const RtcState *s)
{
    unsigned rate = s->cmos[REG_A] & A_RATE;

    if (!rate || rtc_is_held(s))
        return 0;
    return SECOND >> 16 << (rate <= 2 ? rate + 7 : rate);
}

enum { ALARM_ANY = -1, ALARM_NEVER = -2 };

/* The number that an alarm register waits for.  The chip compares bytes, so a byte that
 * no time is written as never matches. */
static int alarm_number(const RtcState *s, unsigned index)
{
    uint8_t byte = s->cmos[index];
    bool hours = index == HOURS_ALARM;
    unsigned n = hours ? decode_hours(s, byte) : decode(s, byte);

    if (byte >= DONT_CARE)
        return ALARM_ANY;
    if (n >= (hours ? 24 : 60) || byte != (hours ? encode_hours(s, n) : encode(s, n)))
        return ALARM_NEVER;
    return n;
}

static bool alarm_matches(int wanted, unsigned now)
{
    return wanted == ALARM_ANY || wanted == (int)now;
}

/* The first second after `second` at which the alarm goes off; -1: never.  The walk by
 * hours, minutes and seconds takes each at most twice round. */
static int64_t next_alarm(const RtcState *s, int64_t second)
{
    int hour = alarm_number(s, HOURS_ALARM), minute = alarm_number(s, MINUTES_ALARM);
    int sec = alarm_number(s, SECONDS_ALARM);
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

void rtc_catch_up(RtcState *s)
{
    uint8_t *cmos = s->cmos;
    int64_t was = s->seen, now = rtc_guest_clock(s), alarm;

    if (now < was)
        was = now; /* the host's clock was set back */
    s->seen = now;
    if (crossed(was, now, period(s)))
        cmos[REG_C] |= FLAG_PERIODIC;
    if (rtc_is_halted(s) || !crossed(was, now, SECOND))
        return;
    cmos[REG_C] |= FLAG_UPDATE;
    alarm = next_alarm(s, was / SECOND);
    if (alarm >= 0 && alarm <= now / SECOND)
        cmos[REG_C] |= FLAG_ALARM;
}

int64_t rtc_next_event(const RtcState *s)
{
    const uint8_t *cmos = s->cmos;
    uint8_t awaited = cmos[REG_B] & ~cmos[REG_C];
    int64_t now = s->seen, next = NEVER, alarm;

    if ((awaited & FLAG_PERIODIC) && period(s))
        next = (now / period(s) + 1) * period(s);
    if ((awaited & FLAG_UPDATE) && !rtc_is_halted(s))
        next = MIN(next, (now / SECOND + 1) * SECOND);
    if ((awaited & FLAG_ALARM) && !rtc_is_halted(s)) {
        alarm = next_alarm(s, now / SECOND);
        if (alarm >= 0)
            next = MIN(next, alarm * SECOND);
    }
    return next;
}
