/* virtio over MMIO, version 2 (virtio 1.2, 4.2): one window of registers and one
 * level-triggered interrupt line, which is high while InterruptStatus is not 0.
 *
 * A kick is the queue's number written to one register: the kernel compares it and
 * signals the queue's kick_fd wherever it can. */
#include "state_private.h"
#include "util/bits.h"
#include "virtio/state.h"
#include "virtio/transport.h"

/* 4.2.2 */
enum {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    VENDOR_ID = 0x00c,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_SIZE_MAX = 0x034,
    QUEUE_SIZE = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0,
    SHM_FIRST = 0x0b0, /* length and base of shared memory regions */
    SHM_LAST = 0x0bc,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};
enum { VENDOR = 0x1af4, INT_QUEUE = 1, INT_CONFIG = 2 };
#define MAGIC_VALUE 0x74726976u /* "virt" */

/* What the guest can observe besides what VirtioDevice holds. */
typedef struct VirtioMmioState {
    uint32_t queue_sel;
    uint32_t interrupt_status; /* atomic */
} VirtioMmioState;

typedef struct VirtioMmio {
    Device dev;
    VirtioMmioState s;
    VirtioDevice *v;
    Bus *bus;
    BusRegion region;
    IrqLine irq;
} VirtioMmio;

/* ---- the interrupt ---------------------------------------------------------------- */

/* Any thread, after InterruptStatus changed.  Whoever sets the line last looks once more,
 * so the line ends up as the last change wants it. */
static void update_irq(VirtioMmio *t)
{
    bool level;

    do {
        level = __atomic_load_n(&t->s.interrupt_status, __ATOMIC_SEQ_CST);
        irq_set(&t->irq, level);
    } while (level != !!__atomic_load_n(&t->s.interrupt_status, __ATOMIC_SEQ_CST));
}

static void interrupt(void *opaque, int queue)
{
    VirtioMmio *t = opaque;
    uint32_t bit = queue == VIRTIO_CONFIG_VECTOR ? INT_CONFIG : INT_QUEUE;

    __atomic_fetch_or(&t->s.interrupt_status, bit, __ATOMIC_SEQ_CST);
    update_irq(t);
}

static const VirtioBinding binding = {.interrupt = interrupt};

static void acknowledge(VirtioMmio *t, uint32_t bits)
{
    __atomic_fetch_and(&t->s.interrupt_status, ~bits, __ATOMIC_SEQ_CST);
    update_irq(t);
}

static void reset_state(VirtioMmio *t)
{
    t->s.queue_sel = 0;
    acknowledge(t, UINT32_MAX);
}

/* ---- registers -------------------------------------------------------------------- */

static uint32_t read_register(VirtioMmio *t, uint64_t offset)
{
    const VirtioDevice *v = t->v;
    const VqConfig *queue = virtio_queue_peek(v, t->s.queue_sel);

    switch (offset) {
    case MAGIC:
        return MAGIC_VALUE;
    case VERSION:
        return 2;
    case DEVICE_ID:
        return v->ops->id;
    case VENDOR_ID:
        return VENDOR;
    case DEVICE_FEATURES:
        return virtio_device_features(v);
    case QUEUE_SIZE_MAX:
        return queue ? v->ops->queue_size : 0;
    case QUEUE_READY:
        return queue && queue->enabled;
    case INTERRUPT_STATUS:
        return __atomic_load_n(&t->s.interrupt_status, __ATOMIC_SEQ_CST);
    case STATUS:
        return virtio_status(v);
    case SHM_FIRST ... SHM_LAST:
        return UINT32_MAX; /* 4.2.2: no such region */
    case CONFIG_GENERATION:
        return __atomic_load_n(&v->config_generation, __ATOMIC_SEQ_CST);
    default:
        return 0; /* write-only, reserved */
    }
}

/* The selected queue's registers, which are frozen from DRIVER_OK to reset. */
static void write_queue(VirtioMmio *t, uint64_t offset, uint32_t value)
{
    VqConfig *queue = virtio_queue_config(t->v, t->s.queue_sel);

    if (!queue)
        return;
    switch (offset) {
    case QUEUE_SIZE:
        /* A size that does not fit here is none that we offered: keep it wrong. */
        queue->size = value <= UINT16_MAX ? (uint16_t)value : 0;
        break;
    case QUEUE_READY:
        queue->enabled = value & 1;
        break;
    case QUEUE_DESC:
    case QUEUE_DESC + 4:
        store_le32((uint8_t *)&queue->desc + offset % 8, value);
        break;
    case QUEUE_DRIVER:
    case QUEUE_DRIVER + 4:
        store_le32((uint8_t *)&queue->driver + offset % 8, value);
        break;
    case QUEUE_DEVICE:
    case QUEUE_DEVICE + 4:
        store_le32((uint8_t *)&queue->device + offset % 8, value);
        break;
    }
}

static void write_register(VirtioMmio *t, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case DEVICE_FEATURES_SEL:
        t->v->feature_select[0] = value;
        break;
    case DRIVER_FEATURES_SEL:
        t->v->feature_select[1] = value;
        break;
    case DRIVER_FEATURES:
        virtio_set_driver_features(t->v, value);
        break;
    case QUEUE_SEL:
        t->s.queue_sel = value;
        break;
    case QUEUE_NOTIFY: /* where the kernel did not catch it */
        virtio_queue_kick(t->v, value);
        break;
    case INTERRUPT_ACK:
        acknowledge(t, value);
        break;
    case STATUS:
        virtio_set_status(t->v, (uint8_t)value);
        if (!(uint8_t)value)
            reset_state(t);
        break;
    default:
        write_queue(t, offset, value);
    }
}

/* 4.2.2.2: registers are 32 bits wide and accessed as such; the configuration is free. */
static uint64_t mmio_read(Device *d, uint64_t offset, unsigned size)
{
    VirtioMmio *t = (VirtioMmio *)d;
    uint64_t value = 0;

    if (offset < CONFIG)
        return size == 4 ? read_register(t, offset) : 0;
    virtio_config_read(t->v, (uint32_t)(offset - CONFIG), &value, size);
    return value;
}

static void mmio_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    VirtioMmio *t = (VirtioMmio *)d;

    if (offset >= CONFIG)
        virtio_config_write(t->v, (uint32_t)(offset - CONFIG), &value, size);
    else if (size == 4)
        write_register(t, offset, (uint32_t)value);
}

static const BusOps mmio_ops = {.read = mmio_read, .write = mmio_write};

/* ---- saved state ------------------------------------------------------------------ */

static const StateField mmio_fields[] = {
    STATE_FIELD(VirtioMmioState, queue_sel, 1, U32),
    STATE_FIELD(VirtioMmioState, interrupt_status, 2, U32, .max = INT_QUEUE | INT_CONFIG),
    {},
};

const StateTable virtio_mmio_state_table = {
    .name = "virtio-mmio",
    .version = 1,
    .size = sizeof(VirtioMmioState),
    .fields = mmio_fields,
};

static const char *pinned(const Device *d)
{
    return virtio_pinned(((const VirtioMmio *)d)->v);
}

static void save(Device *d, StateWriter *w)
{
    VirtioMmio *t = (VirtioMmio *)d;
    char name[64];

    state_put(w, virtio_section(t->v, "virtio-mmio", name), &virtio_mmio_state_table,
              &t->s);
    virtio_save(t->v, w);
}

static bool load(Device *d, StateReader *r, GError **error)
{
    VirtioMmio *t = (VirtioMmio *)d;
    VirtioMmioState s;
    char name[64];

    if (!state_get(r, virtio_section(t->v, "virtio-mmio", name), &virtio_mmio_state_table,
                   &s, error))
        return false;
    t->s.queue_sel = s.queue_sel;
    __atomic_store_n(&t->s.interrupt_status, s.interrupt_status, __ATOMIC_SEQ_CST);
    if (!virtio_load(t->v, r, error))
        return false;
    update_irq(t); /* before the controller's state is put over it */
    return true;
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void assign_kicks(VirtioMmio *t, bool on)
{
    for (unsigned i = 0; i < t->v->n_queues; i++)
        bus_kick_assign(t->bus, t->region.base + QUEUE_NOTIFY, 4, true, i,
                        t->v->queues[i].vq.kick_fd, on);
}

static void reset(Device *d)
{
    VirtioMmio *t = (VirtioMmio *)d;

    virtio_reset(t->v);
    reset_state(t);
}

static void quiesce(Device *d)
{
    virtio_quiesce(((VirtioMmio *)d)->v);
}

static void resume(Device *d)
{
    virtio_resume(((VirtioMmio *)d)->v);
}

static void release(Device *d)
{
    VirtioMmio *t = (VirtioMmio *)d;

    if (t->region.mapped)
        assign_kicks(t, false);
    bus_unmap(t->bus, &t->region);
    virtio_free(t->v);
    irq_set(&t->irq, false); /* until here it may interrupt */
    device_finish(&t->dev);
    g_free(t);
}

static const DeviceOps virtio_mmio_ops = {
    .name = "virtio-mmio",
    .reset = reset,
    .quiesce = quiesce,
    .resume = resume,
    .release = release,
    .pinned = pinned,
    .save = save,
    .load = load,
};

Device *virtio_mmio_new(VirtioDevice *v, Bus *mmio, uint64_t base, IrqController *ic,
                        unsigned gsi, GError **error)
{
    VirtioMmio *t = g_new0(VirtioMmio, 1);

    device_init(&t->dev, &virtio_mmio_ops, v->id);
    t->v = v;
    t->bus = mmio;
    t->region = (BusRegion){.dev = &t->dev, .ops = &mmio_ops, .size = VIRTIO_MMIO_SIZE};
    irq_connect(&t->irq, ic, gsi);
    virtio_bind(v, &binding, t);
    if (!bus_map(mmio, &t->region, base)) {
        fail(error, VM_ERROR_BUSY, "%s: no room on the bus at 0x%" G_GINT64_MODIFIER "x",
             v->id, base);
        release(&t->dev);
        return NULL;
    }
    assign_kicks(t, true);
    return &t->dev;
}
