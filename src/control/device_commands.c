/* Commands about devices on the PCI bus, under QMP's names (qapi/qdev.json and pci.json
 * of QEMU 7.2): what there is, and hotplug.
 *
 * device_add takes the names of QEMU's drivers, "virtio-blk-pci", and of properties those
 * of our own options (--disk): a disk brings its image, and needs no node to be made
 * before; or it names one (drive=), as a card its netdev and a console its chardev.
 * x-hutch-device-add is the same under the names of the command line. */
#include "control/control.h"
#include "machine/hotplug.h"
#include "src/control/parts.h"
#include "virtio/net.h"

static json_t *done(void)
{
    return json_object();
}

/* ---- coming ---------------------------------------------------------------------------
 */

static bool make_options(ControlCall *call, const VirtioOps *ops, json_t *properties,
                         void *options, Part **ret_part, GError **error)
{
    if (!parts_take(call->parts, call->machine, ops, properties, ret_part, error))
        return false;
    if (options)
        return param_from_json(ops->params, options, properties, NULL, error);
    return !json_object_size(properties) ||
           fail(error, VM_ERROR_INVALID, "it has no property '%s'",
                json_object_iter_key(json_object_iter(properties)));
}

/* Takes over `properties`. */
static json_t *add(ControlCall *call, const VirtioOps *ops, json_t *properties,
                   const char **ret_id, GError **error)
{
    void *options = ops->params ? param_new(ops->params) : NULL;
    Part *part;
    bool ok = make_options(call, ops, properties, options, &part, error);

    json_decref(properties);
    if (!ok && options)
        param_free(ops->params, options);
    if (!ok || !machine_device_add(call->machine, ops, options, ret_id, error)) {
        g_prefix_error(error, "%s: ", ops->option);
        return NULL;
    }
    parts_taken(call->parts, part, *ret_id);
    return done();
}

typedef struct AddArgs {
    char *driver, *bus;
} AddArgs;

static const ParamTable add_args = {
    .size = sizeof(AddArgs),
    .desc = (const ParamDesc[]){{.key = "driver",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(AddArgs, driver),
                                 .help = "as QEMU names it: virtio-blk-pci",
                                 .required = true},
                                {.key = "bus",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(AddArgs, bus),
                                 .help = "pci.0, the only one"},
                                {0}},
};

/* "virtio-blk-pci", or the kind's general name "virtio-blk".  What QEMU plugs into a
 * virtio-serial bus is a device of its own here. */
static const VirtioOps *find_driver(const char *driver)
{
    bool port = g_str_equal(driver, "virtserialport") ||
                g_str_equal(driver, "virtconsole");
    g_autofree char *kind = g_strdup(port ? "virtio-console" : driver);

    if (g_str_has_suffix(kind, "-pci"))
        kind[strlen(kind) - strlen("-pci")] = '\0';
    for (const VirtioOps *const *ops = virtio_table; *ops; ops++)
        if (g_str_has_prefix(kind, "virtio-") &&
            g_str_equal(kind + strlen("virtio-"), (*ops)->name))
            return *ops;
    return NULL;
}

/* Properties that have another name there than in our options. */
static void translate(json_t *properties)
{
    static const struct {
        const char *qemu, *ours;
    } names[] = {{"num-queues", "queues"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_t *value = json_object_get(properties, names[i].qemu);

        if (value && !json_object_get(properties, names[i].ours)) {
            json_object_set(properties, names[i].ours, value);
            json_object_del(properties, names[i].qemu);
        }
    }
}

static json_t *device_add(ControlCall *call, GError **error)
{
    const AddArgs *args = call->args;
    const VirtioOps *ops = find_driver(args->driver);
    const char *id;
    json_t *properties;

    if (!ops) {
        fail(
            error, VM_ERROR_INVALID,
            "there is no driver '%s'; there are virtio-blk-pci, virtio-net-pci and so on",
            args->driver);
        return NULL;
    }
    if (args->bus && !g_str_equal(args->bus, "pci.0")) {
        fail(error, VM_ERROR_INVALID, "there is no bus '%s', only pci.0", args->bus);
        return NULL;
    }
    properties = json_copy(call->json);
    json_object_del(properties, "driver");
    json_object_del(properties, "bus");
    translate(properties);
    if (g_str_equal(args->driver, "virtserialport") &&
        !json_object_get(properties, "name")) {
        json_decref(properties);
        fail(error, VM_ERROR_INVALID, "virtserialport: 'name' is missing");
        return NULL;
    }
    return add(call, ops, properties, &id, error);
}

typedef struct OptionArgs {
    char *option;
    json_t *value;
} OptionArgs;

static const ParamTable option_args = {
    .size = sizeof(OptionArgs),
    .desc = (const ParamDesc[]){{.key = "option",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(OptionArgs, option),
                                 .help = "of the command line: disk, net, rng",
                                 .required = true},
                                {.key = "value",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(OptionArgs, value),
                                 .help = "an object with that option's keys"},
                                {0}},
};

static json_t *x_device_add(ControlCall *call, GError **error)
{
    const OptionArgs *args = call->args;
    const ConfigOption *option = config_option(args->option);
    const char *id;
    json_t *reply;

    if (!option || !option->ops) {
        fail(error, VM_ERROR_INVALID, "'%s' is not an option that makes a virtio device",
             args->option);
        return NULL;
    }
    if (args->value && !json_is_object(args->value)) {
        fail(error, VM_ERROR_INVALID, "value: an object is wanted");
        return NULL;
    }
    reply = add(call, option->ops, args->value ? json_copy(args->value) : json_object(),
                &id, error);
    if (reply)
        json_object_set_new(reply, "id", control_text(id));
    return reply;
}

static const ControlType added = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"id", &control_str}),
};

/* ---- going ----------------------------------------------------------------------------
 */

typedef struct DelArgs {
    char *id;
} DelArgs;

static const ParamTable del_args = {
    .size = sizeof(DelArgs),
    .desc = (const ParamDesc[]){{.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(DelArgs, id),
                                 .help = "its id, or its path in /machine/peripheral",
                                 .required = true},
                                {0}},
};

/* Asks the guest; DEVICE_DELETED comes when it has given the device up. */
static json_t *device_del(ControlCall *call, GError **error)
{
    const DelArgs *args = call->args;
    static const char folder[] = "/machine/peripheral/";
    const char *id = args->id;

    if (g_str_has_prefix(id, folder))
        id += strlen(folder);
    return machine_device_remove(call->machine, id, NULL, error) ? done() : NULL;
}

/* ---- what there is --------------------------------------------------------------------
 */

static const char *const removals[] = {"none", "asked", "taken", "ejected", NULL};
static const ControlType removal = {.kind = CONTROL_ENUM, .values = removals};
static const ControlType device_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"id", &control_str}, {"option", &control_str}, {"added", &control_bool},
        {"removal", &removal}, {"slot", &control_int, true},
        {"link", &control_bool, true}, {"mac", &control_str, true},
        {"own-mac", &control_str, true}, {"network", &control_str, true}),
};
static const ControlType device_list = {.kind = CONTROL_ARRAY, .element = &device_info};

static json_t *mac_text(const uint8_t mac[6])
{
    return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                        mac[4], mac[5]);
}

static void add_macs(json_t *info, const VirtioDevice *v)
{
    uint8_t now[6], own[6];

    if (!virtio_net_macs(v, now, own))
        return;
    json_object_set_new(info, "mac", mac_text(now));
    json_object_set_new(info, "own-mac", mac_text(own));
}

/* "blue", or what kind of wire else it has: "user". */
static void add_network(json_t *info, const VirtioDevice *v)
{
    const json_t *wire = virtio_net_wire(v), *name = json_object_get(wire, "network");

    if (!name)
        name = json_object_get(wire, "type");
    if (name)
        json_object_set(info, "network", (json_t *)name);
}

static json_t *x_query_devices(ControlCall *call, GError **error)
{
    json_t *all = json_array();
    MachineDevice d;
    bool up;

    for (unsigned i = 0; machine_device(call->machine, i, &d); i++) {
        json_t *info = json_pack("{s:o, s:s, s:b, s:s}", "id", control_text(d.virtio->id),
                                 "option", d.virtio->ops->option, "added", d.added,
                                 "removal", removals[d.removal]);

        if (d.pci)
            json_object_set_new(info, "slot", json_integer(d.pci->slot));
        if (virtio_net_link(d.virtio, &up))
            json_object_set_new(info, "link", json_boolean(up));
        add_macs(info, d.virtio);
        add_network(info, d.virtio);
        json_array_append_new(all, info);
    }
    return all;
}

static const ControlType pci_region = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"bar", &control_int}, {"type", &control_str},
                               {"address", &control_int}, {"size", &control_int},
                               {"prefetch", &control_bool, true},
                               {"mem_type_64", &control_bool, true}),
};
static const ControlType pci_regions = {.kind = CONTROL_ARRAY, .element = &pci_region};
static const ControlType pci_class = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"class", &control_int}),
};
static const ControlType pci_id = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"device", &control_int}, {"vendor", &control_int},
                               {"subsystem", &control_int, true},
                               {"subsystem-vendor", &control_int, true}),
};
static const ControlType pci_device = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"bus", &control_int}, {"slot", &control_int}, {"function", &control_int},
        {"class_info", &pci_class}, {"id", &pci_id}, {"irq", &control_int, true},
        {"irq_pin", &control_int}, {"qdev_id", &control_str}, {"regions", &pci_regions}),
};
static const ControlType pci_devices = {.kind = CONTROL_ARRAY, .element = &pci_device};
static const ControlType pci_bus = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"bus", &control_int}, {"devices", &pci_devices}),
};
static const ControlType pci_buses = {.kind = CONTROL_ARRAY, .element = &pci_bus};

static json_int_t config(PciDevice *p, unsigned offset, unsigned size)
{
    return pci_config_read(p, offset, size);
}

static json_t *describe_bars(PciDevice *p)
{
    json_t *all = json_array();

    for (unsigned n = 0; n < PCI_BARS; n++) {
        const PciBar *bar = &p->bar[n];
        uint64_t addr = (uint64_t)config(p, PCI_BAR0 + 4 * n, 4);

        if (!bar->size)
            continue;
        if (bar->is64)
            addr |= (uint64_t)config(p, PCI_BAR0 + 4 * n + 4, 4) << 32;
        addr &= ~(bar->size - 1);
        json_array_append_new(all,
                              json_pack("{s:i, s:s, s:I, s:I, s:b, s:b}", "bar", (int)n,
                                        "type", bar->io ? "io" : "memory", "address",
                                        addr ? (json_int_t)addr : (json_int_t)-1, "size",
                                        (json_int_t)bar->size, "prefetch", false,
                                        "mem_type_64", bar->is64));
    }
    return all;
}

static json_t *describe_function(PciDevice *p)
{
    return json_pack(
        "{s:i, s:i, s:i, s:{s:I}, s:{s:I, s:I, s:I, s:I}, s:I, s:I, s:o, s:o}", "bus", 0,
        "slot", (int)p->slot, "function", 0, "class_info", "class",
        config(p, PCI_CLASS + 1, 2), "id", "device", config(p, PCI_DEVICE_ID, 2),
        "vendor", config(p, PCI_VENDOR_ID, 2), "subsystem",
        config(p, PCI_SUBSYSTEM_ID, 2), "subsystem-vendor",
        config(p, PCI_SUBSYSTEM_VENDOR, 2), "irq", config(p, PCI_INTERRUPT_LINE, 1),
        "irq_pin", config(p, PCI_INTERRUPT_PIN, 1), "qdev_id", control_text(p->dev.id),
        "regions", describe_bars(p));
}

static json_t *query_pci(ControlCall *call, GError **error)
{
    PciBus *bus = machine_pci_bus(call->machine);
    json_t *devices = json_array();

    if (!bus) {
        json_decref(devices);
        return json_array();
    }
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (pci_device_at(bus, slot))
            json_array_append_new(devices, describe_function(pci_device_at(bus, slot)));
    return json_pack("[{s:i, s:o}]", "bus", 0, "devices", devices);
}

static const ControlCommand commands[] = {
    {"device_add", &add_args, NULL, CONTROL_OPEN, device_add},
    {"device_del", &del_args, NULL, 0, device_del},
    {"query-pci", NULL, &pci_buses, CONTROL_QUERY, query_pci},
    {"x-hutch-device-add", &option_args, &added, 0, x_device_add},
    {"x-hutch-query-devices", NULL, &device_list, CONTROL_QUERY, x_query_devices},
    {0},
};

static const ControlType deleted = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"device", &control_str, true}, {"path", &control_str}),
};

static const ControlEvent events[] = {{"DEVICE_DELETED", &deleted}, {0}};

const ControlTable control_device_table = {commands, events};
