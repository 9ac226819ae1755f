/* Virtio devices that go while the VM runs.
 *
 * The machine is not paused to unplug a device: only the vCPUs are parked, because one of
 * them may be on its way into a BAR of the device, found in the bus map but not yet
 * locked.  Other devices go on. */
#include "hotplug_private.h"
#include "machine/hotplug.h"
#include "util/log.h"

/* A request that nobody listened to is repeated for so long after it was taken. */
enum { REPEATS = 30 };
#define REPEAT_NS 1000000000ll

void hotplug_release(HotplugEntry *e)
{
    device_release(&e->pci->dev);
    ioloop_unpost(e->h->main, &e->retired);
}

void hotplug_entry_free(HotplugEntry *e)
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
    HotplugEntry *e = opaque;
    Hotplug *h = e->h;
    g_autofree char *id = g_strdup(e->v->id);

    hotplug_release(e);
    g_ptr_array_remove(h->entries, e);
    hotplug_entry_free(e);
    tell_deleted(h->machine, id);
}

/* vCPUs parked. */
static void unplug(HotplugEntry *e)
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
static void for_each_going(Hotplug *h, PciRemoval least, void (*fn)(HotplugEntry *e))
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        HotplugEntry *e = hotplug_entry(h, i);

        if (!e->leaving && hotplug_removal(e) >= least)
            fn(e);
    }
}

static void silence(HotplugEntry *e)
{
    pci_silence(e->pci);
}

void hotplug_on_ejected(void *opaque)
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

void hotplug_on_eject(void *opaque)
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
        if (hotplug_entry(h, i)->leaving)
            virtio_wait_retired(hotplug_entry(h, i)->v);
}

void hotplug_hurry(Hotplug *h)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        VirtioDevice *v = hotplug_entry(h, i)->v;

        if (v->ops->hurry)
            v->ops->hurry(v);
    }
}

/* Linux takes events before it has looked for who may want them, and forgets those. */
static void ask_again(void *opaque)
{
    HotplugEntry *e = opaque;
    PciRemoval how_far = hotplug_removal(e);

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
    HotplugEntry *e = hotplug_find(h, id);
    bool heard;

    if (!e)
        return fail(error, VM_ERROR_NOT_FOUND, "there is no device '%s'", id);
    if (!e->pci)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "%s: a virtio-mmio device cannot be removed while the VM runs; start "
                    "it with --transport pci",
                    id);
    if (!hotplug_is_there(e))
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
