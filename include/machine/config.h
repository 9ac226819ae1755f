/* What a VM is made from: the Config.  It is data: the command line and a JSON file are
 * two notations of it, and both are read by the tables in src/machine/config_options.c
 * and in each virtio device. */
#pragma once

#include <jansson.h>

#include "backend/chardev.h"
#include "core/guestmem.h"
#include "core/param.h"
#include "virtio/virtio.h"

typedef enum { TRANSPORT_PCI, TRANSPORT_MMIO } Transport;

enum { CONFIG_MAX_CPUS = 64, CONFIG_MAX_SERIALS = 2 };

/* One virtio device; options is the struct of ops->params, NULL for a plain flag. */
typedef struct ConfigDevice {
    const VirtioOps *ops;
    void *options;
    bool foreign; /* reaches out of the VM, by the word of strangers (snapshot/foreign.h)
                   */
} ConfigDevice;

typedef struct Config {
    char *kernel, *initrd;
    char *cmdline; /* never NULL after config_finish() */
    uint64_t cpus;
    GuestMemOptions memory;
    char *name;
    char *uuid; /* NULL: none; after config_finish() as RFC 4122 writes it, lower case */
    bool run_folder; /* the name is its own, not its image's: it has a run folder */
    char *control, *control_readonly; /* paths of control sockets; NULL: none */
    char
        *metrics; /* where to serve metrics, as control/metrics.h has it; NULL: nowhere */
    int transport; /* Transport */
    bool no_reboot, debug_exit, json, paused;
    bool agent;         /* a port for a guest agent, */
    char *agent_socket; /* whose socket is here; not an option: who runs it knows */
    uint64_t timeout_s; /* 0: none */

    ChardevOptions *serial[CONFIG_MAX_SERIALS]; /* COM1, COM2; NULL: unconnected */
    bool serial_foreign[CONFIG_MAX_SERIALS];    /* as ConfigDevice's */
    ConfigDevice *devices; /* in virtio_table's order, then in the order given */
    unsigned n_devices;

    json_t *said; /* config_to_json() of what the user said, for who saves it, where the
                     monitor put things elsewhere since; NULL: nothing was */
} Config;

Config *config_new(void);
void config_free(Config *cfg); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Config, config_free)

/* One long option of the command line, which is also a key of the JSON file.  Exactly one
 * of scalar, table and ops is what it is described by; a device has ops, and table if it
 * has options. */
typedef enum {
    CONFIG_VALUE_NONE,     /* --rng */
    CONFIG_VALUE_OPTIONAL, /* --no-reboot, --no-reboot=off */
    CONFIG_VALUE_REQUIRED, /* --cpus 2, --cpus=2 */
} ConfigValue;

typedef struct ConfigOption {
    const char *name; /* without dashes */
    char letter;      /* its short name; 0: none */
    const char *help;
    ConfigValue value;
    bool repeats;            /* adds one each time; an array in JSON */
    const ParamDesc *scalar; /* a single value */
    const ParamTable *table; /* a list of KEY=VALUE */
    const VirtioOps *ops;    /* a virtio device */
} ConfigOption;

/* The option that a single value makes. */
ConfigOption config_scalar_option(const ParamDesc *desc);

/* All of them, in the order of --help; ends with a NULL name.  Main thread. */
const ConfigOption *config_options(void);
const ConfigOption *config_option(const char *name); /* NULL: there is none */

/* Main thread.  Sets a single value, or adds one of what repeats.  Errors begin with the
 * option's name. */
bool config_set(Config *cfg, const ConfigOption *option, const char *value,
                GError **error);

/* Reads a JSON file on top of what cfg has; relative paths count from its folder. */
bool config_load(Config *cfg, const char *path, GError **error);

/* A new Config of such JSON, in which paths are absolute; NULL on failure. */
Config *config_from_json(json_t *json, GError **error);

/* A new reference: what config_load() makes the same Config from. */
json_t *config_to_json(const Config *cfg);

/* Gives it a random UUID (version 4) if it has none: a VM that can be found again. */
void config_make_uuid(Config *cfg);

/* When all has been said: fills in where the console goes and the command line that
 * follows from it, and refuses what cannot be together. */
bool config_finish(Config *cfg, GError **error);
