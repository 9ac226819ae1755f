/* What both transports share: finding a device, and the path to DRIVER_OK. */
#include "virtio.h"

static bool probe(unsigned nth, VirtioDevice *ret)
{
    const char *transport = arg_text("transport", "any");
    unsigned n_pci = 0;

    if (!text_equal(transport, "mmio")) {
        if (virtio_pci_probe(nth, ret))
            return true;
        while (virtio_pci_probe(n_pci, ret))
            n_pci++;
    }
    return !text_equal(transport, "pci") && virtio_mmio_probe(nth - n_pci, ret);
}

VirtioDevice *virtio_find(unsigned type, unsigned nth)
{
    VirtioDevice *d = alloc(sizeof(*d), 8);

    for (unsigned i = 0, seen = 0; probe(i, d); i++) {
        if (type && d->type != type)
            continue;
        if (seen++ == nth) {
            print("device type=%u nth=%u transport=%s features=0x%lx\n", d->type, nth,
                  d->ops->name, d->ops->get_features(d));
            return d;
        }
    }
    fail("no virtio device %u of type %u", nth, type);
}

void virtio_reset(VirtioDevice *d)
{
    d->ops->set_status(d, 0);
    CHECK(WAIT_UNTIL(d->ops->get_status(d) == 0), "the device does not reset");
}

void virtio_start(VirtioDevice *d, uint64_t wanted)
{
    virtio_reset(d);
    d->ops->set_status(d, STATUS_ACKNOWLEDGE);
    d->ops->set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    d->features = d->ops->get_features(d) & (wanted | F_VERSION_1);
    CHECK(d->features & F_VERSION_1, "the device is not a virtio 1 device");
    d->ops->set_features(d, d->features);
    d->ops->set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    CHECK(d->ops->get_status(d) & STATUS_FEATURES_OK, "features 0x%lx refused",
          d->features);
}

void virtio_driver_ok(VirtioDevice *d)
{
    d->ops->set_status(d, d->ops->get_status(d) | STATUS_DRIVER_OK);
}

bool virtio_needs_reset(VirtioDevice *d)
{
    return d->ops->get_status(d) & STATUS_NEEDS_RESET;
}

uint16_t config_read16(VirtioDevice *d, unsigned offset)
{
    return *(volatile uint16_t *)(d->config + offset);
}

uint32_t config_read32(VirtioDevice *d, unsigned offset)
{
    return *(volatile uint32_t *)(d->config + offset);
}

uint64_t config_read64(VirtioDevice *d, unsigned offset)
{
    return config_read32(d, offset) | (uint64_t)config_read32(d, offset + 4) << 32;
}
