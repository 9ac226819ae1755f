/* The real-time clock as its files share it: its registers and its state.  rtc_clock.c
 * knows what the registers mean, rtc.c when the guest reads and writes them, and is
 * interrupted. */
#pragma once

#include "devices/platform.h"

enum { CMOS_SIZE = 128 };

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

/* Counted in ticks, as all time here. */
int64_t rtc_host_clock(void);
int64_t rtc_guest_clock(const RtcState *s);

bool rtc_is_halted(const RtcState *s); /* updates are: the registers are plain bytes */
bool rtc_is_held(const RtcState *s);   /* the divider chain is */

/* Is it one of the registers that show the time, alarms apart? */
bool rtc_is_time(unsigned index);
/* What the time registers show at `clock` goes into the CMOS. */
void rtc_registers_store(RtcState *s, int64_t clock);
/* From now on the clock shows what the registers say, `fraction` into that second. */
void rtc_clock_set(RtcState *s, int64_t fraction);

/* Sets the flags for what has happened by now. */
void rtc_catch_up(RtcState *s);
/* When the first of the enabled, not yet pending interrupts comes: guest's clock, or
 * NEVER. */
int64_t rtc_next_event(const RtcState *s);
