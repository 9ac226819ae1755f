/* virtio over PCI, modern only (virtio 1.2, 4.1).
 *
 * One 64-bit memory BAR holds everything, a page for each structure, so that the kernel
 * can watch the notify page without the others:
 *
 *     0x0000  common configuration     0x3000  notify: 4 bytes for each queue
 *     0x1000  ISR                      0x4000  MSI-X table
 *     0x2000  device configuration     0x5000  MSI-X pending bits
 *
 * A kick is a write to the queue's own address, which the kernel turns into a signal of
 * its kick_fd wherever it can.  Interrupts leave on any thread, without a lock: by MSI-X,
 * or by INTx while that is off, with the ISR as the one piece of state they share. */
#include "state_private.h"
#include "util/bits.h"
#include "virtio/state.h"
#include "virtio/transport.h"

enum {
    BAR = 0,
    PAGE = 0x1000,
    COMMON = 0x0000,
    ISR = 0x1000,
    DEVICE_CONFIG = 0x2000,
    NOTIFY = 0x3000,
    MSIX_TABLE = 0x4000,
    MSIX_PBA = 0x5000,
    BAR_SIZE = 0x8000,
    NOTIFY_STEP = 4,
};

/* 4.1.2: ids; the subsystem is the driver's to ignore. */
enum {
    VENDOR = 0x1af4,
    DEVICE_ID_BASE = 0x1040,
    SUBSYSTEM = 0x1100,
    REVISION = 1,
};

/* 4.1.4: struct virtio_pci_cap */
enum {
    CAP_VENDOR = 0x09,
    CAP_LEN_AT = 2,
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_LENGTH = 12,
    CAP_LEN = 16,
    CAP_EXTRA = 16, /* notify: multiplier; PCI access: the data window */
    CAP_LONG_LEN = 20,
};
enum {
    TYPE_COMMON = 1,
    TYPE_NOTIFY = 2,
    TYPE_ISR = 3,
    TYPE_DEVICE = 4,
    TYPE_PCI_ACCESS = 5
};

/* 4.1.4.3: struct virtio_pci_common_cfg, without what 1.2 makes optional. */
typedef struct CommonConfig {
    uint32_t device_feature_select, device_feature;
    uint32_t driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint64_t queue_desc, queue_driver, queue_device;
} CommonConfig;
_Static_assert(sizeof(CommonConfig) == 0x38, "as in the specification");
#define AT(member) offsetof(CommonConfig, member)

enum { NO_VECTOR = 0xffff, ISR_QUEUE = 1, ISR_CONFIG = 2 };

/* What the guest can observe besides what VirtioDevice holds. */
typedef struct VirtioPciState {
    uint16_t queue_select;
    uint16_t config_vector;                   /* atomic: I/O threads read it */
    uint16_t queue_vector[VIRTIO_MAX_QUEUES]; /* atomic */
    uint8_t isr;                              /* atomic */
} VirtioPciState;

typedef struct VirtioPci {
    PciDevice pci;
    VirtioPciState s;
    VirtioDevice *v;
    uint8_t access_cap;            /* 4.1.4.9, in config space */
    int direct[VIRTIO_MAX_QUEUES]; /* eventfds of VirtioBinding.direct, and one; 0: none
                                    */
} VirtioPci;

/* ---- interrupts ------------------------------------------------------------------- */

/* Any thread, after the ISR changed.  Whoever sets the line last looks at the ISR once
 * more, so the line ends up as the last change of the ISR wants it. */
static void update_intx(VirtioPci *t)
{
    bool level;

    do {
        level = __atomic_load_n(&t->s.isr, __ATOMIC_SEQ_CST);
        pci_set_intx(&t->pci, level);
    } while (level != !!__atomic_load_n(&t->s.isr, __ATOMIC_SEQ_CST));
}

static void interrupt(void *opaque, int queue)
{
    VirtioPci *t = opaque;
    bool config = queue == VIRTIO_CONFIG_VECTOR;
    uint16_t *vector = config ? &t->s.config_vector : &t->s.queue_vector[queue];

    if (msix_enabled(t->pci.msix)) {
        msix_notify(t->pci.msix, __atomic_load_n(vector, __ATOMIC_RELAXED));
    } else {
        __atomic_fetch_or(&t->s.isr, config ? ISR_CONFIG : ISR_QUEUE, __ATOMIC_SEQ_CST);
        update_intx(t);
    }
}

static void set_direct(VirtioPci *t, unsigned queue, bool on)
{
    if (t->direct[queue])
        msix_direct(t->pci.msix, t->s.queue_vector[queue], t->direct[queue] - 1, on);
}

static void direct(void *opaque, unsigned queue, int fd)
{
    VirtioPci *t = opaque;

    set_direct(t, queue, false);
    t->direct[queue] = fd + 1;
    set_direct(t, queue, true);
}

static const VirtioBinding binding = {.interrupt = interrupt, .direct = direct};

/* 4.1.4.5: reading takes the bits and lowers the line. */
static uint8_t read_isr(VirtioPci *t)
{
    uint8_t isr = __atomic_exchange_n(&t->s.isr, 0, __ATOMIC_SEQ_CST);

    update_intx(t);
    return isr;
}

static void set_vector(VirtioPci *t, uint16_t *vector, uint16_t value)
{
    if (value >= msix_vectors(t->pci.msix))
        value = NO_VECTOR; /* 4.1.5.1.2: the driver reads it back */
    __atomic_store_n(vector, value, __ATOMIC_RELAXED);
}

static void reset_state(VirtioPci *t)
{
    set_vector(t, &t->s.config_vector, NO_VECTOR);
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
        set_vector(t, &t->s.queue_vector[i], NO_VECTOR);
    t->s.queue_select = 0;
    read_isr(t);
}

/* ---- common configuration --------------------------------------------------------- */

/* Reading has no effect, so any access is a look at this picture of it. */
static CommonConfig common_picture(const VirtioPci *t)
{
    const VirtioDevice *v = t->v;
    const VqConfig *queue = virtio_queue_peek(v, t->s.queue_select);
    CommonConfig c = {
        .device_feature_select = v->feature_select[0],
        .device_feature = virtio_device_features(v),
        .driver_feature_select = v->feature_select[1],
        .driver_feature = virtio_driver_features(v),
        .config_msix_vector = __atomic_load_n(&t->s.config_vector, __ATOMIC_RELAXED),
        .num_queues = (uint16_t)v->n_queues,
        .device_status = virtio_status(v),
        .config_generation = (uint8_t)__atomic_load_n(&v->config_generation,
                                                      __ATOMIC_SEQ_CST),
        .queue_select = t->s.queue_select,
        .queue_msix_vector = NO_VECTOR,
    };

    if (!queue)
        return c; /* 4.1.4.3.1: size 0 says that there is no such queue */
    c.queue_size = queue->size;
    c.queue_msix_vector = __atomic_load_n(&t->s.queue_vector[t->s.queue_select],
                                          __ATOMIC_RELAXED);
    c.queue_enable = queue->enabled;
    c.queue_notify_off = t->s.queue_select;
    c.queue_desc = queue->desc;
    c.queue_driver = queue->driver;
    c.queue_device = queue->device;
    return c;
}

static uint64_t read_common(const VirtioPci *t, uint64_t offset, unsigned size)
{
    CommonConfig c = common_picture(t);
    uint8_t bytes[sizeof(c) + sizeof(uint64_t)] = {0};

    memcpy(bytes, &c, sizeof(c));
    return offset < sizeof(c) ? load_le(bytes + offset, size) : 0;
}

static void set_status(VirtioPci *t, uint8_t status)
{
    virtio_set_status(t->v, status);
    if (!status)
        reset_state(t);
}

/* The selected queue's registers, which are frozen from DRIVER_OK to reset. */
static void write_queue(VirtioPci *t, uint64_t offset, uint32_t value)
{
    VqConfig *queue = virtio_queue_config(t->v, t->s.queue_select);

    if (!queue)
        return;
    switch (offset) {
    case AT(queue_size):
        queue->size = (uint16_t)value;
        break;
    case AT(queue_enable):
        if (value == 1) /* 4.1.4.3.2: 0 is not for drivers to write */
            queue->enabled = true;
        break;
    case AT(queue_desc):
    case AT(queue_desc) + 4:
        store_le32((uint8_t *)&queue->desc + offset % 8, value);
        break;
    case AT(queue_driver):
    case AT(queue_driver) + 4:
        store_le32((uint8_t *)&queue->driver + offset % 8, value);
        break;
    case AT(queue_device):
    case AT(queue_device) + 4:
        store_le32((uint8_t *)&queue->device + offset % 8, value);
        break;
    }
}

static unsigned common_width(uint64_t offset)
{
    if (offset == AT(device_status) || offset == AT(config_generation))
        return 1;
    if (offset >= AT(config_msix_vector) && offset < AT(queue_desc))
        return 2;
    return 4;
}

/* 4.1.3.1: fields are written whole, 64-bit ones by halves. */
static void write_common(VirtioPci *t, uint64_t offset, unsigned size, uint32_t value)
{
    if (size != common_width(offset) || !is_aligned(offset, size))
        return;
    switch (offset) {
    case AT(device_feature_select):
        t->v->feature_select[0] = value;
        break;
    case AT(driver_feature_select):
        t->v->feature_select[1] = value;
        break;
    case AT(driver_feature):
        virtio_set_driver_features(t->v, value);
        break;
    case AT(config_msix_vector):
        set_vector(t, &t->s.config_vector, (uint16_t)value);
        break;
    case AT(device_status):
        set_status(t, (uint8_t)value);
        break;
    case AT(queue_select):
        t->s.queue_select = (uint16_t)value;
        break;
    case AT(queue_msix_vector):
        if (virtio_queue_peek(t->v, t->s.queue_select)) {
            set_direct(t, t->s.queue_select, false);
            set_vector(t, &t->s.queue_vector[t->s.queue_select], (uint16_t)value);
            set_direct(t, t->s.queue_select, true);
        }
        break;
    default:
        write_queue(t, offset, value);
    }
}

/* ---- the BAR ---------------------------------------------------------------------- */

static uint64_t bar_read(Device *d, uint64_t offset, unsigned size)
{
    VirtioPci *t = (VirtioPci *)d;
    uint64_t value = 0;

    switch (align_down(offset, PAGE)) {
    case COMMON:
        return read_common(t, offset, size);
    case ISR:
        return offset == ISR ? read_isr(t) : 0;
    case DEVICE_CONFIG:
        virtio_config_read(t->v, (uint32_t)(offset - DEVICE_CONFIG), &value, size);
        return value;
    case MSIX_TABLE:
    case MSIX_PBA:
        msix_read(t->pci.msix, offset, size, &value);
        return value;
    default:
        return 0;
    }
}

static void bar_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    VirtioPci *t = (VirtioPci *)d;

    switch (align_down(offset, PAGE)) {
    case COMMON:
        write_common(t, offset, MIN(size, 4), (uint32_t)value);
        if (size == 8)
            write_common(t, offset + 4, 4, (uint32_t)(value >> 32));
        break;
    case DEVICE_CONFIG:
        virtio_config_write(t->v, (uint32_t)(offset - DEVICE_CONFIG), &value, size);
        break;
    case NOTIFY: /* where the kernel did not catch it */
        if (is_aligned(offset, NOTIFY_STEP))
            virtio_queue_kick(t->v, (unsigned)(offset - NOTIFY) / NOTIFY_STEP);
        break;
    case MSIX_TABLE:
    case MSIX_PBA:
        msix_write(t->pci.msix, offset, size, value);
        break;
    }
}

static const BusOps bar_ops = {.read = bar_read, .write = bar_write};

static void bar_moved(PciDevice *p, unsigned bar, uint64_t addr, bool mapped)
{
    VirtioPci *t = (VirtioPci *)p;

    for (unsigned i = 0; i < t->v->n_queues; i++)
        bus_kick_assign(pci_bus_mmio(p->bus), addr + NOTIFY + i * NOTIFY_STEP, 0, false,
                        0, t->v->queues[i].vq.kick_fd, mapped);
}

/* ---- config space ----------------------------------------------------------------- */

/* 4.1.4.9: the same BAR by way of config space, for firmware that cannot map it. Touching
 * the capability's data window does the access that its other fields describe. */
static bool config_access(PciDevice *p, unsigned offset, unsigned size, bool write,
                          uint32_t *value)
{
    VirtioPci *t = (VirtioPci *)p;
    uint8_t *cap = p->s.config + t->access_cap;
    unsigned data = t->access_cap + CAP_EXTRA;
    uint32_t at = load_le32(cap + CAP_OFFSET), len = load_le32(cap + CAP_LENGTH);

    if (offset < data || offset + size > data + 4)
        return false;
    if (write)
        store_le(p->s.config + offset, *value, size);
    if (cap[CAP_BAR] == BAR && (len == 1 || len == 2 || len == 4) &&
        is_aligned(at, len) && range_within(at, len, BAR_SIZE)) {
        if (write)
            bar_write(&p->dev, at, len, load_le(cap + CAP_EXTRA, len));
        else
            store_le(cap + CAP_EXTRA, bar_read(&p->dev, at, len), len);
    }
    *value = (uint32_t)load_le(p->s.config + offset, size);
    return true;
}

static uint8_t add_cap(VirtioPci *t, uint8_t type, uint8_t len, uint32_t offset,
                       uint32_t length)
{
    uint8_t at = pci_add_cap(&t->pci, CAP_VENDOR, len);
    uint8_t *cap = t->pci.s.config + at;

    cap[CAP_LEN_AT] = len;
    cap[CAP_TYPE] = type;
    cap[CAP_BAR] = BAR;
    store_le32(cap + CAP_OFFSET, offset);
    store_le32(cap + CAP_LENGTH, length);
    return at;
}

static void add_caps(VirtioPci *t)
{
    const VirtioDevice *v = t->v;
    uint8_t notify;

    add_cap(t, TYPE_COMMON, CAP_LEN, COMMON, sizeof(CommonConfig));
    add_cap(t, TYPE_ISR, CAP_LEN, ISR, 1);
    if (v->config_size)
        add_cap(t, TYPE_DEVICE, CAP_LEN, DEVICE_CONFIG, v->config_size);
    notify = add_cap(t, TYPE_NOTIFY, CAP_LONG_LEN, NOTIFY, v->n_queues * NOTIFY_STEP);
    store_le32(t->pci.s.config + notify + CAP_EXTRA, NOTIFY_STEP);
    t->access_cap = add_cap(t, TYPE_PCI_ACCESS, CAP_LONG_LEN, 0, 0);
    t->pci.writable[t->access_cap + CAP_BAR] = 0xff;
    memset(t->pci.writable + t->access_cap + CAP_OFFSET, 0xff, CAP_LONG_LEN - CAP_OFFSET);
}

/* ---- saved state ------------------------------------------------------------------ */

static const StateField state_fields[] = {
    STATE_FIELD(VirtioPciState, queue_select, 1, U16),
    STATE_FIELD(VirtioPciState, config_vector, 2, U16, .help = "65535: none"),
    STATE_INTS(VirtioPciState, queue_vector, 3, U16),
    STATE_FIELD(VirtioPciState, isr, 4, U8, .max = ISR_QUEUE | ISR_CONFIG),
    STATE_HOLE_AT_END(VirtioPciState, isr),
    {},
};

const StateTable virtio_pci_state_table = {
    .name = "virtio-pci",
    .version = 1,
    .size = sizeof(VirtioPciState),
    .fields = state_fields,
};

static bool check_vector(const VirtioPci *t, uint16_t vector, GError **error)
{
    return vector == NO_VECTOR || vector < msix_vectors(t->pci.msix) ||
           fail(error, VM_ERROR_CORRUPT,
                "state, section '%s/virtio-pci': vector %u of a device that has %u",
                t->v->id, vector, msix_vectors(t->pci.msix));
}

static bool check_vectors(const VirtioPci *t, const VirtioPciState *s, GError **error)
{
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
        if (!check_vector(t, s->queue_vector[i], error))
            return false;
    return check_vector(t, s->config_vector, error);
}

static const char *pinned(const Device *d)
{
    return virtio_pinned(((const VirtioPci *)d)->v);
}

static void save(Device *d, StateWriter *w)
{
    VirtioPci *t = (VirtioPci *)d;
    char name[64];

    pci_device_save(&t->pci, w);
    state_put(w, virtio_section(t->v, "virtio-pci", name), &virtio_pci_state_table,
              &t->s);
    virtio_save(t->v, w);
}

static bool load(Device *d, StateReader *r, GError **error)
{
    VirtioPci *t = (VirtioPci *)d;
    VirtioPciState s;
    char name[64];

    if (!pci_device_load(&t->pci, r, error) ||
        !state_get(r, virtio_section(t->v, "virtio-pci", name), &virtio_pci_state_table,
                   &s, error) ||
        !check_vectors(t, &s, error))
        return false;
    t->s = s;
    return virtio_load(t->v, r, error);
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void reset(Device *d)
{
    VirtioPci *t = (VirtioPci *)d;

    virtio_reset(t->v);
    reset_state(t);
    pci_device_reset(&t->pci);
}

static void quiesce(Device *d)
{
    virtio_quiesce(((VirtioPci *)d)->v);
}

static void resume(Device *d)
{
    virtio_resume(((VirtioPci *)d)->v);
}

/* The BAR goes first, and with it the kernel's use of the kick_fds, then the device; what
 * it interrupts by goes last, for until it is gone its threads may do so. */
static void release(Device *d)
{
    VirtioPci *t = (VirtioPci *)d;

    pci_silence(&t->pci);
    virtio_free(t->v);
    pci_device_finish(&t->pci);
    g_free(t);
}

static const DeviceOps virtio_pci_ops = {
    .name = "virtio-pci",
    .reset = reset,
    .quiesce = quiesce,
    .resume = resume,
    .release = release,
    .pinned = pinned,
    .save = save,
    .load = load,
};

PciDevice *virtio_pci_new(VirtioDevice *v)
{
    VirtioPci *t = g_new0(VirtioPci, 1);
    PciIds ids = {
        .vendor = VENDOR,
        .device = DEVICE_ID_BASE + v->ops->id,
        .subsystem_vendor = VENDOR,
        .subsystem = SUBSYSTEM,
        .revision = REVISION,
        .class_code = v->ops->pci_class,
        .intx = true,
    };

    t->v = v;
    pci_device_init(&t->pci, &virtio_pci_ops, v->id, &ids);
    pci_add_bar(&t->pci, BAR, BAR_SIZE, false, true, &bar_ops);
    t->pci.bar[BAR].moved = bar_moved;
    t->pci.config_access = config_access;
    msix_add(&t->pci, BAR, MSIX_TABLE, MSIX_PBA, v->n_queues + 1);
    add_caps(t);
    reset_state(t);
    virtio_bind(v, &binding, t);
    return &t->pci;
}
