/* The virtio devices of a machine and how they come; see hotplug_private.h. */
#include "machine/hotplug.h"

#include "hotplug_private.h"
#include "virtio/console.h"
#include "virtio/devices.h"

/* ---- the list ------------------------------------------------------------------ */

HotplugEntry *hotplug_entry(const Hotplug *h, unsigned i)
{
    return h->entries->pdata[i];
}

HotplugEntry *hotplug_find(const Hotplug *h, const char *id)
{
    for (unsigned i = 0; i < h->entries->len; i++)
        if (g_str_equal(hotplug_entry(h, i)->v->id, id))
            return hotplug_entry(h, i);
    return NULL;
}

PciRemoval hotplug_removal(const HotplugEntry *e)
{
    return e->pci ? pci_hotplug_removal(e->h->events, e->pci->slot) : PCI_REMOVAL_NONE;
}

bool hotplug_is_there(const HotplugEntry *e)
{
    return !e->leaving && hotplug_removal(e) != PCI_REMOVAL_EJECTED;
}

bool machine_device(Machine *m, unsigned n, MachineDevice *ret)
{
    const Hotplug *h = machine_hotplug(m);

    for (unsigned i = 0; i < h->entries->len; i++) {
        const HotplugEntry *e = hotplug_entry(h, i);

        if (hotplug_is_there(e) && n-- == 0) {
            *ret = (MachineDevice){e->v, e->pci, e->added, hotplug_removal(e)};
            return true;
        }
    }
    return false;
}

VirtioDevice *machine_find_device(Machine *m, const char *id)
{
    const HotplugEntry *e = hotplug_find(machine_hotplug(m), id);

    return e && hotplug_is_there(e) ? e->v : NULL;
}

PciBus *machine_pci_bus(Machine *m)
{
    return board_pci_bus(machine_board(m));
}

/* ---- coming -------------------------------------------------------------------- */

static bool needs_loop(Hotplug *h, const VirtioOps *ops, GError **error)
{
    VirtioEnv *env = board_virtio_env(h->board);

    if (ops->own_thread || env->shared_io)
        return true;
    env->shared_io = h->shared_io = ioloop_start("io", error);
    return env->shared_io != NULL;
}

/* Where a device comes.  The number is where to begin to count for an id that was not
 * given; what was saved has its id and slot. */
typedef struct Spot {
    unsigned nth;
    bool running;
    const SavedDevice *saved; /* NULL: the next that is free */
} Spot;

static VirtioDevice *make(Hotplug *h, const VirtioOps *ops, const void *options,
                          const Spot *at, GError **error)
{
    const VirtioCommonOptions *common = ops->params ? options : NULL;
    const HotplugEntry *same;
    unsigned nth = at->nth;
    char id[32];

    do
        g_snprintf(id, sizeof(id), "%s%u", ops->option, nth++);
    while (hotplug_find(h, id));
    if (at->saved)
        g_strlcpy(id, at->saved->id, sizeof(id));
    same = common && common->id ? hotplug_find(h, common->id) : NULL;
    if (same) {
        fail(error, VM_ERROR_INVALID, "id '%s' is that of another device%s", common->id,
             hotplug_is_there(same) ? "; give this one a different one"
                                    : ", which is still being removed; try again later");
        return NULL;
    }
    return needs_loop(h, ops, error)
               ? virtio_new(ops, id, options, board_virtio_env(h->board), error)
               : NULL;
}

/* Takes over `options` if it succeeds. */
static HotplugEntry *add(Hotplug *h, const VirtioOps *ops, const void *options,
                         const Spot *at, GError **error)
{
    VirtioDevice *v = make(h, ops, options, at, error);
    int slot = at->saved && at->saved->slot != SAVED_NO_SLOT ? (int)at->saved->slot : -1;
    PciDevice *pci = NULL;
    HotplugEntry *e;

    if (!v || !board_plug(h->board, v, slot, at->running, &pci, error))
        return NULL;
    e = g_new0(HotplugEntry, 1);
    *e = (HotplugEntry){.h = h, .v = v, .ops = ops, .pci = pci, .given = at->nth};
    g_ptr_array_add(h->entries, e);
    if (pci)
        pci_hotplug_plugged(h->events, pci->slot, at->running);
    return e;
}

bool machine_device_add(Machine *m, const VirtioOps *ops, void *options,
                        const char **ret_id, GError **error)
{
    Hotplug *h = machine_hotplug(m);
    bool running = machine_state(m) != STATE_PRELAUNCH;
    HotplugEntry *e = NULL;

    if (h->events)
        e = add(h, ops, options, &(Spot){.running = running}, error);
    else
        fail(error, VM_ERROR_UNSUPPORTED,
             "--transport mmio has no hotplug; start the VM with --transport pci");
    if (!e) {
        if (options)
            param_free(ops->params, options);
        return false;
    }
    e->options = options;
    e->added = true;
    if (ret_id)
        *ret_id = e->v->id;
    return true;
}

/* What qemu-guest-agent looks for in a Linux guest by this name. */
static bool add_agent_port(Hotplug *h, char *socket, const Spot *at, GError **error)
{
    ConsoleOptions options = {.common = {.id = (char[]){"agent"}, .packed = true},
                              .chardev.socket = socket,
                              .port = (char[]){"org.qemu.guest_agent.0"}};
    HotplugEntry *e = add(h, &virtio_console_ops, &options, at, error);

    if (e)
        e->agent = true;
    return e != NULL;
}

/* The n-th of what was saved, which is to be of that kind and id (NULL: any). */
static bool find_saved(const SavedMachine *saved, unsigned n, const VirtioOps *ops,
                       const char *id, const SavedDevice **ret, GError **error)
{
    const SavedDevice *d = saved && n < saved->n_devices ? &saved->device[n] : NULL;

    *ret = d;
    if (!saved)
        return true;
    return (d && g_str_equal(d->kind, ops->option) && (!id || g_str_equal(d->id, id))) ||
           fail(error, VM_ERROR_CORRUPT,
                "state, section 'machine', field 'device': %s%s%s where the config has "
                "%s%s%s; a machine is restored with the devices it was saved with",
                d ? d->kind : "nothing", d ? " " : "", d ? d->id : "", ops->option,
                id ? " " : "", id ? id : "");
}

static const char *id_given(const ConfigDevice *d)
{
    return d->ops->params ? ((const VirtioCommonOptions *)d->options)->id : NULL;
}

bool hotplug_add_configured(Hotplug *h, const Config *config, const SavedMachine *saved,
                            GError **error)
{
    unsigned n = config->n_devices;
    Spot at = {0};

    for (unsigned i = 0; i < n; i++) {
        const ConfigDevice *d = &config->devices[i];

        at.nth = i && d->ops == config->devices[i - 1].ops ? at.nth + 1 : 0;
        if (!find_saved(saved, i, d->ops, id_given(d), &at.saved, error) ||
            !add(h, d->ops, d->options, &at, error))
            return false;
    }
    at.nth = 0;
    if (config->agent_socket &&
        (!find_saved(saved, n++, &virtio_console_ops, "agent", &at.saved, error) ||
         !add_agent_port(h, config->agent_socket, &at, error)))
        return false;
    return !saved || n == saved->n_devices ||
           fail(error, VM_ERROR_CORRUPT,
                "state, section 'machine', field 'device': the machine had a %s '%s', "
                "which the config does not have",
                saved->device[n].kind, saved->device[n].id);
}

/* ---- life-cycle ---------------------------------------------------------------- */

Hotplug *hotplug_new(Machine *m, IoLoop *main, Board *board)
{
    Hotplug *h = g_new0(Hotplug, 1);

    h->machine = m;
    h->main = main;
    h->board = board;
    h->events = board_pci_hotplug(board);
    h->entries = g_ptr_array_new();
    h->ejected = (IoPost){.fn = hotplug_on_ejected, .opaque = h};
    if (h->events)
        pci_hotplug_on_eject(h->events, hotplug_on_eject, h);
    return h;
}

/* What is leaving still needs the board's interrupt controller; what is on a bus, the
 * board frees. */
void hotplug_finish(Hotplug *h)
{
    if (!h)
        return;
    if (h->events)
        pci_hotplug_on_eject(h->events, NULL, NULL);
    ioloop_unpost(h->main, &h->ejected);
    for (unsigned i = 0; i < h->entries->len; i++)
        if (hotplug_entry(h, i)->leaving)
            hotplug_release(hotplug_entry(h, i));
}

void hotplug_free(Hotplug *h)
{
    if (!h)
        return;
    for (unsigned i = 0; i < h->entries->len; i++)
        hotplug_entry_free(hotplug_entry(h, i));
    g_ptr_array_free(h->entries, true);
    ioloop_free(h->shared_io);
    g_free(h);
}
