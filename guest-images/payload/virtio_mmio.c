/* virtio-mmio, version 2: virtio 1.2, 4.2.  Devices are named by words of the command
 * line, virtio_mmio.device=SIZE@ADDRESS:IRQ. */
#include "virtio.h"

#define MAGIC           0x000
#define MAGIC_VALUE     0x74726976
#define VERSION         0x004
#define DEVICE_ID       0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_SELECT   0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_SELECT   0x024
#define QUEUE_SELECT    0x030
#define QUEUE_MAX_SIZE  0x034
#define QUEUE_SIZE      0x038
#define QUEUE_READY     0x044
#define QUEUE_NOTIFY    0x050
#define STATUS          0x070
#define QUEUE_DESC      0x080
#define QUEUE_DRIVER    0x090
#define QUEUE_DEVICE    0x0a0
#define CONFIG          0x100

static volatile uint32_t *reg(VirtioDevice *d, unsigned offset)
{
    return (volatile uint32_t *)(d->registers + offset);
}

static uint8_t get_status(VirtioDevice *d)
{
    return (uint8_t)*reg(d, STATUS);
}

static void set_status(VirtioDevice *d, uint8_t status)
{
    *reg(d, STATUS) = status;
}

static uint64_t get_features(VirtioDevice *d)
{
    *reg(d, DEVICE_SELECT) = 0;
    uint32_t low = *reg(d, DEVICE_FEATURES);
    *reg(d, DEVICE_SELECT) = 1;
    return low | (uint64_t)*reg(d, DEVICE_FEATURES) << 32;
}

static void set_features(VirtioDevice *d, uint64_t features)
{
    *reg(d, DRIVER_SELECT) = 0;
    *reg(d, DRIVER_FEATURES) = (uint32_t)features;
    *reg(d, DRIVER_SELECT) = 1;
    *reg(d, DRIVER_FEATURES) = (uint32_t)(features >> 32);
}

static void select_queue(VirtioDevice *d, uint16_t queue)
{
    *reg(d, QUEUE_SELECT) = queue;
}

static uint16_t queue_max(VirtioDevice *d)
{
    return (uint16_t)*reg(d, QUEUE_MAX_SIZE);
}

static void queue_size(VirtioDevice *d, uint16_t size)
{
    *reg(d, QUEUE_SIZE) = size;
}

static void put_address(VirtioDevice *d, unsigned offset, uint64_t address)
{
    *reg(d, offset) = (uint32_t)address;
    *reg(d, offset + 4) = (uint32_t)(address >> 32);
}

static void queue_place(VirtioDevice *d, uint64_t desc, uint64_t driver, uint64_t device)
{
    put_address(d, QUEUE_DESC, desc);
    put_address(d, QUEUE_DRIVER, driver);
    put_address(d, QUEUE_DEVICE, device);
}

static void queue_enable(VirtioDevice *d, bool on)
{
    *reg(d, QUEUE_READY) = on;
}

static void queue_interrupt(VirtioDevice *d, unsigned index)
{
    (void)d;
    fail("interrupt %u: this driver has no interrupts on virtio-mmio", index);
}

static void notify(VirtioDevice *d, uint16_t queue)
{
    *reg(d, QUEUE_NOTIFY) = queue;
}

const VirtioTransport virtio_mmio = {
    .name = "mmio",
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

static uint64_t window_address(const char *word)
{
    const char *at;

    parse_number(word, &at);
    return *at == '@' ? parse_number(at + 1, NULL) : 0;
}

bool virtio_mmio_probe(unsigned nth, VirtioDevice *ret)
{
    static const char name[] = "virtio_mmio.device=";
    unsigned seen = 0;

    for (const char *word = boot.cmdline; *word; word++) {
        if (memcmp(word, name, sizeof(name) - 1))
            continue;

        uint64_t address = window_address(word + sizeof(name) - 1);
        memset(ret, 0, sizeof(*ret));
        ret->ops = &virtio_mmio;
        ret->registers = map(address, 0x1000);
        ret->config = ret->registers + CONFIG;
        ret->type = *reg(ret, DEVICE_ID);
        if (!ret->type) /* 4.2.2: an empty slot */
            continue;
        CHECK(*reg(ret, MAGIC) == MAGIC_VALUE && *reg(ret, VERSION) == 2,
              "no modern virtio-mmio device at 0x%lx", address);
        if (seen++ == nth)
            return true;
    }
    return false;
}
