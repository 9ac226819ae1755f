/* See peer.h. */
#include "src/switch/peer.h"

#include <glib.h>
#include <string.h>
#include <sys/socket.h>

pid_t peer_pid(int fd)
{
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

/* When a process began, as proc(5) has it: the 22nd of stat's fields, of which the 2nd is
 * a name in brackets, with anything in it. */
char *peer_program(int fd)
{
    enum { BEGUN = 22, AFTER_NAME = 3 };
    const pid_t pid = peer_pid(fd);
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid), *stat = NULL;
    g_auto(GStrv) fields = NULL;
    const char *rest;

    if (!pid || !g_file_get_contents(path, &stat, NULL, NULL) ||
        !(rest = strrchr(stat, ')')) || rest[1] != ' ')
        return NULL;
    fields = g_strsplit(rest + 2, " ", BEGUN);
    if (g_strv_length(fields) <= BEGUN - AFTER_NAME)
        return NULL;
    return g_strdup_printf("program %d %s ", (int)pid, fields[BEGUN - AFTER_NAME]);
}
