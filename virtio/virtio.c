/* The virtio device as its driver sees it: features, status, queue registers (virtio 1.2,
 * 2.1 to 2.4, 3.1), and the device's making and end.  What happens on the I/O thread is
 * in serve.c, what a ring looks like in virtq.c. */
#include "util/fd.h"
#include "virtio/virtq_internal.h"

#include <stdarg.h>

/* ---- making ----------------------------------------------------------------------- */

static void clear_registers(VirtioDevice *v)
{
    v->features = 0;
    memset(v->feature_select, 0, sizeof(v->feature_select));
    for (unsigned i = 0; i < v->n_queues; i++)
        v->queues[i].reg = (VqConfig){.size = v->ops->queue_size};
}

static bool make_queues(VirtioDevice *v, GError **error)
{
    v->queues = g_new0(VqSlot, v->n_queues);
    for (unsigned i = 0; i < v->n_queues; i++) {
        v->queues[i].vq.vdev = v;
        v->queues[i].vq.index = i;
        v->queues[i].vq.kick_fd = -1;
    }
    for (unsigned i = 0; i < v->n_queues; i++)
        if ((v->queues[i].vq.kick_fd = fd_event(error)) < 0)
            return false;
    return true;
}

static uint64_t own_features(const VirtioCommonOptions *options)
{
    return BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_INDIRECT_DESC) |
           BIT64(VIRTIO_F_EVENT_IDX) |
           (!options || options->packed ? BIT64(VIRTIO_F_RING_PACKED) : 0);
}

static bool make(VirtioDevice *v, const VirtioCommonOptions *options, GError **error)
{
    const VirtioOps *ops = v->ops;
    g_autofree char *name = g_strdup_printf("io-%s", v->id);

    if (!ops->own_thread && !v->env->shared_io)
        return fail(error, VM_ERROR_INVALID, "there is no I/O thread to run it");
    v->loop = ops->own_thread ? ioloop_start(name, error) : v->env->shared_io;
    if (!v->loop || !ops->realize(v, options, error))
        return false;
    if (v->n_queues > VIRTIO_MAX_QUEUES || !is_pow2(ops->queue_size) ||
        ops->queue_size > VQ_MAX_SIZE)
        return fail(error, VM_ERROR_INVALID, "%u queues of %u are not possible",
                    v->n_queues, ops->queue_size);
    if (!v->rings_elsewhere)
        v->offered |= own_features(options);
    if (!make_queues(v, error))
        return false;
    clear_registers(v);
    return true;
}

VirtioDevice *virtio_new(const VirtioOps *ops, const char *id, const void *options,
                         const VirtioEnv *env, GError **error)
{
    const VirtioCommonOptions *common = ops->params ? options : NULL;
    VirtioDevice *v = g_malloc0(ops->size);
    const char *name = common && common->id ? common->id : id ? id : ops->name;

    v->ops = ops;
    v->config_size = ops->config_size;
    v->env = env;
    v->gm = env->gm;
    if (g_strlcpy(v->id, name, sizeof(v->id)) >= sizeof(v->id))
        fail(error, VM_ERROR_INVALID, "id '%s' is longer than %zu bytes", name,
             sizeof(v->id) - 1);
    else if (make(v, common, error))
        return v;
    g_prefix_error(error, "%s: ", v->id);
    virtio_free(v);
    return NULL;
}

static void stop(void *opaque)
{
    virtio_serve_stop(opaque);
}

static void retire(void *opaque)
{
    VirtioDevice *v = opaque;

    virtio_serve_stop(v);
    ioloop_post(v->env->main, v->retired);
}

void virtio_retire(VirtioDevice *v, IoPost *retired)
{
    v->retired = retired;
    v->retire = (IoPost){.fn = retire, .opaque = v};
    ioloop_post(v->loop, &v->retire);
}

/* What retire() did is before this call in the loop's queue. */
void virtio_wait_retired(VirtioDevice *v)
{
    ioloop_call(v->loop, stop, v);
}

void virtio_free(VirtioDevice *v)
{
    if (!v)
        return;
    if (v->retired || v->live)
        virtio_wait_retired(v);
    if (v->ops->release)
        v->ops->release(v);
    for (unsigned i = 0; v->queues && i < v->n_queues; i++)
        fd_close(&v->queues[i].vq.kick_fd);
    g_free(v->queues);
    if (v->ops->own_thread)
        ioloop_free(v->loop);
    g_free(v);
}

void virtio_bind(VirtioDevice *v, const VirtioBinding *binding, void *opaque)
{
    v->binding = binding;
    v->binding_opaque = opaque;
}

/* ---- what reaches the driver ------------------------------------------------------ */

void virtio_interrupt(VirtioDevice *v, int queue)
{
    if (v->binding)
        v->binding->interrupt(v->binding_opaque, queue);
}

void virtio_direct(VirtioDevice *v, unsigned queue, int fd)
{
    if (v->binding && v->binding->direct)
        v->binding->direct(v->binding_opaque, queue, fd);
}

/* 2.1.2, 2.3.1: not before DRIVER_OK. */
static void config_interrupt(VirtioDevice *v)
{
    if (virtio_status(v) & VIRTIO_STATUS_DRIVER_OK)
        virtio_interrupt(v, VIRTIO_CONFIG_VECTOR);
}

void virtio_config_changed(VirtioDevice *v)
{
    __atomic_fetch_add(&v->config_generation, 1, __ATOMIC_SEQ_CST);
    config_interrupt(v);
}

bool virtio_is_broken(const VirtioDevice *v)
{
    return __atomic_load_n(&v->broken, __ATOMIC_RELAXED);
}

void virtio_broken(VirtioDevice *v, const char *fmt, ...)
{
    char what[200];
    va_list ap;

    if (__atomic_exchange_n(&v->broken, true, __ATOMIC_SEQ_CST))
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (log_limit(&v->log_limit))
        log_warn("%s: %s; the device stops until the guest resets it", v->id, what);
    __atomic_fetch_or(&v->status, VIRTIO_STATUS_NEEDS_RESET, __ATOMIC_SEQ_CST);
    config_interrupt(v);
}

/* ---- features and status ---------------------------------------------------------- */

/* Both windows show 32 of the 64 bits, and nothing beyond. */
static uint32_t window(uint64_t bits, uint32_t select)
{
    return select < 2 ? (uint32_t)(bits >> (32 * select)) : 0;
}

uint32_t virtio_device_features(const VirtioDevice *v)
{
    return window(v->offered, v->feature_select[0]);
}

uint32_t virtio_driver_features(const VirtioDevice *v)
{
    return window(v->features, v->feature_select[1]);
}

/* 3.1.1: final once the device has said FEATURES_OK. */
void virtio_set_driver_features(VirtioDevice *v, uint32_t value)
{
    unsigned shift = 32 * v->feature_select[1];

    if (v->feature_select[1] >= 2 || (virtio_status(v) & VIRTIO_STATUS_FEATURES_OK))
        return;
    v->features &= ~((uint64_t)UINT32_MAX << shift);
    v->features |= (uint64_t)value << shift;
}

/* 2.2.2, 6.2: nothing we did not offer, and nothing older than 1.0. */
static bool features_acceptable(const VirtioDevice *v)
{
    return !(v->features & ~v->offered) && virtio_has_feature(v, VIRTIO_F_VERSION_1);
}

uint8_t virtio_status(const VirtioDevice *v)
{
    return __atomic_load_n(&v->status, __ATOMIC_SEQ_CST);
}

static void start(void *opaque)
{
    virtio_serve_start(opaque);
}

/* In this order: nothing can break the device after its queues were taken away. */
void virtio_reset(VirtioDevice *v)
{
    if (v->live)
        ioloop_call(v->loop, stop, v);
    v->quiesced = false;
    clear_registers(v);
    __atomic_store_n(&v->broken, false, __ATOMIC_SEQ_CST);
    __atomic_store_n(&v->status, 0, __ATOMIC_SEQ_CST);
}

/* Bits only ever get set, until all are cleared by a reset (2.1.1). */
void virtio_set_status(VirtioDevice *v, uint8_t value)
{
    uint8_t set = value & ~virtio_status(v) & ~VIRTIO_STATUS_NEEDS_RESET;

    if (!value) {
        virtio_reset(v);
        return;
    }
    if ((set & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(v))
        set &= ~VIRTIO_STATUS_FEATURES_OK; /* the driver reads it back (3.1.1, step 6) */
    __atomic_fetch_or(&v->status, set, __ATOMIC_SEQ_CST);
    if (!(set & VIRTIO_STATUS_DRIVER_OK) || virtio_is_broken(v))
        return;
    if (virtio_status(v) & VIRTIO_STATUS_FEATURES_OK)
        ioloop_call(v->loop, start, v);
    else
        virtio_broken(v, "DRIVER_OK without FEATURES_OK");
}

/* ---- queues and configuration ----------------------------------------------------- */

const VqConfig *virtio_queue_peek(const VirtioDevice *v, unsigned queue)
{
    return queue < v->n_queues ? &v->queues[queue].reg : NULL;
}

VqConfig *virtio_queue_config(VirtioDevice *v, unsigned queue)
{
    if (queue >= v->n_queues || (virtio_status(v) & VIRTIO_STATUS_DRIVER_OK))
        return NULL;
    return &v->queues[queue].reg;
}

void virtio_queue_kick(VirtioDevice *v, unsigned queue)
{
    if (queue < v->rings_elsewhere)
        fd_event_signal_shared(v->queues[queue].vq.kick_fd);
    else if (queue < v->n_queues)
        fd_event_signal(v->queues[queue].vq.kick_fd);
}

/* The part of [offset, offset + len) that there is. */
static uint32_t config_part(const VirtioDevice *v, uint32_t offset, uint32_t len)
{
    return offset < v->config_size ? MIN(len, v->config_size - offset) : 0;
}

void virtio_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    uint32_t part = config_part(v, offset, len);

    memset(buf, 0, len);
    if (part && v->ops->config_read)
        v->ops->config_read(v, offset, buf, part);
}

void virtio_config_write(VirtioDevice *v, uint32_t offset, const void *buf, uint32_t len)
{
    uint32_t part = config_part(v, offset, len);

    if (part && v->ops->config_write)
        v->ops->config_write(v, offset, buf, part);
}

/* ---- pause ------------------------------------------------------------------------ */

static void hold(void *opaque)
{
    virtio_serve_pause(opaque);
}

static void go_on(void *opaque)
{
    virtio_serve_resume(opaque);
}

void virtio_quiesce(VirtioDevice *v)
{
    if (v->live && !v->quiesced)
        ioloop_call(v->loop, hold, v);
    v->quiesced = true;
}

void virtio_resume(VirtioDevice *v)
{
    if (v->restored && virtio_is_broken(v))
        config_interrupt(v);
    if (v->live && v->quiesced)
        ioloop_call(v->loop, go_on, v);
    v->quiesced = false;
}
