/* Which options a VM has.  Single values and memory are described here, serial ports by
 * chardev_params, and each virtio device by its own VirtioOps, so that a new device is an
 * option without an edit here. */
#include <string.h>

#include "config_private.h"
#include "util/bits.h"
#include "virtio/devices.h"

enum { MAX_OPTIONS = 64 };

static const char *const transport_names[] = {"pci", "mmio", NULL};

static const ParamDesc scalars[] = {
    {.key = "kernel",
     .type = PARAM_PATH,
     .offset = offsetof(Config, kernel),
     .arg = "FILE",
     .help = "kernel to boot: bzImage, ELF vmlinux (PVH) or multiboot"},
    {.key = "initrd",
     .type = PARAM_PATH,
     .offset = offsetof(Config, initrd),
     .arg = "FILE",
     .help = "initial RAM disk, or first multiboot module"},
    {.key = "cmdline",
     .type = PARAM_STRING,
     .offset = offsetof(Config, cmdline),
     .arg = "STRING",
     .help = "kernel command line; by default the console in use, \"reboot=k panic=-1\""},
    {.key = "cpus",
     .letter = 'c',
     .type = PARAM_UINT,
     .offset = offsetof(Config, cpus),
     .arg = "N",
     .help = "number of virtual CPUs",
     .def = "1",
     .min = 1,
     .max = CONFIG_MAX_CPUS},
    {.key = "name",
     .type = PARAM_STRING,
     .offset = offsetof(Config, name),
     .arg = "NAME",
     .help = "name of the VM; its control socket is in a run folder of that name"},
    {.key = "uuid",
     .type = PARAM_STRING,
     .offset = offsetof(Config, uuid),
     .arg = "UUID",
     .help = "what to know the VM by, whatever its name; a named VM gets one"},
    {.key = "control",
     .type = PARAM_PATH,
     .offset = offsetof(Config, control),
     .arg = "PATH",
     .help = "make a control socket here, which speaks QMP"},
    {.key = "control-readonly",
     .type = PARAM_PATH,
     .offset = offsetof(Config, control_readonly),
     .arg = "PATH",
     .help = "likewise, but only for commands that change nothing"},
    {.key = "agent",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, agent),
     .help = "let 'hutch exec' and others reach qemu-guest-agent in the guest"},
    {.key = "metrics",
     .type = PARAM_STRING,
     .offset = offsetof(Config, metrics),
     .arg = "ADDR:PORT|unix:PATH|unix",
     .help = "serve metrics for Prometheus over HTTP; unix: at metrics.sock in the run "
             "folder; without ADDR, on 127.0.0.1"},
    {.key = "paused",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, paused),
     .help = "do not start the guest until 'cont' is said on a control socket"},
    {.key = "transport",
     .type = PARAM_ENUM,
     .offset = offsetof(Config, transport),
     .choices = transport_names,
     .def = "pci",
     .help = "how the guest finds virtio devices"},
    {.key = "no-reboot",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, no_reboot),
     .help = "end when the guest reboots"},
    {.key = "timeout",
     .type = PARAM_UINT,
     .offset = offsetof(Config, timeout_s),
     .arg = "SECONDS",
     .help = "end the VM after so long, with status 124; 0: never",
     .max = 1000 * 1000 * 1000},
    {.key = "debug-exit",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, debug_exit),
     .help = "let the guest end the VM with a status, by ports 0xf4 and 0x501"},
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, json),
     .help = "at the end, print the result as JSON on stderr"},
    {0},
};

const ParamTable config_scalars = {.size = sizeof(Config), .desc = scalars};

static bool check_memory(void *options, GError **error)
{
    const GuestMemOptions *m = options;

    return is_aligned(m->size, GM_PAGE_SIZE) ||
           fail(error, VM_ERROR_INVALID,
                "size: %" G_GUINT64_FORMAT " is not a multiple of 4K", m->size);
}

const ParamTable config_memory = {
    .size = sizeof(GuestMemOptions),
    .check = check_memory,
    .desc =
        (const ParamDesc[]){{.key = "size",
                             .type = PARAM_SIZE,
                             .offset = offsetof(GuestMemOptions, size),
                             .arg = "SIZE",
                             .help = "bytes, or with K, M, G or T",
                             .def = "512M",
                             .min = MIB,
                             .max = 16 * 1024 * GIB},
                            {.key = "shared",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, shared),
                             .help = "keep it in a memfd that helper processes can map"},
                            {.key = "hugepages",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, hugepages),
                             .help = "take it from the host's reserved 2M pages"},
                            {.key = "prealloc",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, prealloc),
                             .help = "touch all of it before the guest starts"},
                            {0}},
};

/* One that is on unless it is said to be off has no meaning without a word. */
static bool goes_alone(const ParamDesc *desc)
{
    return desc->bare || (desc->type == PARAM_BOOL && g_strcmp0(desc->def, "on"));
}

ConfigOption config_scalar_option(const ParamDesc *desc)
{
    return (ConfigOption){.name = desc->key,
                          .letter = desc->letter,
                          .help = desc->help,
                          .scalar = desc,
                          .table = desc->keys,
                          .repeats = desc->type == PARAM_LIST,
                          .value = goes_alone(desc) ? CONFIG_VALUE_OPTIONAL
                                                    : CONFIG_VALUE_REQUIRED};
}

/* A device whose first key is its id has nothing that must be said: --rng. */
static ConfigOption device_option(const VirtioOps *ops)
{
    return (ConfigOption){.name = ops->option,
                          .help = ops->help,
                          .table = ops->params,
                          .ops = ops,
                          .repeats = true,
                          .value = !ops->params ? CONFIG_VALUE_NONE
                                   : g_str_equal(ops->params->desc->key, "id")
                                       ? CONFIG_VALUE_OPTIONAL
                                       : CONFIG_VALUE_REQUIRED};
}

const ConfigOption *config_options(void)
{
    static ConfigOption all[MAX_OPTIONS + 1];
    unsigned n = 0;

    if (all[0].name)
        return all;
    for (const ParamDesc *desc = scalars; desc->key; desc++) {
        all[n++] = config_scalar_option(desc);
        if (g_str_equal(desc->key, "cpus"))
            all[n++] = (ConfigOption){.name = "memory",
                                      .letter = 'm',
                                      .help = "guest memory, 512M if not given",
                                      .table = &config_memory,
                                      .value = CONFIG_VALUE_REQUIRED};
    }
    all[n++] = (ConfigOption){.name = "serial",
                              .help = "serial port (16550A), COM1 and then COM2",
                              .table = &chardev_params,
                              .repeats = true,
                              .value = CONFIG_VALUE_REQUIRED};
    for (const VirtioOps *const *ops = virtio_table; *ops; ops++) {
        g_assert(n < MAX_OPTIONS);
        all[n++] = device_option(*ops);
    }
    return all;
}

const ConfigOption *config_option(const char *name)
{
    for (const ConfigOption *o = config_options(); o->name; o++)
        if (g_str_equal(o->name, name))
            return o;
    return NULL;
}
