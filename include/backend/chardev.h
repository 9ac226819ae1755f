/* Where a serial port or console goes on the host: standard input and output, a
 * pseudo-terminal, a file, a unix socket, or nowhere.
 *
 * Output goes through a bounded ring, so that a slow reader holds up the guest's device
 * (which sees a busy transmitter), never a thread, and costs no memory.  Input is offered
 * only as far as the device has room for it.
 *
 * chardev_write() and chardev_accept_input() may be called on any thread; everything
 * else, and the handlers, belong to the thread of the loop given to chardev_open().  The
 * ring's lock is a leaf; handlers run without it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "core/param.h"
#include "state/state.h"
#include "util/error.h"
#include "util/ioloop.h"

typedef struct Chardev Chardev;

typedef enum {
    CHARDEV_UNSET, /* zeroed options: nowhere */
    CHARDEV_NONE,
    CHARDEV_STDIO,
    CHARDEV_PTY
} ChardevType;

typedef struct ChardevOptions {
    int type;     /* bare: stdio, pty, none */
    char *file;   /* file=PATH: output only, appended */
    char *socket; /* socket=PATH: a unix socket we listen on; one client at a time */
    char *log;    /* log=PATH: with a socket, a bounded log of all that is said
                     (util/logfile.h); a new client is told the last of it first */
} ChardevOptions;

extern const char *const chardev_type_names[];

/* The keys of ChardevOptions, for a device's own table to include, whose check() then
 * calls chardev_options_check(). */
#define CHARDEV_PARAMS(type_, member)                                                    \
    {.key = "type",                                                                      \
     .type = PARAM_ENUM,                                                                 \
     .offset = offsetof(type_, member.type),                                             \
     .choices = chardev_type_names,                                                      \
     .min = CHARDEV_NONE,                                                                \
     .help = "standard input and output, a new pseudo-terminal, or nowhere"},            \
        {.key = "file",                                                                  \
         .type = PARAM_PATH,                                                             \
         .offset = offsetof(type_, member.file),                                         \
         .arg = "FILE",                                                                  \
         .help = "append output to a file; there is no input"},                          \
        {.key = "socket",                                                                \
         .type = PARAM_PATH,                                                             \
         .offset = offsetof(type_, member.socket),                                       \
         .arg = "PATH",                                                                  \
         .help = "listen on a unix socket, for one client at a time"},                   \
    {                                                                                    \
        .key = "log", .type = PARAM_PATH, .offset = offsetof(type_, member.log),         \
        .arg = "FILE",                                                                   \
        .help = "with socket: log output to a file of 1 MiB, and FILE.1 before it"       \
    }

extern const ParamTable chardev_params; /* ChardevOptions; one of type, file, socket */
bool chardev_options_check(const ChardevOptions *options, GError **error);

/* Events other than bytes. */
typedef enum {
    CHARDEV_OPENED, /* a reader is there (a client connected, the pty was opened) */
    CHARDEV_CLOSED,
    CHARDEV_BREAK, /* Ctrl-A b on a terminal */
} ChardevEvent;

typedef struct ChardevHandlers {
    size_t (*room)(void *opaque); /* bytes of input the device can take now */
    void (*input)(void *opaque, const uint8_t *buf, size_t len);
    void (*drained)(
        void *opaque); /* the output ring has room again after a short write */
    void (*event)(void *opaque, ChardevEvent event);
    void (*resized)(void *opaque); /* the terminal's size changed; see chardev_size() */
} ChardevHandlers;                 /* each may be NULL; without room() no input is read */

/* `id` is its name in what is logged; errors are left to the caller to prefix with it. */
Chardev *chardev_open(const ChardevOptions *options, const char *id, IoLoop *loop,
                      GError **error);
void chardev_set_handlers(Chardev *c, const ChardevHandlers *handlers, void *opaque);

/* Any thread, never blocks: queues up to len bytes and returns how many.  After a short
 * count, drained() is called when there is room. */
size_t chardev_write(Chardev *c, const void *buf, size_t len);

/* Columns and rows of the terminal that output goes to; false if it is none. */
bool chardev_size(const Chardev *c, uint16_t *columns, uint16_t *rows);

/* Any thread.  Where it goes, as QMP's query-chardev has it: "pty:/dev/pts/3", "stdio",
 * "file", "unix:PATH,server=on", "null". */
const char *chardev_filename(const Chardev *c);

/* Any thread: the device has room for input again, after room() was 0. */
void chardev_accept_input(Chardev *c);

/* The loop's thread.  What the guest wrote that no reader has taken, and what was read
 * that the guest has not, as a section of that name.  load: into a chardev that was just
 * opened (NULL: to nowhere); it comes to nothing before chardev_restored(), which is for
 * a resume, and harmless if nothing was loaded. Connections are not saved: a socket
 * listens, a pty is a new one, a file is appended to.
 */
void chardev_save(Chardev *c, const char *section, StateWriter *w);
bool chardev_load(Chardev *c, const char *section, StateReader *r, GError **error);
void chardev_restored(Chardev *c);

/* Writes out what is queued, waiting up to timeout_ms for a slow reader, then closes.
 * NULL is fine. */
void chardev_close(Chardev *c, int timeout_ms);

/* The keys after Ctrl-A; ends with a NULL meaning. */
typedef struct ChardevKey {
    char key;
    const char *meaning;
} ChardevKey;
extern const ChardevKey chardev_keys[];

/* What the keys after Ctrl-A do, for a stdio chardev whose input is a terminal.  Called
 * on the loop's thread: 'x' quit, 'p' power button, 'n' NMI; 'h', 'b' and 'a' are the
 * chardev's own.  One for the process, set before chardev_open(). */
void chardev_set_escape(void (*fn)(void *opaque, char key), void *opaque);

/* Puts the terminal back as it was found; safe in a signal handler, harmless if nothing
 * was changed.  chardev_close() and exit() do it too. */
void chardev_restore_terminal(void);
