/* A guest that leaves to its card what the backend cannot do: it was moved here from one
 * that could, and its driver does not ask again.  Checksums are filled in and segments
 * are cut here, then. */
#include <string.h>

#include "packet/offload.h"
#include "src/net/netdev_private.h"
#include "util/iov.h"

_Static_assert(sizeof(VnetHdr) == NET_HDR_LEN, "the header that frames have");

struct Soften {
    NetDev *nd;
    bool sent, refused; /* some of a frame's segments */
    uint8_t frame[NET_MAX_FRAME];
    uint8_t scratch[1 << 16];
};

Soften *soften_new(NetDev *nd)
{
    Soften *s = g_new0(Soften, 1);

    s->nd = nd;
    return s;
}

static bool each(void *opaque, const uint8_t *frame, size_t len)
{
    Soften *s = opaque;
    VnetHdr none = {0};
    const struct iovec iov[] = {{&none, sizeof(none)}, {(void *)frame, len}};

    s->refused = !s->nd->ops->send(s->nd, iov, G_N_ELEMENTS(iov));
    s->sent |= !s->refused;
    return !s->refused;
}

/* False as of netdev_send(): the backend has no room for the first piece.  One that has
 * none for a later piece loses what is left, which the guest sends again. */
bool soften_send(Soften *s, const struct iovec *iov, unsigned n)
{
    size_t len = iov_len(iov, n) - NET_HDR_LEN;
    VnetHdr hdr;

    iov_to_buf(iov, n, 0, &hdr, sizeof(hdr));
    if (!(hdr.flags & VNET_NEEDS_CSUM) && hdr.gso_type == VNET_GSO_NONE)
        return s->nd->ops->send(s->nd, iov, n);
    if (len > sizeof(s->frame))
        return true;
    iov_to_buf(iov, n, NET_HDR_LEN, s->frame, len);
    s->sent = s->refused = false;
    if (vnet_hdr_valid(&hdr, s->frame, len))
        vnet_segment(&hdr, s->frame, len, s->scratch, each, s);
    return s->sent || !s->refused;
}
