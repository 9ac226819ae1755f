/* Lines on stderr; see util/log.h.  Each is one write(2), so that lines of two threads
 * never mix, and a terminal in raw mode gets the carriage return it then needs.  A line
 * that nobody reads is dropped: guests cause lines, and a thread that waited for a reader
 * could be neither paused nor ended. */
#include "util/log.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "util/lock.h"
#include "util/logfile.h"

enum { LINE_SIZE = 4096 /* as much as a pipe takes at once */, PATIENCE_MS = 250 };

static int level_shown = LOG_INFO; /* atomic */
static Lock file_lock = LOCK_INIT; /* guards what follows */
static LogFile *file;

void log_set_file(LogFile *f)
{
    LOCK_GUARD(&file_lock);
    file = f;
}

/* JOURNAL_STREAM is "DEVICE:INODE" of a stream to the journal (systemd.exec(5)), which
 * need not be our stderr any more. */
static bool is_journal(void)
{
    const char *stream = g_getenv("JOURNAL_STREAM");
    g_autofree char *ours = NULL;
    struct stat st;

    if (!stream || fstat(STDERR_FILENO, &st) < 0)
        return false;
    ours = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return g_str_equal(stream, ours);
}

void log_set_level(LogLevel level)
{
    __atomic_store_n(&level_shown, (int)level, __ATOMIC_RELAXED);
}

static bool terminal_is_raw(void)
{
    struct termios t;

    return tcgetattr(STDERR_FILENO, &t) == 0 && !(t.c_oflag & OPOST);
}

static bool has_reader(void)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

    return poll(&p, 1, PATIENCE_MS) > 0;
}

/* Names of files and what stands in them must not drive the terminal, nor pass for a line
 * of our own.  U+0080 to U+009F are control characters as well. */
static void tame(char *text)
{
    for (uint8_t *p = (uint8_t *)text; *p; p++) {
        if (*p == '\t')
            *p = ' ';
        else if (g_ascii_iscntrl(*p))
            *p = '?';
        else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

/* Of a text that is too long the middle is left out: the object stands at its beginning,
 * the way out at its end. */
static size_t put_text(char *out, size_t room, const char *text)
{
    static const char cut[] = " [...] ";
    size_t len = strlen(text), half = (room - strlen(cut)) / 2;

    if (len <= room) {
        memcpy(out, text, len);
        return len;
    }
    memcpy(out, text, half);
    memcpy(out + half, cut, strlen(cut));
    memcpy(out + half + strlen(cut), text + len - half, half);
    return 2 * half + strlen(cut);
}

/* False: there is no file to write to. */
static bool to_file(char *line, size_t n)
{
    LOCK_GUARD(&file_lock);
    if (!file)
        return false;
    line[n++] = '\n';
    logfile_write(file, line, n); /* nobody is left to tell */
    return true;
}

void log_line(LogLevel level, const char *fmt, ...)
{
    static const char *const prefix[] = {"error: ", "warning: ", "", ""};
    static const int priority[] = {3, 4, 6, 7}; /* sd-daemon(3) */
    g_autofree char *text = NULL;
    char line[LINE_SIZE];
    va_list ap;
    size_t n;

    if ((int)level > __atomic_load_n(&level_shown, __ATOMIC_RELAXED))
        return;
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    tame(text);
    n = is_journal() ? (size_t)snprintf(line, sizeof(line), "<%d>", priority[level]) : 0;
    n += (size_t)snprintf(line + n, sizeof(line) - n, "hutch: %s", prefix[level]);
    n += put_text(line + n, sizeof(line) - n - strlen("\r\n"), text);
    if (to_file(line, n))
        return;
    if (terminal_is_raw())
        line[n++] = '\r';
    line[n++] = '\n';
    if (!has_reader() || write(STDERR_FILENO, line, n) < 0)
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
