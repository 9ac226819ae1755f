/* Lines on stderr; see util/log.h.  Each is one write(2), so that lines of two threads
 * never mix, and a terminal in raw mode gets the carriage return it then needs. */
#include "util/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

static int level_shown = LOG_INFO; /* atomic */

void log_set_level(LogLevel level)
{
    __atomic_store_n(&level_shown, (int)level, __ATOMIC_RELAXED);
}

static bool terminal_is_raw(void)
{
    struct termios t;

    return tcgetattr(STDERR_FILENO, &t) == 0 && !(t.c_oflag & OPOST);
}

void log_line(LogLevel level, const char *fmt, ...)
{
    static const char *const prefix[] = {"error: ", "warning: ", "", ""};
    char line[1024];
    size_t n, room = sizeof(line) - 3;
    va_list ap;
    int len;

    if ((int)level > __atomic_load_n(&level_shown, __ATOMIC_RELAXED))
        return;
    n = (size_t)snprintf(line, room, "hutch: %s", prefix[level]);
    va_start(ap, fmt);
    len = vsnprintf(line + n, room - n, fmt, ap);
    va_end(ap);
    n = MIN(n + (size_t)MAX(len, 0), room - 1);
    if (terminal_is_raw())
        line[n++] = '\r';
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nobody is left to tell */
}

bool log_limit(LogLimit *limit)
{
    uint64_t count = __atomic_fetch_add(&limit->count, 1, __ATOMIC_RELAXED);
    int64_t now = g_get_monotonic_time();
    int64_t next = __atomic_load_n(&limit->next_us, __ATOMIC_RELAXED);

    if (count < LOG_BURST)
        return true;
    return now >= next &&
           __atomic_compare_exchange_n(&limit->next_us, &next, now + G_USEC_PER_SEC,
                                       false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void thread_set_name(const char *name)
{
    char cut[16] = {0};

    memcpy(cut, name, strnlen(name, sizeof(cut) - 1));
    prctl(PR_SET_NAME, cut);
}
