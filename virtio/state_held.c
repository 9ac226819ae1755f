/* Requests that a device holds in spite of a pause, in a saved state: ID/queueN.  They
 * are in flight as far as the driver can tell, and go on being so.  Each is saved with
 * its pieces, because a packed ring may have lost their descriptors since. */
#include "virtio/state.h"

#include <inttypes.h>

#include "state_private.h"
#include "virtio/virtq_internal.h"

enum { MAX_REQUESTS = VQ_MAX_SIZE, MAX_PIECES = VQ_MAX_SIZE * VQ_MAX_SIZE };

typedef struct HeldRequest {
    uint16_t id, n_desc;
    uint16_t n_read, n_pieces;
} HeldRequest;

typedef struct HeldState {
    uint32_t n_requests, n_pieces;
    HeldRequest request[MAX_REQUESTS];
    VqPiece piece[MAX_PIECES]; /* of the first request, then of the next */
} HeldState;

static const StateField request_fields[] = {
    STATE_FIELD(HeldRequest, id, 1, U16, .max = VQ_MAX_SIZE - 1),
    STATE_FIELD(HeldRequest, n_desc, 2, U16, .min = 1, .max = VQ_MAX_SIZE,
                .help = "ring entries that it takes"),
    STATE_FIELD(HeldRequest, n_read, 3, U16, .max = VQ_MAX_SIZE,
                .help = "pieces that the device reads"),
    STATE_FIELD(HeldRequest, n_pieces, 4, U16, .max = VQ_MAX_SIZE),
    {},
};

static const StateTable request_table = {
    .name = "virtqueue-request",
    .version = 1,
    .size = sizeof(HeldRequest),
    .fields = request_fields,
};

static const StateField piece_fields[] = {
    STATE_FIELD(VqPiece, gpa, 1, U64, .help = "guest address"),
    STATE_FIELD(VqPiece, len, 2, U32),
    STATE_SKIP(VqPiece, pad),
    {},
};

static const StateTable piece_table = {
    .name = "virtqueue-piece",
    .version = 1,
    .size = sizeof(VqPiece),
    .fields = piece_fields,
};

static const StateField held_fields[] = {
    STATE_LIST(HeldState, request, n_requests, 1, &request_table),
    STATE_LIST(HeldState, piece, n_pieces, 2, &piece_table,
               .help = "of the first request, then of the next"),
    {},
};

static bool held_check(const void *opaque, GError **error)
{
    const HeldState *s = opaque;
    uint32_t n_pieces = 0;

    for (uint32_t i = 0; i < s->n_requests; i++) {
        if (s->request[i].n_read > s->request[i].n_pieces)
            return fail(error, VM_ERROR_CORRUPT,
                        "request %" PRIu32 " reads %u pieces of %u", i,
                        s->request[i].n_read, s->request[i].n_pieces);
        n_pieces += s->request[i].n_pieces;
    }
    return n_pieces == s->n_pieces ||
           fail(error, VM_ERROR_CORRUPT,
                "the requests have %" PRIu32 " pieces, and there are %" PRIu32, n_pieces,
                s->n_pieces);
}

const StateTable virtio_held_table = {
    .name = "virtqueue-held",
    .version = 1,
    .size = sizeof(HeldState),
    .fields = held_fields,
    .check = held_check,
};

static const char *held_section(const VirtioDevice *v, unsigned queue, char name[64])
{
    g_snprintf(name, 64, "%s/queue%u", v->id, queue);
    return name;
}

/* Of an address inside of guest RAM, as all of a request's are. */
static uint64_t gpa_of(const GuestMem *gm, const void *host)
{
    for (unsigned i = 0; i < gm->n_regions; i++) {
        const GuestRegion *g = &gm->region[i];
        uint64_t at = (uint64_t)((const uint8_t *)host - g->host);

        if ((const uint8_t *)host >= g->host && at < g->size)
            return g->gpa + at;
    }
    return UINT64_MAX;
}

void virtio_save_held(const VirtioDevice *v, unsigned queue, const VqReq *const *reqs,
                      unsigned n, StateWriter *w)
{
    g_autofree HeldState *s = n ? g_new0(HeldState, 1) : NULL;
    char name[64];

    for (unsigned r = 0; r < n; r++) {
        const VqReq *req = reqs[r];
        uint16_t n_pieces = req->n_read + req->n_write;

        s->request[r] = (HeldRequest){req->id, req->n_desc, req->n_read, n_pieces};
        for (unsigned i = 0; i < n_pieces; i++)
            s->piece[s->n_pieces++] = (VqPiece){
                .gpa = gpa_of(v->gm, req->iov[i].iov_base),
                .len = (uint32_t)req->iov[i].iov_len};
    }
    if (!n)
        return;
    s->n_requests = n;
    state_put(w, held_section(v, queue, name), &virtio_held_table, s);
}

static void claim_all(VirtioDevice *v, unsigned queue, const HeldState *s,
                      VqReq *(*room)(void *opaque, unsigned queue), void *opaque)
{
    const VqPiece *piece = s->piece;

    for (uint32_t i = 0; i < s->n_requests && !virtio_is_broken(v); i++) {
        const HeldRequest *h = &s->request[i];
        const VqClaim claim = {h->id, h->n_desc, h->n_read, h->n_pieces, piece};
        VqReq *req = room(opaque, queue);

        if (!req || !vq_claim(&v->queues[queue].vq, &claim, req))
            return;
        piece += h->n_pieces;
    }
}

bool virtio_load_held(VirtioDevice *v, unsigned queue, StateReader *r,
                      VqReq *(*room)(void *opaque, unsigned queue), void *opaque,
                      GError **error)
{
    g_autofree HeldState *s = NULL;
    char name[64];

    if (!state_has(r, held_section(v, queue, name)))
        return true;
    s = g_new0(HeldState, 1);
    if (!state_get(r, name, &virtio_held_table, s, error))
        return false;
    if (v->queues[queue].vq.desc)
        claim_all(v, queue, s, room, opaque);
    return true;
}
