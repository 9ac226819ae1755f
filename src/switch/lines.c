/* See lines.h. */
#include "src/switch/lines.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>

enum { FIRST_ROOM = 1024 };

void lines_free(Lines *l)
{
    g_clear_pointer(&l->text, g_free);
    l->at = l->len = l->room = 0;
}

/* Room for at least one more byte, and for the NUL of lines_next(). */
static bool make_room(Lines *l)
{
    if (l->at) {
        memmove(l->text, l->text + l->at, l->len - l->at);
        l->len -= l->at;
        l->at = 0;
    }
    if (l->len >= l->max)
        return false;
    if (l->len + 1 < l->room)
        return true;
    l->room = MAX(MIN(l->room * 2, l->max + 2), FIRST_ROOM);
    l->text = g_realloc(l->text, l->room);
    return true;
}

LinesResult lines_read(Lines *l, int fd)
{
    ssize_t n;

    if (!make_room(l))
        return LINES_LONG;
    do
        n = recv(fd, l->text + l->len, l->room - l->len - 1, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return LINES_WAIT;
    if (n <= 0)
        return LINES_END;
    l->len += (size_t)n;
    return LINES_MORE;
}

char *lines_next(Lines *l)
{
    char *line = l->text + l->at, *end = NULL;

    if (l->len > l->at)
        end = memchr(line, '\n', l->len - l->at);
    if (!end) {
        if (l->at == l->len)
            lines_free(l);
        return NULL;
    }
    *end = '\0';
    l->at = (size_t)(end - l->text) + 1;
    return line;
}
