/* Standard input and output.  If input is a terminal it goes raw, and Ctrl-A is the key
 * that speaks to us instead of the guest.  Input may as well be closed, a pipe, a regular
 * file or /dev/null, and its end is not the end of the VM; a reader of stdout that goes
 * away does not end it either. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "src/chardev/chardev_private.h"
#include "util/log.h"

enum { CTRL_A = 1 };

typedef struct Stdio {
    bool terminal;
    bool prefixed;      /* Ctrl-A was the last key */
    bool restore_flags; /* we made a description non-blocking that others share */
} Stdio;

static Chardev *in_use;
static void (*escape_fn)(void *opaque, char key);
static void *escape_opaque;

void chardev_set_escape(void (*fn)(void *opaque, char key), void *opaque)
{
    escape_fn = fn;
    escape_opaque = opaque;
}

const ChardevKey chardev_keys[] = {
    {'x', "quit"},
    {'p', "press the guest's power button"},
    {'n', "send the guest a non-maskable interrupt"},
    {'b', "send a break on the serial line"},
    {'a', "send Ctrl-A itself"},
    {'h', "list these keys"},
    {0},
};

static void print_keys(void)
{
    for (const ChardevKey *k = chardev_keys; k->meaning; k++)
        log_info("Ctrl-A %c  %s", k->key, k->meaning);
}

/* What a key after Ctrl-A leaves for the guest: a byte, or -1. */
static int escaped(Chardev *c, uint8_t key)
{
    switch (key) {
    case CTRL_A:
    case 'a':
        return CTRL_A;
    case 'b':
        if (c->handlers && c->handlers->event)
            c->handlers->event(c->opaque, CHARDEV_BREAK);
        return -1;
    case 'x':
    case 'p':
    case 'n':
        if (escape_fn)
            escape_fn(escape_opaque, (char)key);
        return -1;
    default:
        print_keys();
        return -1;
    }
}

static size_t stdio_filter(Chardev *c, uint8_t *buf, size_t len)
{
    Stdio *s = c->backend;
    size_t out = 0;

    for (size_t i = 0; i < len; i++) {
        int byte = buf[i];

        if (s->prefixed) {
            s->prefixed = false;
            byte = escaped(c, buf[i]);
        } else if (byte == CTRL_A) {
            s->prefixed = true;
            byte = -1;
        }
        if (byte >= 0)
            buf[out++] = (uint8_t)byte;
    }
    return out;
}

static bool stdio_may_read(Chardev *c)
{
    return terminal_in_foreground();
}

static void stdio_kicked(Chardev *c)
{
    if (terminal_was_resized() && c->handlers && c->handlers->resized)
        c->handlers->resized(c->opaque);
}

/* stdout without blocking.  O_NONBLOCK belongs to the open file, which a shell and its
 * other programs share, so it is set on one of our own where the kernel gives us one. */
static int open_stdout(Stdio *s)
{
    struct stat st;
    int fd;

    if (fstat(STDOUT_FILENO, &st) < 0)
        return -1;
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        s->restore_flags = !(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK) &&
                           fd_set_nonblock(STDOUT_FILENO, true, NULL);
    }
    return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

static const ChardevOps terminal_ops;

static bool stdio_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    Stdio *s;

    if (in_use)
        return fail(error, VM_ERROR_BUSY,
                    "standard input and output are taken by %s already", in_use->id);
    s = c->backend = g_new0(Stdio, 1);
    in_use = c;
    if (isatty(STDIN_FILENO)) {
        if (!terminal_take(c, error))
            return false;
        s->terminal = true;
        c->ops = &terminal_ops;
    }
    chardev_attach(c, fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), open_stdout(s));
    return true;
}

static void stdio_close(Chardev *c)
{
    Stdio *s = c->backend;

    if (!s)
        return;
    if (s->terminal)
        terminal_release();
    if (s->restore_flags)
        fd_set_nonblock(STDOUT_FILENO, false, NULL);
    in_use = NULL;
    g_free(s);
}

const ChardevOps chardev_stdio_ops = {
    .name = "stdio", .open = stdio_open, .close = stdio_close};

static const ChardevOps terminal_ops = {.name = "terminal",
                                        .open = stdio_open,
                                        .close = stdio_close,
                                        .may_read = stdio_may_read,
                                        .filter = stdio_filter,
                                        .kicked = stdio_kicked};
