/* VM generation ID (Microsoft, "Virtual Machine Generation ID", 2012; QEMU
 * docs/specs/vmgenid): 16 bytes of guest RAM that say which life of the machine this is.
 * ACPI tells the guest where they are (src/machine/acpi.c), and a general-purpose event
 * that they changed. */
#include "devices/platform.h"

enum { GUID_SIZE = 16 };

typedef struct Vmgenid {
    Device dev;
    GuestMem *gm;
    uint64_t gpa;
    uint8_t guid[GUID_SIZE];
} Vmgenid;

static bool publish(Vmgenid *v)
{
    return gm_write(v->gm, v->gpa + VMGENID_OFFSET, v->guid, GUID_SIZE);
}

/* Main thread.  Same machine, same life: but the last kernel may have used the page. */
static void vmgenid_reset(Device *d)
{
    publish((Vmgenid *)d);
}

bool vmgenid_set(Device *d, const uint8_t guid[GUID_SIZE])
{
    Vmgenid *v = (Vmgenid *)d;

    memcpy(v->guid, guid, GUID_SIZE);
    return publish(v);
}

static void vmgenid_release(Device *d)
{
    device_finish(d);
    g_free(d);
}

static const DeviceOps vmgenid_ops = {
    .name = "vmgenid", .reset = vmgenid_reset, .release = vmgenid_release};

Device *vmgenid_new(GuestMem *gm, uint64_t gpa, const uint8_t guid[GUID_SIZE])
{
    Vmgenid *v = g_new0(Vmgenid, 1);

    device_init(&v->dev, &vmgenid_ops, "vmgenid");
    v->gm = gm;
    v->gpa = gpa;
    vmgenid_set(&v->dev, guid);
    return &v->dev;
}
