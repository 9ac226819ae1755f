/* See machine/hotplug.h.
 *
 * A device is in the list from when it is made until it is freed.  In between it may be
 * `leaving`: off the bus, so that no vCPU can reach it, while its I/O thread waits for
 * the backend.  That may last, and nobody else waits with it: neither a vCPU nor the
 * control socket.  Its id stays taken, and its image locked, until then.
 *
 * The machine is not paused to unplug a device: only the vCPUs are parked, because one of
 * them may be on its way into a BAR of the device, found in the bus map but not yet
 * locked.  Other devices go on. */
#include "machine/hotplug.h"

#include "machine_private.h"
#include "util/counter.h"
#include "util/log.h"
#include "virtio/console.h"
#include "virtio/devices.h"

/* A request that nobody listened to is repeated for so long after it was taken. */
enum { REPEATS = 30 };
#define REPEAT_NS 1000000000ll

typedef struct Entry {
    Hotplug *h;
    VirtioDevice *v;
    const VirtioOps *ops;
    PciDevice *pci; /* NULL: on virtio-mmio */
    void *options;  /* owned; NULL for the Config's devices */
    bool added;
    bool agent;     /* the port for a guest agent, which is no device of the Config's */
    unsigned given; /* the Config's: how many of its kind stand before it there */
    bool leaving;
    IoPost retired;
    IoTimer repeat; /* of a request for removal */
    unsigned repeats;
} Entry;

struct Hotplug {
    Machine *machine;
    IoLoop *main;
    Board *board;
    Device *events;    /* devices/pci_hotplug.c; NULL: virtio-mmio, without hotplug */
    IoLoop *shared_io; /* made when a device first needs it */
    GPtrArray *entries;
    IoPost ejected;
};

/* ---- the list --------------------------------------------------------------------- */

static Entry *entry_at(const Hotplug *h, unsigned i)
{
    return h->entries->pdata[i];
}

static Entry *find(const Hotplug *h, const char *id)
{
    for (unsigned i = 0; i < h->entries->len; i++)
        if (g_str_equal(entry_at(h, i)->v->id, id))
            return entry_at(h, i);
    return NULL;
}

static PciRemoval removal(const Entry *e)
{
    return e->pci ? pci_hotplug_removal(e->h->events, e->pci->slot) : PCI_REMOVAL_NONE;
}

/* The guest has not given it up. */
static bool is_there(const Entry *e)
{
    return !e->leaving && removal(e) != PCI_REMOVAL_EJECTED;
}

bool machine_device(Machine *m, unsigned n, MachineDevice *ret)
{
    const Hotplug *h = machine_hotplug(m);

    for (unsigned i = 0; i < h->entries->len; i++) {
        const Entry *e = entry_at(h, i);

        if (is_there(e) && n-- == 0) {
            *ret = (MachineDevice){e->v, e->pci, e->added, removal(e)};
            return true;
        }
    }
    return false;
}

VirtioDevice *machine_find_device(Machine *m, const char *id)
{
    const Entry *e = find(machine_hotplug(m), id);

    return e && is_there(e) ? e->v : NULL;
}

PciBus *machine_pci_bus(Machine *m)
{
    return board_pci_bus(machine_board(m));
}

json_t *hotplug_counters(const Hotplug *h)
{
    json_t *all = json_object();

    for (unsigned i = 0; i < h->entries->len; i++) {
        const VirtioDevice *v = entry_at(h, i)->v;
        json_int_t requests = 0, interrupts = 0, kicks = 0;

        for (unsigned q = 0; q < v->n_queues; q++) {
            requests += (json_int_t)counter_read(&v->queues[q].vq.count.requests);
            interrupts += (json_int_t)counter_read(&v->queues[q].vq.count.interrupts);
            kicks += (json_int_t)counter_read(&v->queues[q].vq.count.kicks);
        }
        json_object_set_new(all, v->id,
                            json_pack("{s:I, s:I, s:I}", "requests", requests,
                                      "interrupts", interrupts, "kicks", kicks));
    }
    return all;
}

/* ---- going ------------------------------------------------------------------------ */

static void release(Entry *e)
{
    device_release(&e->pci->dev);
    ioloop_unpost(e->h->main, &e->retired);
}

/* When the device is gone: it may have kept its options by reference. */
static void entry_free(Entry *e)
{
    ioloop_timer_cancel(&e->repeat);
    if (e->options)
        param_free(e->ops->params, e->options);
    g_free(e);
}

static void tell_deleted(Machine *m, const char *id)
{
    g_autofree char *path = g_strdup_printf("/machine/peripheral/%s", id);

    machine_event(m, "DEVICE_DELETED",
                  json_pack("{s:s, s:s}", "device", id, "path", path));
}

static void on_retired(void *opaque)
{
    Entry *e = opaque;
    Hotplug *h = e->h;
    g_autofree char *id = g_strdup(e->v->id);

    release(e);
    g_ptr_array_remove(h->entries, e);
    entry_free(e);
    tell_deleted(h->machine, id);
}

/* vCPUs parked. */
static void unplug(Entry *e)
{
    unsigned slot = e->pci->slot;

    ioloop_timer_cancel(&e->repeat);
    pci_unplug(e->pci);
    pci_hotplug_unplugged(e->h->events, slot);
    e->leaving = true;
    e->retired = (IoPost){.fn = on_retired, .opaque = e};
    virtio_retire(e->v, &e->retired);
}

/* For each device with whose removal the guest is as far as that. */
static void for_each_going(Hotplug *h, PciRemoval least, void (*fn)(Entry *e))
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        Entry *e = entry_at(h, i);

        if (!e->leaving && removal(e) >= least)
            fn(e);
    }
}

static void silence(Entry *e)
{
    pci_silence(e->pci);
}

static void on_ejected(void *opaque)
{
    Hotplug *h = opaque;

    for_each_going(h, PCI_REMOVAL_EJECTED, silence);
    if (!machine_park(h->machine))
        return; /* hotplug_thawed() */
    for_each_going(h, PCI_REMOVAL_EJECTED, unplug);
    machine_unpark(h->machine);
}

void hotplug_thawed(Hotplug *h)
{
    ioloop_post(h->main, &h->ejected);
}

/* A vCPU's write. */
static void on_eject(void *opaque)
{
    Hotplug *h = opaque;

    ioloop_post(h->main, &h->ejected);
}

void hotplug_reset(Hotplug *h)
{
    for_each_going(h, PCI_REMOVAL_ASKED, unplug);
}

void hotplug_quiesce(Hotplug *h)
{
    for (unsigned i = 0; i < h->entries->len; i++)
        if (entry_at(h, i)->leaving)
            virtio_wait_retired(entry_at(h, i)->v);
}

void hotplug_hurry(Hotplug *h)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        VirtioDevice *v = entry_at(h, i)->v;

        if (v->ops->hurry)
            v->ops->hurry(v);
    }
}

/* Linux takes events before it has looked for who may want them, and forgets those. */
static void ask_again(void *opaque)
{
    Entry *e = opaque;
    PciRemoval how_far = removal(e);

    if (how_far == PCI_REMOVAL_EJECTED)
        return;
    if (how_far == PCI_REMOVAL_TAKEN) {
        pci_hotplug_ask(e->h->events, e->pci->slot);
        e->repeats--;
    }
    if (e->repeats)
        ioloop_timer(e->h->main, &e->repeat, clock_ns() + REPEAT_NS, ask_again, e);
}

bool machine_device_remove(Machine *m, const char *id, bool *ret_heard, GError **error)
{
    const Hotplug *h = machine_hotplug(m);
    Entry *e = find(h, id);
    bool heard;

    if (!e)
        return fail(error, VM_ERROR_NOT_FOUND, "there is no device '%s'", id);
    if (!e->pci)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "%s: a virtio-mmio device cannot be removed while the VM runs; start "
                    "it with --transport pci",
                    id);
    if (!is_there(e))
        return fail(error, VM_ERROR_BUSY, "%s: it is being removed already", id);
    pci_hotplug_ask(h->events, e->pci->slot);
    heard = pci_hotplug_is_heard(h->events);
    if (!heard) {
        log_warn("%s: the guest does not listen to requests for removal yet; this one "
                 "waits until it does, or for a reset",
                 id);
        e->repeats = REPEATS;
        ioloop_timer(h->main, &e->repeat, clock_ns() + REPEAT_NS, ask_again, e);
    }
    if (ret_heard)
        *ret_heard = heard;
    return true;
}

/* ---- coming ----------------------------------------------------------------------- */

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
    const Entry *same;
    unsigned nth = at->nth;
    char id[32];

    do
        g_snprintf(id, sizeof(id), "%s%u", ops->option, nth++);
    while (find(h, id));
    if (at->saved)
        g_strlcpy(id, at->saved->id, sizeof(id));
    same = common && common->id ? find(h, common->id) : NULL;
    if (same) {
        fail(error, VM_ERROR_INVALID, "id '%s' is that of another device%s", common->id,
             is_there(same) ? "; give this one a different one"
                            : ", which is still being removed; try again later");
        return NULL;
    }
    return needs_loop(h, ops, error)
               ? virtio_new(ops, id, options, board_virtio_env(h->board), error)
               : NULL;
}

/* Takes over `options` if it succeeds. */
static Entry *add(Hotplug *h, const VirtioOps *ops, const void *options, const Spot *at,
                  GError **error)
{
    VirtioDevice *v = make(h, ops, options, at, error);
    int slot = at->saved && at->saved->slot != SAVED_NO_SLOT ? (int)at->saved->slot : -1;
    PciDevice *pci = NULL;
    Entry *e;

    if (!v || !board_plug(h->board, v, slot, at->running, &pci, error))
        return NULL;
    e = g_new0(Entry, 1);
    *e = (Entry){.h = h, .v = v, .ops = ops, .pci = pci, .given = at->nth};
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
    Entry *e = NULL;

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
    Entry *e = add(h, &virtio_console_ops, &options, at, error);

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

/* ---- saving -----------------------------------------------------------------------
 */

/* The i-th of a kind, agent ports apart. */
static void for_each_of(const Hotplug *h, const VirtioOps *ops,
                        void (*fn)(const Entry *e, void *opaque), void *opaque)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        const Entry *e = entry_at(h, i);

        if (e->ops == ops && !e->agent && is_there(e))
            fn(e, opaque);
    }
}

static void save_one(const Entry *e, void *opaque)
{
    SavedMachine *s = opaque;
    SavedDevice *d = &s->device[s->n_devices++];

    g_strlcpy(d->id, e->v->id, sizeof(d->id));
    g_strlcpy(d->kind, e->ops->option, sizeof(d->kind));
    d->slot = e->pci ? e->pci->slot : SAVED_NO_SLOT;
}

G_STATIC_ASSERT((int)SAVED_DEVICES >= (int)PCI_MAX_SLOTS);

void hotplug_save_list(const Hotplug *h, SavedMachine *ret)
{
    for (const VirtioOps *const *ops = virtio_table; *ops; ops++)
        for_each_of(h, *ops, save_one, ret);
    for (unsigned i = 0; i < h->entries->len; i++)
        if (entry_at(h, i)->agent && is_there(entry_at(h, i)))
            save_one(entry_at(h, i), ret);
}

char *hotplug_pinned(const Hotplug *h)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        const Entry *e = entry_at(h, i);
        const char *why = e->pci && is_there(e) ? device_pinned(&e->pci->dev) : NULL;

        if (why)
            return g_strdup_printf("%s: %s", e->v->id, why);
    }
    return NULL;
}

typedef struct CurrentConfig {
    json_t *was, *now; /* arrays */
} CurrentConfig;

static void describe_one(const Entry *e, void *opaque)
{
    CurrentConfig *c = opaque;
    json_t *option = !e->ops->params ? json_true()
                     : e->added      ? param_to_json(e->ops->params, e->options)
                                     : json_deep_copy(json_array_get(c->was, e->given));

    if (json_is_object(option)) {
        json_object_set_new(option, "id", json_string(e->v->id));
        if (e->ops->describe)
            e->ops->describe(e->v, option);
    }
    json_array_append_new(c->now, option);
}

void hotplug_current_config(const Hotplug *h, json_t *config)
{
    for (const VirtioOps *const *ops = virtio_table; *ops; ops++) {
        CurrentConfig c = {json_object_get(config, (*ops)->option), json_array()};

        for_each_of(h, *ops, describe_one, &c);
        if (json_array_size(c.now))
            json_object_set(config, (*ops)->option, c.now);
        else
            json_object_del(config, (*ops)->option);
        json_decref(c.now);
    }
}

/* ---- life-cycle ------------------------------------------------------------------- */

Hotplug *hotplug_new(Machine *m, IoLoop *main, Board *board)
{
    Hotplug *h = g_new0(Hotplug, 1);

    h->machine = m;
    h->main = main;
    h->board = board;
    h->events = board_pci_hotplug(board);
    h->entries = g_ptr_array_new();
    h->ejected = (IoPost){.fn = on_ejected, .opaque = h};
    if (h->events)
        pci_hotplug_on_eject(h->events, on_eject, h);
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
        if (entry_at(h, i)->leaving)
            release(entry_at(h, i));
}

void hotplug_free(Hotplug *h)
{
    if (!h)
        return;
    for (unsigned i = 0; i < h->entries->len; i++)
        entry_free(entry_at(h, i));
    g_ptr_array_free(h->entries, true);
    ioloop_free(h->shared_io);
    g_free(h);
}
