/* See vlan.h. */
#include "src/switch/vlan.h"

#include "util/bits.h"

enum { TYPE_AT = 12, VID_MASK = 0xfff };

/* Offsets of the virtio header count from the frame's first byte. */
static void shift_header(VnetHdr *hdr, int by)
{
    if (hdr->flags & VNET_NEEDS_CSUM)
        hdr->csum_start = (uint16_t)(hdr->csum_start + by);
    if (hdr->gso_type != VNET_GSO_NONE)
        hdr->hdr_len = (uint16_t)(hdr->hdr_len + by);
}

void vlan_pop(Frame *f)
{
    memmove(f->data + ETH_TAG, f->data, TYPE_AT);
    f->data += ETH_TAG;
    f->len -= ETH_TAG;
    shift_header(&f->hdr, -ETH_TAG);
}

void vlan_push(Frame *f)
{
    f->data -= ETH_TAG;
    f->len += ETH_TAG;
    memmove(f->data, f->data + ETH_TAG, TYPE_AT);
    f->data[TYPE_AT] = ETHER_VLAN >> 8;
    f->data[TYPE_AT + 1] = ETHER_VLAN & 0xff;
    f->data[TYPE_AT + 2] = (uint8_t)(f->vlan >> 8);
    f->data[TYPE_AT + 3] = (uint8_t)f->vlan;
    shift_header(&f->hdr, ETH_TAG);
}

static bool in_trunk(const Port *port, uint16_t vlan)
{
    return port->trunk && port->trunk[vlan / 8] >> (vlan % 8) & 1;
}

bool vlan_receive(const Port *from, Frame *f)
{
    uint16_t vid = 0;

    if (f->len >= ETH_HEADER + ETH_TAG && load_be16(f->data + TYPE_AT) == ETHER_VLAN) {
        vid = load_be16(f->data + TYPE_AT + 2) & VID_MASK;
        if ((f->hdr.flags & VNET_NEEDS_CSUM) && f->hdr.csum_start < ETH_HEADER + ETH_TAG)
            return false;
        vlan_pop(f);
    }
    f->vlan = vid ? vid : from->vlan;
    return !vid || in_trunk(from, vid);
}

bool vlan_is_tagged(const Port *to, uint16_t vlan)
{
    return vlan != to->vlan;
}

bool vlan_is_member(const Port *to, uint16_t vlan)
{
    return vlan == to->vlan || in_trunk(to, vlan);
}

bool vlan_trunk_parse(const json_t *numbers, uint8_t **ret, GError **error)
{
    g_autofree uint8_t *trunk = NULL;

    if (!json_is_array(numbers))
        return fail(error, VM_ERROR_INVALID, "trunk: give an array of VLANs");
    if (json_array_size(numbers))
        trunk = g_malloc0((VLAN_MAX + 2) / 8);
    for (size_t i = 0; i < json_array_size(numbers); i++) {
        json_int_t vlan = json_integer_value(json_array_get(numbers, i));

        if (vlan < 1 || vlan > VLAN_MAX)
            return fail(error, VM_ERROR_INVALID, "trunk: a VLAN is a number from 1 to %d",
                        VLAN_MAX);
        trunk[vlan / 8] |= (uint8_t)(1 << (vlan % 8));
    }
    *ret = g_steal_pointer(&trunk);
    return true;
}

json_t *vlan_trunk_json(const uint8_t *trunk)
{
    json_t *list = json_array();

    for (int vlan = 1; trunk && vlan <= VLAN_MAX; vlan++)
        if (trunk[vlan / 8] >> (vlan % 8) & 1)
            json_array_append_new(list, json_integer(vlan));
    return list;
}
