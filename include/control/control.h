/* The control sockets of a machine: QEMU's machine protocol (QMP) on unix sockets, for
 * several clients at once.
 *
 * Threads.  All sockets belong to the main loop, and so does every command, but for those
 * marked CONTROL_SLEEPS: these run on a thread of a small pool, one at a time for each
 * client, whose next command waits.  The pool waits for the main thread; the main thread
 * waits for the pool only when its loop has ended, so no cycle can form.
 *
 * A command is an entry of a const table: its arguments are checked by that table, and
 * query-qmp-schema is printed from it.  Adding commands: a file with a table of them, and
 * that table's name in src/control/tables.c. */
#pragma once

#include <jansson.h>

#include "control/place.h"
#include "core/param.h"
#include "machine/machine.h"

typedef struct ControlServer ControlServer;

/* ---- for who runs the machine --------------------------------------------------------
 */

/* Where the sockets are to be; NULL: not there. */
typedef struct ControlOptions {
    Place *place;         /* control.sock in this claimed folder, which must outlive the
                             server */
    const char *path;     /* a socket's */
    const char *readonly; /* a socket's on which nothing can be changed */
    /* Any thread, with any lock held: hears of each event before clients do, and must
     * not wait; may be NULL. */
    void (*tap)(void *opaque, const char *event, const json_t *data);
    void *opaque;
} ControlOptions;

/* Main thread.  Makes the sockets; clients may connect, and wait.  *ret is NULL if no
 * socket is wanted. */
bool control_open(const ControlOptions *options, ControlServer **ret, GError **error);

/* Main thread, before machine_run(): clients are served when the main loop runs. */
bool control_start(ControlServer *s, Machine *m, GError **error);

/* Main thread, after machine_run(), the machine still there: waits for commands that
 * sleep, and says good-bye to everybody.  NULL is fine. */
void control_stop(ControlServer *s);

/* Main thread, after machine_free(), because the machine's threads may tell of events
 * until then: removes the sockets.  NULL is fine. */
void control_free(ControlServer *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ControlServer, control_free)

/* Any thread, with any lock held; does not wait.  Sends an event of some table to all
 * clients; takes `data`, NULL for none.  Machine and devices come here through
 * machine_event(). */
void control_event(ControlServer *s, const char *name, json_t *data);

Place *control_place(ControlServer *s); /* main thread; NULL: it has no name */

/* ---- for commands --------------------------------------------------------------------
 */

/* What a command returns or an event carries, for query-qmp-schema. */
typedef enum { CONTROL_BUILTIN, CONTROL_ENUM, CONTROL_OBJECT, CONTROL_ARRAY } ControlKind;

typedef struct ControlType ControlType;

typedef struct ControlMember {
    const char *name;
    const ControlType *type;
    bool optional;
} ControlMember;

struct ControlType {
    ControlKind kind;
    const char *name, *json;      /* BUILTIN: "int", "str"; QAPI's JSON type */
    const char *const *values;    /* ENUM; NULL-terminated */
    const ControlMember *members; /* OBJECT; ends with a NULL name */
    const ControlType *element;   /* ARRAY */
};

extern const ControlType control_str, control_int, control_number, control_bool,
    control_any;

#define CONTROL_MEMBERS(...) ((const ControlMember[]){__VA_ARGS__, {0}})

enum {
    CONTROL_QUERY = 1,  /* changes nothing: allowed on a read-only socket */
    CONTROL_SLEEPS = 2, /* disk work: on a thread of the pool */
    CONTROL_EARLY = 4,  /* only before capabilities are negotiated: qmp_capabilities */
    CONTROL_OPEN = 8, /* takes what its `args` do not have, too: in ControlCall's json */
};

/* One command being carried out. */
typedef struct ControlCall {
    ControlServer *server;
    Machine *machine;
    struct Parts *parts; /* src/control/parts.h; the main thread's */
    const void *args;    /* the struct of the command's `args`, filled in and checked */
    json_t *json;        /* the arguments as they came, an object; tells what was given */
    bool negotiated;     /* set by qmp_capabilities */
    const bool *ending;  /* atomic: the VM has ended; who sleeps long looks at it */
} ControlCall;

typedef struct ControlCommand {
    const char *name;
    const ParamTable *args; /* NULL: it takes none */
    const ControlType *ret; /* NULL: an empty object */
    unsigned flags;
    /* Main thread, or with CONTROL_SLEEPS a thread of the pool.  A new reference, or NULL
     * with `error` set: VM_ERROR_NOT_FOUND becomes DeviceNotFound, the others
     * GenericError. */
    json_t *(*run)(ControlCall *call, GError **error);
    const char *refused; /* the reason why there is no such command; no run */
} ControlCommand;

typedef struct ControlEvent {
    const char *name;
    const ControlType *data; /* NULL: none */
} ControlEvent;

/* Both end with a NULL name. */
typedef struct ControlTable {
    const ControlCommand *commands;
    const ControlEvent *events;
} ControlTable;

extern const ControlTable control_protocol_table, control_machine_table,
    control_device_table, control_net_table, control_chardev_table, control_block_table,
    control_node_table, control_job_table, control_place_table, control_metrics_table,
    control_clone_table, control_snapshot_table, control_refused_table;
extern const ControlTable *const control_tables[]; /* all; ends with NULL */

const ControlCommand *control_command(const char *name); /* NULL: there is none */

/* A thread of the pool, in a command: runs fn on the main thread and returns when it is
 * done.  Fails when the VM has ended meanwhile, and fn has not run. */
bool control_on_main(ControlCall *call, void (*fn)(void *opaque), void *opaque,
                     GError **error);

/* A new JSON string of any bytes: what is not UTF-8, as a file's name may be, is
 * replaced.  json_string() would be NULL. */
json_t *control_text(const char *bytes);

/* Any thread: what query-qmp-schema returns; a new reference. */
json_t *control_schema(void);
