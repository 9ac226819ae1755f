/* Seconds since 1970 and the proleptic Gregorian calendar, UTC.  The C library's own
 * functions are not used: they may open the time zone's file, which a sandboxed monitor
 * cannot. */
#pragma once

#include <stdint.h>

enum { SECONDS_PER_DAY = 86400 };

typedef struct Calendar {
    unsigned year, month, day; /* month and day from 1 */
    unsigned hour, minute, second;
    unsigned weekday; /* 0: Sunday */
} Calendar;

/* Years are counted from March, so that the leap day is a year's last: month m (0: March)
 * begins on day (153 m + 2) / 5.  Days are counted from 0000-03-01. */
enum { DAYS_TO_1970 = 719468, DAYS_PER_400_YEARS = 146097 };

static inline int64_t calendar_leap_days(int64_t year)
{
    return year / 4 - year / 100 + year / 400;
}

/* Fields out of range count on from the next greater one. */
static inline int64_t calendar_to_seconds(const Calendar *c)
{
    int64_t months = (int64_t)c->year * 12 + c->month - 3, year, days;

    if (months < 0) /* before March of year 0: nowhere near any clock */
        months = 0;
    year = months / 12;
    days = year * 365 + calendar_leap_days(year) + (153 * (months % 12) + 2) / 5 +
           c->day - 1 - DAYS_TO_1970;
    return days * SECONDS_PER_DAY + (int64_t)c->hour * 3600 + c->minute * 60 + c->second;
}

static inline Calendar calendar_from_seconds(int64_t seconds) /* >= 0 */
{
    int64_t left = seconds % SECONDS_PER_DAY;
    int64_t days = seconds / SECONDS_PER_DAY + DAYS_TO_1970;
    int64_t year = days * 400 / DAYS_PER_400_YEARS + 1, day, month;

    while (year * 365 + calendar_leap_days(year) > days) /* twice at most */
        year--;
    day = days - year * 365 - calendar_leap_days(year);
    month = (5 * day + 2) / 153;
    return (Calendar){
        .year = year + (month >= 10),
        .month = month >= 10 ? month - 9 : month + 3,
        .day = day - (153 * month + 2) / 5 + 1,
        .hour = left / 3600,
        .minute = left / 60 % 60,
        .second = left % 60,
        .weekday = (days + 3) % 7,
    };
}
