/* What a frame from outside says, and that it says no other thing later.
 *
 * The virtio header may ask for a checksum that is still to be filled in, anywhere in the
 * frame.  Who can do that himself gets it as it is; for others a port fills it in, after
 * guard and rules have looked.  So it is left open only where a checksum belongs, in the
 * transport header that was found. */
#include "src/switch/switch.h"

/* Whether the checksum that is still to be filled in is the transport's own. */
static bool sums_up_transport(const Frame *f)
{
    const Packet *p = &f->p;
    uint16_t at;

    switch (p->proto) {
    case IPPROTO_TCP:
        at = 16;
        break;
    case IPPROTO_UDP:
        at = 6;
        break;
    case IPPROTO_ICMPV6:
        at = 2;
        break;
    default:
        return false;
    }
    return p->transport && f->hdr.csum_start == p->transport && f->hdr.csum_offset == at;
}

bool frame_parse(Frame *f)
{
    if (!packet_parse(f->data, f->len, &f->p))
        return false;
    if (!(f->hdr.flags & VNET_NEEDS_CSUM) || sums_up_transport(f))
        return true;
    if (f->hdr.gso_type != VNET_GSO_NONE)
        return false;
    vnet_finish_checksum(&f->hdr, f->data, f->len);
    return packet_parse(f->data, f->len, &f->p);
}

bool frame_tcp_sum_ok(const Frame *f)
{
    return f->hdr.flags & (VNET_NEEDS_CSUM | VNET_DATA_VALID) ||
           packet_tcp_sum_ok(&f->p, f->data);
}
