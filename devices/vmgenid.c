/* VM generation ID (Microsoft, "Virtual Machine Generation ID", 2012; QEMU
 * docs/specs/vmgenid): 16 bytes of guest RAM that say which life of the machine this is.
 * ACPI tells the guest where they are (src/machine/acpi.c), and a general-purpose event
 * that they changed. */
#include "devices/platform.h"
#include "devices/state_private.h"

enum { GUID_SIZE = 16 };

typedef struct VmgenidState {
    uint8_t guid[GUID_SIZE];
} VmgenidState;

static const StateField vmgenid_fields[] = {
    STATE_RAW(VmgenidState, guid, 1, .help = "generation of the machine, as in its RAM"),
    {},
};

const StateTable vmgenid_state_table = {.name = "vmgenid",
                                        .version = 1,
                                        .size = sizeof(VmgenidState),
                                        .fields = vmgenid_fields};

typedef struct Vmgenid {
    Device dev;
    VmgenidState s;
    GuestMem *gm;
    uint64_t gpa;
} Vmgenid;

static bool publish(Vmgenid *v)
{
    return gm_write(v->gm, v->gpa + VMGENID_OFFSET, v->s.guid, GUID_SIZE);
}

/* Main thread.  Same machine, same life: but the last kernel may have used the page. */
static void vmgenid_reset(Device *d)
{
    publish((Vmgenid *)d);
}

bool vmgenid_set(Device *d, const uint8_t guid[GUID_SIZE])
{
    Vmgenid *v = (Vmgenid *)d;

    memcpy(v->s.guid, guid, GUID_SIZE);
    return publish(v);
}

static void vmgenid_save(Device *d, StateWriter *w)
{
    state_put(w, d->id, &vmgenid_state_table, &((Vmgenid *)d)->s);
}

/* The ID of a machine that was just made is in RAM already, over the saved one. */
static bool vmgenid_load(Device *d, StateReader *r, GError **error)
{
    Vmgenid *v = (Vmgenid *)d;

    if (!state_get(r, d->id, &vmgenid_state_table, &v->s, error))
        return false;
    publish(v);
    return true;
}

static void vmgenid_release(Device *d)
{
    device_finish(d);
    g_free(d);
}

static const DeviceOps vmgenid_ops = {
    .name = "vmgenid",
    .reset = vmgenid_reset,
    .release = vmgenid_release,
    .save = vmgenid_save,
    .load = vmgenid_load,
};

Device *vmgenid_new(GuestMem *gm, uint64_t gpa, const uint8_t guid[GUID_SIZE])
{
    Vmgenid *v = g_new0(Vmgenid, 1);

    device_init(&v->dev, &vmgenid_ops, "vmgenid");
    v->gm = gm;
    v->gpa = gpa;
    vmgenid_set(&v->dev, guid);
    return &v->dev;
}
