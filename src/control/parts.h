/* Parts for devices to come, of a VM: what blockdev-add, netdev_add and chardev-add made
 * and device_add takes by name.  A part is a note of options, in the words of our own
 * command line; the file, socket or interface is opened by the device that takes it, and
 * closed with that device, after which another may take it.  Main thread. */
#pragma once

#include <jansson.h>

#include "machine/hotplug.h"

typedef enum { PART_DISK, PART_NET, PART_CHARDEV } PartKind;

typedef struct Part {
    struct Part *next;
    PartKind kind;
    char *name;
    json_t *options; /* of the device's option: {"path": ..., "format": ...} */
    json_t *info;    /* what queries show of it while no device has it; NULL: nothing */
    char *below;     /* the name of another part that it was made over; NULL: none */
    char *user;      /* the id of the device that took it; NULL: none did */
} Part;

typedef struct Parts {
    Part *first; /* the newest */
    unsigned n;
} Parts;

/* NULL: there is none of that name. */
Part *parts_find(const Parts *p, PartKind kind, const char *name);

/* The part that the device `id` was made with; NULL: none. */
const Part *parts_of(const Parts *p, PartKind kind, const char *id);

/* Takes over `options` and `info`, on failure too.  Refused: a name that is taken, and
 * more parts than anybody needs. */
Part *parts_add(Parts *p, PartKind kind, const char *name, json_t *options, json_t *info,
                GError **error);

/* The arguments of a command about one part that is named by "id". */
typedef struct PartArgs {
    char *id;
} PartArgs;
extern const ParamTable part_args;

/* Refused while a device or another part has it. */
bool parts_remove(Parts *p, Machine *m, PartKind kind, const char *name, GError **error);

bool part_is_used(const Part *part, Machine *m);

/* Puts what a part has to say into `properties` of a device that is to come, in place of
 * its name there.  *ret is the part, NULL if none was asked for. */
bool parts_take(Parts *p, Machine *m, const VirtioOps *ops, json_t *properties,
                Part **ret, GError **error);

/* The device has come under that id; part may be NULL. */
void parts_taken(Parts *p, Part *part, const char *id);

void parts_clear(Parts *p);
