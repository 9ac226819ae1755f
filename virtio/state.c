/* A virtio device in a saved state: what its driver can observe of any of them, in the
 * section ID/virtio.  What is a device's own is in sections that its ops write; what is a
 * transport's, in the transport's.
 *
 * A device is saved in a pause, with nothing in flight, so that a queue is its registers
 * and its place in the ring.  (Requests that a device holds in spite of the pause are its
 * own to save, and are counted here.)  Loading makes the same pause: rings are checked as
 * at DRIVER_OK, but not touched, and the resume that follows looks into every queue,
 * since a kick may have been on its way.
 *
 * What no device could have saved is refused.  What a driver could have brought about, or
 * a smaller RAM, breaks the device as it would have at DRIVER_OK, and no more than that.
 */
#include "virtio/state.h"

#include <inttypes.h>

#include "state_private.h"
#include "virtio/virtq_internal.h"

/* One queue (virtio 1.2, 2.6). */
typedef struct QueueState {
    uint64_t desc, driver, device;
    uint16_t size, avail_idx, used_idx;
    bool enabled, running, avail_wrap, used_wrap;
} QueueState;

typedef struct VirtioState {
    uint64_t features;
    uint32_t feature_select[2];
    uint32_t config_generation;
    uint32_t n_queues;
    uint16_t device;
    uint8_t status;
    QueueState queue[VIRTIO_MAX_QUEUES];
} VirtioState;

static const StateField queue_fields[] = {
    STATE_FIELD(QueueState, desc, 1, U64, .help = "guest address of the descriptors"),
    STATE_FIELD(QueueState, driver, 2, U64, .help = "and of the driver's area"),
    STATE_FIELD(QueueState, device, 3, U64, .help = "and of the device's"),
    STATE_FIELD(QueueState, size, 4, U16),
    STATE_FIELD(QueueState, avail_idx, 5, U16, .help = "next to take"),
    STATE_FIELD(QueueState, used_idx, 6, U16, .help = "next to return"),
    STATE_FIELD(QueueState, avail_wrap, 7, BOOL),
    STATE_FIELD(QueueState, used_wrap, 8, BOOL),
    STATE_FIELD(QueueState, enabled, 9, BOOL),
    STATE_FIELD(QueueState, running, 10, BOOL, .help = "the device works on the ring"),
    STATE_HOLE_AT_END(QueueState, used_wrap),
    {},
};

static const StateTable queue_table = {
    .name = "virtqueue",
    .version = 1,
    .size = sizeof(QueueState),
    .fields = queue_fields,
};

static const StateField virtio_fields[] = {
    STATE_FIELD(VirtioState, device, 1, U16, .help = "kind, as virtio numbers them"),
    STATE_FIELD(VirtioState, status, 2, U8),
    STATE_FIELD(VirtioState, features, 3, U64, .help = "as the driver wrote them"),
    STATE_INTS(VirtioState, feature_select, 4, U32),
    STATE_FIELD(VirtioState, config_generation, 5, U32),
    STATE_LIST(VirtioState, queue, n_queues, 6, &queue_table),
    STATE_HOLE(VirtioState, status, queue),
    {},
};

const StateTable virtio_state_table = {
    .name = "virtio",
    .version = 1,
    .size = sizeof(VirtioState),
    .fields = virtio_fields,
};

const char *virtio_section(const VirtioDevice *v, const char *part, char name[64])
{
    g_snprintf(name, 64, "%s/%s", v->id, part);
    return name;
}

/* ---- on the device's loop --------------------------------------------------------- */

typedef struct LoopCall {
    VirtioDevice *v;
    void (*save)(VirtioDevice *v, StateWriter *w);
    bool (*load)(VirtioDevice *v, StateReader *r, GError **error);
    StateWriter *w;
    StateReader *r;
    GError **error;
    bool ok;
} LoopCall;

static void call_save(void *opaque)
{
    LoopCall *call = opaque;

    call->save(call->v, call->w);
}

static void call_load(void *opaque)
{
    LoopCall *call = opaque;

    call->ok = call->load(call->v, call->r, call->error);
}

void virtio_save_on_loop(VirtioDevice *v, void (*save)(VirtioDevice *v, StateWriter *w),
                         StateWriter *w)
{
    ioloop_call(v->loop, call_save, &(LoopCall){.v = v, .save = save, .w = w});
}

bool virtio_load_on_loop(VirtioDevice *v,
                         bool (*load)(VirtioDevice *v, StateReader *r, GError **error),
                         StateReader *r, GError **error)
{
    LoopCall call = {.v = v, .load = load, .r = r, .error = error};

    ioloop_call(v->loop, call_load, &call);
    return call.ok;
}

/* ---- saving ----------------------------------------------------------------------- */

const char *virtio_pinned(const VirtioDevice *v)
{
    if (v->ops->remote)
        return "another process serves it and keeps what it knows of the guest to "
               "itself; "
               "take the device out of the guest first";
    return v->ops->pinned ? v->ops->pinned(v) : NULL;
}

/* A broken device's rings are not looked at again before a reset. */
static QueueState save_queue(const VqSlot *s, bool broken)
{
    const VqPosition at = vq_position(&s->vq);
    QueueState q = {
        .desc = s->reg.desc,
        .driver = s->reg.driver,
        .device = s->reg.device,
        .size = s->reg.size,
        .enabled = s->reg.enabled,
        .running = s->vq.desc && !broken,
    };

    if (q.running) {
        q.avail_idx = at.avail_idx;
        q.used_idx = at.used_idx;
        q.avail_wrap = at.avail_wrap;
        q.used_wrap = at.used_wrap;
    }
    return q;
}

void virtio_save(VirtioDevice *v, StateWriter *w)
{
    VirtioState s = {
        .features = v->features,
        .feature_select = {v->feature_select[0], v->feature_select[1]},
        .config_generation = __atomic_load_n(&v->config_generation, __ATOMIC_SEQ_CST),
        .n_queues = v->n_queues,
        .device = v->ops->id,
        .status = virtio_status(v),
    };
    char name[64];

    for (unsigned i = 0; i < v->n_queues; i++)
        s.queue[i] = save_queue(&v->queues[i], virtio_is_broken(v));
    state_put(w, virtio_section(v, "virtio", name), &virtio_state_table, &s);
    if (v->ops->save)
        v->ops->save(v, w);
}

/* ---- loading ---------------------------------------------------------------------- */

static bool check_kind(const VirtioDevice *v, const VirtioState *s, GError **error)
{
    if (v->ops->remote)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "another process serves the device, and knows nothing of a saved "
                    "state: restore without it, and add it then");
    if (s->device != v->ops->id)
        return fail(error, VM_ERROR_INVALID,
                    "the state is of a virtio device of kind %u, and this is %u (%s)",
                    s->device, v->ops->id, v->ops->name);
    if (s->n_queues != v->n_queues)
        return fail(error, VM_ERROR_INVALID,
                    "the state is of a device with %" PRIu32 " queues, and this one has "
                    "%u: give it as many (queues=)",
                    s->n_queues, v->n_queues);
    return true;
}

/* Beyond FEATURES_OK the driver counts on what it accepted (virtio 1.2, 3.1.1). */
static bool check_features(const VirtioDevice *v, const VirtioState *s, GError **error)
{
    uint64_t missing = s->features & ~v->offered;

    if ((s->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
            VIRTIO_STATUS_DRIVER_OK &&
        !(s->status & VIRTIO_STATUS_FEATURES_OK))
        return fail(error, VM_ERROR_CORRUPT,
                    "status 0x%x says that the driver runs without features agreed on",
                    s->status);
    if (!(s->status & VIRTIO_STATUS_FEATURES_OK))
        return true;
    if (missing)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "the guest uses features that the device does not have here (bits "
                    "0x%" PRIx64 "): give it the options and a back end as they were",
                    missing);
    return (s->features & BIT64(VIRTIO_F_VERSION_1)) ||
           fail(error, VM_ERROR_CORRUPT,
                "features 0x%" PRIx64 " are older than virtio 1.0", s->features);
}

static VqPosition position_of(const QueueState *q)
{
    return (VqPosition){q->avail_idx, q->used_idx, q->avail_wrap, q->used_wrap};
}

static bool check_queue(const VirtioState *s, unsigned i, GError **error)
{
    const QueueState *q = &s->queue[i];
    const VqPosition at = position_of(q);
    unsigned in_flight;

    if (!q->running)
        return true;
    if (!(s->status & VIRTIO_STATUS_DRIVER_OK) || !q->enabled ||
        (s->status & VIRTIO_STATUS_NEEDS_RESET))
        return fail(error, VM_ERROR_CORRUPT,
                    "queue %u runs, which status 0x%x does not allow", i, s->status);
    return vq_position_valid(&at, q->size, s->features >> VIRTIO_F_RING_PACKED & 1,
                             &in_flight) ||
           fail(error, VM_ERROR_CORRUPT,
                "queue %u of %u stands at %u and %u, which is no position in it", i,
                q->size, q->avail_idx, q->used_idx);
}

static bool check(const VirtioDevice *v, const VirtioState *s, GError **error)
{
    if (!check_kind(v, s, error) || !check_features(v, s, error))
        return false;
    for (unsigned i = 0; i < s->n_queues; i++)
        if (!check_queue(s, i, error))
            return false;
    return true;
}

static void take_registers(VirtioDevice *v, const VirtioState *s)
{
    v->features = s->features;
    v->feature_select[0] = s->feature_select[0];
    v->feature_select[1] = s->feature_select[1];
    __atomic_store_n(&v->config_generation, s->config_generation, __ATOMIC_SEQ_CST);
    __atomic_store_n(&v->status, s->status, __ATOMIC_SEQ_CST);
    __atomic_store_n(&v->broken, !!(s->status & VIRTIO_STATUS_NEEDS_RESET),
                     __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < v->n_queues; i++)
        v->queues[i].reg = (VqConfig){
            .size = s->queue[i].size,
            .enabled = s->queue[i].enabled,
            .desc = s->queue[i].desc,
            .driver = s->queue[i].driver,
            .device = s->queue[i].device,
        };
    v->quiesced = true;
    v->live = s->status & VIRTIO_STATUS_DRIVER_OK;
    v->restored = v->live;
}

static void take_rings(VirtioDevice *v, const VirtioState *s)
{
    for (unsigned i = 0; i < v->n_queues && !virtio_is_broken(v); i++) {
        VqSlot *slot = &v->queues[i];
        const VqPosition at = position_of(&s->queue[i]);

        slot->vq.cfg = slot->reg;
        if (s->queue[i].running)
            vq_adopt(&slot->vq, virtio_has_feature(v, VIRTIO_F_RING_PACKED),
                     virtio_has_feature(v, VIRTIO_F_EVENT_IDX),
                     virtio_has_feature(v, VIRTIO_F_INDIRECT_DESC), &at);
    }
}

/* Each request that was taken was returned, or is in a section that the device read. */
static bool check_in_flight(const VirtioDevice *v, const VirtioState *s, GError **error)
{
    for (unsigned i = 0; i < v->n_queues && !virtio_is_broken(v); i++) {
        const VqPosition at = position_of(&s->queue[i]);
        unsigned n = 0;

        if (!s->queue[i].running)
            continue;
        vq_position_valid(&at, s->queue[i].size, v->queues[i].vq.packed, &n);
        if (n != v->queues[i].vq.held)
            return fail(error, VM_ERROR_CORRUPT,
                        "queue %u has %u entries in flight, and the state tells of %u", i,
                        n, v->queues[i].vq.held);
    }
    return true;
}

static bool name_section(const VirtioDevice *v, GError **error)
{
    g_prefix_error(error, "state, section '%s/virtio': ", v->id);
    return false;
}

static bool load(VirtioDevice *v, StateReader *r, GError **error)
{
    VirtioState s;
    char name[64];

    if (!state_get(r, virtio_section(v, "virtio", name), &virtio_state_table, &s, error))
        return false;
    v->offered |= s.features & v->ops->kept_features;
    if (!check(v, &s, error))
        return name_section(v, error);
    take_registers(v, &s);
    take_rings(v, &s);
    if (v->ops->load && !v->ops->load(v, r, error))
        return false;
    return check_in_flight(v, &s, error) || name_section(v, error);
}

/* A driver whose device is broken by its rings is told so with the resume. */
bool virtio_load(VirtioDevice *v, StateReader *r, GError **error)
{
    const VirtioBinding *binding = v->binding;
    bool ok;

    v->binding = NULL;
    ok = load(v, r, error);
    v->binding = binding;
    if (ok)
        return true;
    g_prefix_error(error, "%s: ", v->id);
    return false;
}
