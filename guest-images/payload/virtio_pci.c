/* virtio-pci, modern only: virtio 1.2, 4.1. */
#include "virtio.h"

#define VENDOR_VIRTIO 0x1af4
#define DEVICE_MODERN 0x1040 /* plus the device type */

/* 4.1.4: capability types, and the fields of the capability. */
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4 };
#define CAP_TYPE        3
#define CAP_BAR         4
#define CAP_OFFSET      8
#define CAP_NOTIFY_STEP 16

/* 4.1.4.3: struct virtio_pci_common_cfg */
#define DEVICE_SELECT     0x00
#define DEVICE_FEATURES   0x04
#define DRIVER_SELECT     0x08
#define DRIVER_FEATURES   0x0c
#define DEVICE_STATUS     0x14
#define QUEUE_SELECT      0x16
#define QUEUE_SIZE        0x18
#define QUEUE_MSIX_VECTOR 0x1a
#define QUEUE_ENABLE      0x1c
#define QUEUE_NOTIFY_OFF  0x1e
#define QUEUE_DESC        0x20
#define QUEUE_DRIVER      0x28
#define QUEUE_DEVICE      0x30

static volatile uint8_t *reg8(VirtioDevice *d, unsigned offset)
{
    return d->registers + offset;
}

static volatile uint16_t *reg16(VirtioDevice *d, unsigned offset)
{
    return (volatile uint16_t *)(d->registers + offset);
}

static volatile uint32_t *reg32(VirtioDevice *d, unsigned offset)
{
    return (volatile uint32_t *)(d->registers + offset);
}

static uint8_t get_status(VirtioDevice *d)
{
    return *reg8(d, DEVICE_STATUS);
}

static void set_status(VirtioDevice *d, uint8_t status)
{
    *reg8(d, DEVICE_STATUS) = status;
}

static uint64_t get_features(VirtioDevice *d)
{
    *reg32(d, DEVICE_SELECT) = 0;
    uint32_t low = *reg32(d, DEVICE_FEATURES);
    *reg32(d, DEVICE_SELECT) = 1;
    return low | (uint64_t)*reg32(d, DEVICE_FEATURES) << 32;
}

static void set_features(VirtioDevice *d, uint64_t features)
{
    *reg32(d, DRIVER_SELECT) = 0;
    *reg32(d, DRIVER_FEATURES) = (uint32_t)features;
    *reg32(d, DRIVER_SELECT) = 1;
    *reg32(d, DRIVER_FEATURES) = (uint32_t)(features >> 32);
}

static void select_queue(VirtioDevice *d, uint16_t queue)
{
    *reg16(d, QUEUE_SELECT) = queue;
}

static uint16_t queue_max(VirtioDevice *d)
{
    return *reg16(d, QUEUE_SIZE);
}

static void queue_size(VirtioDevice *d, uint16_t size)
{
    *reg16(d, QUEUE_SIZE) = size;
}

static void put_address(VirtioDevice *d, unsigned offset, uint64_t address)
{
    *reg32(d, offset) = (uint32_t)address;
    *reg32(d, offset + 4) = (uint32_t)(address >> 32);
}

static void queue_place(VirtioDevice *d, uint64_t desc, uint64_t driver, uint64_t device)
{
    put_address(d, QUEUE_DESC, desc);
    put_address(d, QUEUE_DRIVER, driver);
    put_address(d, QUEUE_DEVICE, device);
}

static void queue_enable(VirtioDevice *d, bool on)
{
    *reg16(d, QUEUE_ENABLE) = on;
}

static void queue_interrupt(VirtioDevice *d, unsigned index)
{
    pci_msix_route(d->function, index, index);
    *reg16(d, QUEUE_MSIX_VECTOR) = (uint16_t)index;
    CHECK(*reg16(d, QUEUE_MSIX_VECTOR) == index, "MSI-X vector %u refused", index);
}

/* The address of a queue's doorbell depends on a register that selecting it reveals. */
static void notify(VirtioDevice *d, uint16_t queue)
{
    volatile uint16_t *other = NULL;
    volatile uint16_t **at = queue < DOORBELLS ? &d->doorbells[queue] : &other;

    if (!*at) {
        select_queue(d, queue);
        *at = (volatile uint16_t *)(d->notify +
                                    *reg16(d, QUEUE_NOTIFY_OFF) * d->notify_step);
    }
    **at = queue;
}

const VirtioTransport virtio_pci = {
    .name = "pci",
    .get_status = get_status,
    .set_status = set_status,
    .get_features = get_features,
    .set_features = set_features,
    .select_queue = select_queue,
    .queue_max = queue_max,
    .queue_size = queue_size,
    .queue_place = queue_place,
    .queue_enable = queue_enable,
    .queue_interrupt = queue_interrupt,
    .notify = notify,
};

static void read_capabilities(VirtioDevice *d)
{
    PciFunction f = d->function;

    for (unsigned cap = 0; (cap = pci_capability(f, PCI_CAP_VENDOR, cap));) {
        uint64_t bar = pci_bar(f, pci_read(f, cap + CAP_BAR, 1));
        volatile uint8_t *at = (void *)(uintptr_t)(bar +
                                                   pci_read(f, cap + CAP_OFFSET, 4));
        unsigned type = pci_read(f, cap + CAP_TYPE, 1);

        if (type == CFG_COMMON) {
            d->registers = at;
        } else if (type == CFG_DEVICE) {
            d->config = at;
        } else if (type == CFG_NOTIFY) {
            d->notify = at;
            d->notify_step = pci_read(f, cap + CAP_NOTIFY_STEP, 4);
        }
    }
}

/* The bus is searched once: port accesses are slow. */
static unsigned find_all(PciFunction **ret)
{
    static PciFunction found[PCI_FUNCTIONS];
    static unsigned n_found;
    static bool searched;

    for (PciFunction f = 0; !searched && f < PCI_FUNCTIONS; f = pci_next(f))
        if (pci_read(f, PCI_VENDOR, 2) == VENDOR_VIRTIO &&
            pci_read(f, PCI_DEVICE, 2) >= DEVICE_MODERN)
            found[n_found++] = f;
    searched = true;
    *ret = found;
    return n_found;
}

bool virtio_pci_probe(unsigned nth, VirtioDevice *ret)
{
    PciFunction *found;

    if (nth >= find_all(&found))
        return false;
    PciFunction f = found[nth];
    memset(ret, 0, sizeof(*ret));
    ret->ops = &virtio_pci;
    ret->type = pci_read(f, PCI_DEVICE, 2) - DEVICE_MODERN;
    ret->function = f;
    pci_enable(f);
    read_capabilities(ret);
    CHECK(ret->registers && ret->notify, "%02x.%u lacks a capability", f >> 3, f & 7);
    return true;
}
