/* Messages for the person at the terminal.  They go to stderr, one line each, prefixed
 * with "hutch: ", and where stderr is the journal's with the priority as it wants it
 * ("<3>").  Library code returns errors instead; these are for what has no caller
 * to return to.  Any thread may log. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

void log_set_level(LogLevel level);

/* Lines go to this log instead, which stays the caller's; NULL: to stderr again. */
struct LogFile;
void log_set_file(struct LogFile *file);
void log_line(LogLevel level, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* What a guest can provoke goes through a limit, so that it cannot fill the host's disk:
 * log_limit(&l) is true for the first LOG_BURST calls, then once a second. */
typedef struct LogLimit {
    uint64_t count;
    int64_t next_us;
} LogLimit;
enum { LOG_BURST = 5 };
bool log_limit(LogLimit *limit);

/* Names the calling thread for top(1), gdb and the log; at most 15 characters are kept.
 */
void thread_set_name(const char *name);
