/* See control/ask.h.
 *
 * All is said to a monitor at once: capabilities and the command in one message, since
 * QMP answers in order.  Of what it says, the greeting and events are passed over, and
 * the second answer is the one.  Messages are lines, as ours end and contain no line's
 * end otherwise. */
#include "control/ask.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "control/place.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/unixsocket.h"

enum {
    AT_ONCE = 256, /* descriptors; the others come after these */
    MAX_ANSWER = 16 * 1024 * 1024,
};

typedef struct Talk {
    ControlAnswer *answer;
    int fd; /* -1: over */
    GString *in;
    unsigned answers; /* seen */
} Talk;

static void end_talk(Talk *t)
{
    fd_close(&t->fd);
    if (t->in)
        g_string_free(t->in, TRUE);
    t->in = NULL;
}

static void give_up(Talk *t, VmErrorCode code, const char *why)
{
    fail(&t->answer->error, code, "VM '%s': %s", t->answer->vm, why);
    end_talk(t);
}

/* ---- what it says ---------------------------------------------------------------------
 */

static void take_second(Talk *t, json_t *message)
{
    json_t *desc = json_object_get(json_object_get(message, "error"), "desc");

    t->answer->value = json_incref(json_object_get(message, "return"));
    if (t->answer->value)
        end_talk(t);
    else
        give_up(t, VM_ERROR_INVALID,
                json_is_string(desc) ? json_string_value(desc) : "it refused");
}

static void take_line(Talk *t, const char *line, size_t len)
{
    json_t *message = json_loadb(line, len, 0, NULL);
    bool refusal = json_object_get(message, "error") != NULL;

    if (!json_is_object(message))
        give_up(t, VM_ERROR_CORRUPT, "what it says is not QMP");
    else if (refusal || json_object_get(message, "return"))
        if (++t->answers == 2 || refusal)
            take_second(t, message);
    json_decref(message);
}

static void take_lines(Talk *t)
{
    char *end;

    while (t->in && (end = memchr(t->in->str, '\n', t->in->len))) {
        size_t len = (size_t)(end - t->in->str);

        take_line(t, t->in->str, len);
        if (t->in)
            g_string_erase(t->in, 0, (gssize)len + 1);
    }
    if (t->in && t->in->len > MAX_ANSWER)
        give_up(t, VM_ERROR_CORRUPT, "its answer has no end");
}

static void hear(Talk *t)
{
    char part[16 * 1024];
    ssize_t n = recv(t->fd, part, sizeof(part), MSG_DONTWAIT);

    if (n > 0) {
        g_string_append_len(t->in, part, n);
        take_lines(t);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        give_up(t, VM_ERROR_NOT_FOUND, "it has ended");
    }
}

/* ---- asking ---------------------------------------------------------------------------
 */

static void fail_connect(Talk *t)
{
    if (errno == ENOENT)
        give_up(t, VM_ERROR_NOT_FOUND, "there is none of that name");
    else if (errno == ECONNREFUSED)
        give_up(t, VM_ERROR_NOT_FOUND,
                "it does not run any more: its monitor was killed");
    else if (errno == EAGAIN)
        give_up(t, VM_ERROR_BUSY, "it does not answer; its monitor may hang");
    else
        give_up(t, VM_ERROR_IO, g_strerror(errno));
}

static void begin(Talk *t, ControlAnswer *answer, const char *text)
{
    g_autofree char *path = NULL;

    *t = (Talk){.answer = answer, .fd = -1};
    path = strchr(answer->vm, '/') ? g_strdup(answer->vm)
                                   : place_find(answer->vm, &answer->error);
    if (!path)
        return;
    t->fd = unix_connect_now(path, NULL);
    t->in = g_string_new(NULL);
    if (t->fd < 0)
        fail_connect(t);
    else if (send(t->fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
        give_up(t, VM_ERROR_NOT_FOUND, "it has ended");
}

/* False: all talks are over, or the deadline is. */
static bool wait_for_some(Talk *talks, unsigned n, int64_t deadline_ns)
{
    struct pollfd p[AT_ONCE];
    int left_ms = clock_left_ms(deadline_ns);
    bool any = false;

    for (unsigned i = 0; i < n; i++) {
        p[i] = (struct pollfd){.fd = talks[i].fd, .events = POLLIN};
        any |= talks[i].fd >= 0;
    }
    if (!any || left_ms == 0)
        return false;
    if (poll(p, n, left_ms) < 0)
        return errno == EINTR;
    for (unsigned i = 0; i < n; i++)
        if (talks[i].fd >= 0 && p[i].revents)
            hear(&talks[i]);
    return true;
}

static void ask_some(ControlAnswer *answers, unsigned n, const char *text, int limit_ms)
{
    int64_t deadline_ns = clock_ns() + (int64_t)limit_ms * 1000000;
    Talk talks[AT_ONCE];

    for (unsigned i = 0; i < n; i++)
        begin(&talks[i], &answers[i], text);
    while (wait_for_some(talks, n, deadline_ns))
        ;
    for (unsigned i = 0; i < n; i++) {
        if (talks[i].fd >= 0)
            give_up(&talks[i], VM_ERROR_BUSY, "it does not answer; its monitor may hang");
        end_talk(&talks[i]);
    }
}

void control_ask(ControlAnswer *answers, unsigned n, const char *command, int limit_ms)
{
    g_autofree char *text = g_strdup_printf(
        "{\"execute\": \"qmp_capabilities\"}{\"execute\": \"%s\"}\n", command);

    for (unsigned at = 0; at < n; at += AT_ONCE)
        ask_some(answers + at, MIN(n - at, AT_ONCE), text, limit_ms);
}

void control_answers_clear(ControlAnswer *answers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        json_decref(answers[i].value);
        g_clear_error(&answers[i].error);
        answers[i].value = NULL;
    }
}
