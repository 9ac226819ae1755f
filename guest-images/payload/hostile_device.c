/* Hostile use of a device: rings in the wrong place, registers at the wrong time, BARs
 * where they must not be. */
#include "hostile.h"

#define RAM_PATTERN 0x5a

/* ---- Where rings lie ---- */

static void start_with_rings(uint64_t desc, uint64_t driver, uint64_t device)
{
    virtio_start(dev, 0);
    virtq_init(&q, dev, work_queue(dev), 0);
    dev->ops->queue_enable(dev, false);
    dev->ops->queue_place(dev, desc, driver, device);
    dev->ops->queue_enable(dev, true);
    virtio_driver_ok(dev);
    ring_put(0, address_of(data), 16, 0, 0);
    ring_offer(0);
}

static void rings_outside_ram(void)
{
    start_with_rings(beyond_ram, beyond_ram + 0x10000, beyond_ram + 0x20000);
}

static void rings_across_end_of_ram(void)
{
    start_with_rings(ram_end() - 64, ram_end() - 4, ram_end() - 8);
}

static void rings_unaligned(void)
{
    start_with_rings(address_of(q.desc) + 3, address_of(q.avail) + 1,
                     address_of(q.used) + 1);
}

static void rings_wrapped(void)
{
    start_with_rings(~0ull - 15, ~0ull - 3, ~0ull - 7);
}

static void rings_in_device_memory(void)
{
    start_with_rings(LAPIC, LAPIC + 0x400, LAPIC + 0x800);
}

static void rings_all_in_one_place(void)
{
    start_with_rings(address_of(q.desc), address_of(q.desc), address_of(q.desc));
}

/* ---- Registers at the wrong time or with the wrong value ---- */

static void size_after_driver_ok(void)
{
    ring_start(0);
    dev->ops->select_queue(dev, q.index);
    dev->ops->queue_size(dev, 1);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
}

static void place_after_driver_ok(void)
{
    ring_start(0);
    dev->ops->select_queue(dev, q.index);
    dev->ops->queue_place(dev, beyond_ram, beyond_ram, beyond_ram);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
}

static void start_with_size(uint16_t size)
{
    virtio_start(dev, 0);
    virtq_init(&q, dev, work_queue(dev), 0);
    dev->ops->queue_enable(dev, false);
    dev->ops->queue_size(dev, size);
    dev->ops->queue_enable(dev, true);
    virtio_driver_ok(dev);
    ring_put(0, address_of(data), 16, 0, 0);
    ring_offer(0);
}

static void size_zero(void)
{
    start_with_size(0);
}

static void size_odd(void)
{
    start_with_size(3);
}

static void size_maximal(void)
{
    start_with_size(0xffff);
}

static void queue_absent(void)
{
    ring_start(0);
    dev->ops->select_queue(dev, 0xffff);
    CHECK(dev->ops->queue_max(dev) == 0, "queue 65535 exists");
    dev->ops->queue_size(dev, 16);
    dev->ops->queue_place(dev, address_of(data), address_of(data), address_of(data));
    dev->ops->queue_enable(dev, true);
}

static void notify_absent(void)
{
    volatile uint16_t *doorbell = (volatile uint16_t *)dev->notify;

    ring_start(0);
    if (dev->ops == &virtio_mmio)
        dev->ops->notify(dev, 0xffff);
    else
        *doorbell = 0xffff;
}

static void notify_before_driver_ok(void)
{
    virtio_start(dev, 0);
    virtq_init(&q, dev, work_queue(dev), 0);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
}

static void queue_never_enabled(void)
{
    virtio_start(dev, 0);
    virtio_driver_ok(dev);
    dev->ops->notify(dev, work_queue(dev));
}

static void features_after_ok(void)
{
    ring_start(0);
    dev->ops->set_features(dev, ~0ull);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
}

static void features_not_offered(void)
{
    virtio_reset(dev);
    dev->ops->set_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    dev->ops->set_features(dev, ~0ull);
    dev->ops->set_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    print("hostile features_ok=%u\n", !!(dev->ops->get_status(dev) & STATUS_FEATURES_OK));
}

static void driver_ok_at_once(void)
{
    virtio_reset(dev);
    dev->ops->set_status(dev, STATUS_DRIVER_OK);
    dev->ops->notify(dev, work_queue(dev));
}

static void status_every_bit(void)
{
    ring_start(0);
    dev->ops->set_status(dev, 0xff);
    dev->ops->notify(dev, q.index);
}

static void kick_storm(void)
{
    ring_start(0);
    for (unsigned i = 0; i < 2000; i++)
        dev->ops->notify(dev, q.index);
}

/* Whatever was in flight at a reset must not reach memory once the reset has been seen.
 */
static void reset_in_flight(void)
{
    Buffer buffers[3];

    for (unsigned turn = 0; turn < 50; turn++) {
        ring_start(0);
        unsigned n = harmless_request(dev, buffers);
        while (virtq_add(&q, buffers, n, &q))
            ;
        virtq_kick(&q);
        virtio_reset(dev);
        memset(data, RAM_PATTERN, sizeof(data));
        uint16_t used = q.used[1];
        for (unsigned i = 0; i < 200000; i++)
            compiler_barrier();
        CHECK(q.used[1] == used, "a chain was used after the reset");
        for (unsigned i = 0; i < sizeof(data); i++)
            CHECK(data[i] == RAM_PATTERN, "memory was written after the reset");
    }
}

/* Every byte, in every width, of the device's registers and far beyond. */
static void read_all_registers(void)
{
    uint32_t sum = 0;

    ring_start(0);
    for (unsigned i = 0; i < 0x400; i++) {
        sum += dev->config[i];
        sum += dev->registers[i];
        sum += *(volatile uint16_t *)(dev->config + i);
        sum += *(volatile uint32_t *)(dev->config + i);
        sum += (uint32_t) * (volatile uint64_t *)(dev->config + i);
    }
    print("hostile sum=%u\n", sum & 1);
}

static void write_all_config(void)
{
    ring_start(0);
    for (unsigned i = 0; i < 0x100; i++)
        dev->config[i] = 0xff;
}

/* ---- PCI only ---- */

static unsigned registers_bar(void)
{
    unsigned cap = 0;

    while ((cap = pci_capability(dev->function, PCI_CAP_VENDOR, cap)))
        if (pci_read(dev->function, cap + 3, 1) == 1)
            return pci_read(dev->function, cap + 4, 1);
    fail("no common configuration");
}

static void move_bar(uint64_t address)
{
    unsigned bar = registers_bar();
    uint64_t home = pci_bar(dev->function, bar);

    ring_start(0);
    memset(data, RAM_PATTERN, sizeof(data));
    pci_set_bar(dev->function, bar, address);
    print("hostile bar at 0x%lx, there 0x%x\n", address,
          *(volatile uint32_t *)map(address, 0x1000));
    pci_set_bar(dev->function, bar, home);
    CHECK(pci_bar(dev->function, bar) == home, "the BAR did not come home");
    CHECK(data[0] == RAM_PATTERN, "RAM was lost under the BAR");
}

static void bar_on_ram(void)
{
    move_bar(0x2000000);
}

static void bar_on_apic(void)
{
    move_bar(LAPIC & ~0xfffffull);
}

static void bar_at_the_top(void)
{
    move_bar(0xfffff000);
}

static void bar_on_other_bar(void)
{
    VirtioDevice *other = virtio_find(0, 0);

    if (other->function == dev->function)
        other = virtio_find(0, 1);
    move_bar(address_of(other->registers) & ~0xfffull);
}

static void decoding_off(void)
{
    uint32_t command = pci_read(dev->function, PCI_COMMAND, 2);

    ring_start(0);
    pci_write(dev->function, PCI_COMMAND, 2, 0);
    print("hostile status without decoding 0x%02x\n", dev->ops->get_status(dev));
    dev->ops->notify(dev, q.index);
    pci_write(dev->function, PCI_COMMAND, 2, command);
}

static void msix_garbage(void)
{
    unsigned cap = pci_capability(dev->function, PCI_CAP_MSIX, 0);
    unsigned n = pci_msix_size(dev->function);
    volatile uint32_t *line = pci_msix_table(dev->function);

    CHECK(n, "no MSI-X");
    virtio_start(dev, 0);
    virtq_init(&q, dev, work_queue(dev), 0);
    pci_write(dev->function, cap + 2, 2, 0x8000);
    for (unsigned i = 0; i < n; i++) {
        line[4 * i] = 0x12345678;
        line[4 * i + 1] = 0xffffffff;
        line[4 * i + 2] = 0xffffffff;
        line[4 * i + 3] = 0;
    }
    volatile uint16_t *vector = (volatile uint16_t *)(dev->registers + 0x1a);
    dev->ops->select_queue(dev, q.index);
    *vector = 0x7ff0;
    CHECK(*vector == 0xffff, "MSI-X vector beyond the table accepted");
    *vector = 0;
    virtio_driver_ok(dev);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
    (void)WAIT_UNTIL(q.used[1] || virtio_needs_reset(dev));
    pci_write(dev->function, cap + 2, 2, 0);
}

const Case cases_device[] = {
    {"rings-outside-ram", rings_outside_ram, 0, false},
    {"rings-across-end-of-ram", rings_across_end_of_ram, 0, false},
    {"rings-unaligned", rings_unaligned, 0, false},
    {"rings-wrapped", rings_wrapped, 0, false},
    {"rings-in-device-memory", rings_in_device_memory, 0, false},
    {"rings-all-in-one-place", rings_all_in_one_place, 0, false},
    {"size-after-driver-ok", size_after_driver_ok, 0, false},
    {"place-after-driver-ok", place_after_driver_ok, 0, false},
    {"size-zero", size_zero, 0, false},
    {"size-odd", size_odd, 0, false},
    {"size-maximal", size_maximal, 0, false},
    {"queue-absent", queue_absent, 0, false},
    {"notify-absent", notify_absent, 0, false},
    {"notify-before-driver-ok", notify_before_driver_ok, 0, false},
    {"queue-never-enabled", queue_never_enabled, 0, false},
    {"features-after-ok", features_after_ok, 0, false},
    {"features-not-offered", features_not_offered, 0, false},
    {"driver-ok-at-once", driver_ok_at_once, 0, false},
    {"status-every-bit", status_every_bit, 0, false},
    {"kick-storm", kick_storm, 0, false},
    {"reset-in-flight", reset_in_flight, 0, false},
    {"read-all-registers", read_all_registers, 0, false},
    {"write-all-config", write_all_config, 0, false},
    {"bar-on-ram", bar_on_ram, 0, true},
    {"bar-on-apic", bar_on_apic, 0, true},
    {"bar-at-the-top", bar_at_the_top, 0, true},
    {"bar-on-other-bar", bar_on_other_bar, 0, true},
    {"decoding-off", decoding_off, 0, true},
    {"msix-garbage", msix_garbage, 0, true},
    {0},
};
