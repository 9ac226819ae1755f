/* Where a named VM is found: its run folder, $XDG_RUNTIME_DIR/hutch/NAME, or
 * /run/hutch/NAME for root without XDG_RUNTIME_DIR.  In it are
 *
 *     lock           the monitor's process id; locked by it while it lives
 *     control.sock   the control socket
 *     config.json    what the VM was made from
 *     console.sock   the console of a VM that was detached,
 *     console.log    and what it said last (console.log.1: before that)
 *     log            what the monitor of such a VM says (log.1: before that)
 *     result.json    how such a VM ended
 *     metrics.sock   its metrics over HTTP, with --metrics unix
 *     agent.sock, agent.lock   the port of the guest agent, and who talks to it now
 *
 * so that a name belongs to one VM at a time, and what a dead monitor has left is known
 * as such: a `lock` that nobody holds.  A VM that ended well leaves no `lock`, and if it
 * was detached its logs and result.json.  Both ends of the sockets use this: the monitor,
 * and who talks to it. */
#pragma once

#include <sys/types.h>
#include <time.h>

#include "util/error.h"

#define PLACE_SOCKET      "control.sock"
#define PLACE_CONFIG      "config.json"
#define PLACE_CONSOLE     "console.sock"
#define PLACE_CONSOLE_LOG "console.log"
#define PLACE_LOG         "log"
#define PLACE_RESULT      "result.json"
#define PLACE_ORIGIN      "from.json"

/* ---- for the monitor: having a name --------------------------------------------------
 */

typedef struct Place {
    char *folder; /* NULL: not claimed */
    int folder_fd, lock_fd;
} Place;

/* Any thread, as all here.  Claims the folder, making it if need be; removes what an
 * earlier VM of that name left in it.  VM_ERROR_BUSY: one runs.  Both ends of a claim are
 * harmless on what was not claimed (or zeroed): place_release() removes the folder,
 * place_keep() all in it but logs, config and result. */
bool place_claim(Place *p, const char *name, GError **error);
void place_release(Place *p);
void place_keep(Place *p);

/* Gives a claimed folder another name.  VM_ERROR_BUSY: there is a folder of that name. */
bool place_rename(Place *p, const char *name, GError **error);

/* Puts a whole file into a claimed folder: it is complete or not there. */
bool place_write(const Place *p, const char *file, const char *text, GError **error);

/* A new string: the path of a file in a claimed folder. */
char *place_path(const Place *p, const char *file);

/* A new string: the VM's name, as it is now. */
char *place_name(const Place *p);

/* ---- for the others: finding a VM ----------------------------------------------------
 */

/* Whether a VM can be named so. */
bool place_check_name(const char *name, GError **error);

/* New strings.  The control socket of the VM `name`; some other file in its run folder,
 * there or not; the folder that all run folders are in (`name` is for the sentence).
 * They fail on names that cannot be one's, and where there is no such folder. */
char *place_find(const char *name, GError **error);
char *place_file(const char *name, const char *file, GError **error);
char *place_parent(const char *name, GError **error);

typedef enum {
    PLACE_NONE,    /* there is no such VM */
    PLACE_RUNNING, /* its monitor lives */
    PLACE_DEAD,    /* its monitor was killed */
    PLACE_ENDED,   /* it was detached, and has ended */
} PlaceState;

typedef struct PlaceInfo {
    PlaceState state;
    pid_t pid;      /* of the monitor, also a dead one's; 0: not known */
    time_t started; /* 0: not known */
} PlaceInfo;

/* Looks without touching: nobody who claims the name can tell. */
bool place_look(const char *name, PlaceInfo *ret, GError **error);

/* Always false, with VM_ERROR_NOT_FOUND: why a VM of that state, which is not running,
 * cannot be talked to. */
bool place_fail(const char *name, PlaceState state, GError **error);

/* A pidfd of the monitor that has the name, never of another process that has got its
 * number; -1 with an error, VM_ERROR_NOT_FOUND if there is none. */
int place_pidfd(const char *name, GError **error);

/* Gives the folder of a VM that has ended another name.  VM_ERROR_BUSY: there is a folder
 * of that name, or the VM runs. */
bool place_move(const char *name, const char *to, GError **error);

/* Removes an empty folder, which a monitor leaves that is killed while it makes or
 * removes it; false: there is none. */
bool place_tidy(const char *name);

/* The names of all VMs, sorted; an empty list if there is no folder.  To be freed with
 * g_strfreev().  NULL: it cannot be read. */
char **place_list(GError **error);
