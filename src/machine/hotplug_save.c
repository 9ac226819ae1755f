/* What is said of the virtio devices that a machine has: for its saved state, for the
 * Config that makes it again, and for the figures at its end. */
#include "hotplug_private.h"
#include "util/counter.h"
#include "virtio/devices.h"

json_t *hotplug_counters(const Hotplug *h)
{
    json_t *all = json_object();

    for (unsigned i = 0; i < h->entries->len; i++) {
        const VirtioDevice *v = hotplug_entry(h, i)->v;
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

/* The i-th of a kind, agent ports apart. */
static void for_each_of(const Hotplug *h, const VirtioOps *ops,
                        void (*fn)(const HotplugEntry *e, void *opaque), void *opaque)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        const HotplugEntry *e = hotplug_entry(h, i);

        if (e->ops == ops && !e->agent && hotplug_is_there(e))
            fn(e, opaque);
    }
}

static void save_one(const HotplugEntry *e, void *opaque)
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
        if (hotplug_entry(h, i)->agent && hotplug_is_there(hotplug_entry(h, i)))
            save_one(hotplug_entry(h, i), ret);
}

char *hotplug_pinned(const Hotplug *h)
{
    for (unsigned i = 0; i < h->entries->len; i++) {
        const HotplugEntry *e = hotplug_entry(h, i);
        const char *why = e->pci && hotplug_is_there(e) ? device_pinned(&e->pci->dev)
                                                        : NULL;

        if (why)
            return g_strdup_printf("%s: %s", e->v->id, why);
    }
    return NULL;
}

typedef struct CurrentConfig {
    json_t *was, *now; /* arrays */
} CurrentConfig;

static void describe_one(const HotplugEntry *e, void *opaque)
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
