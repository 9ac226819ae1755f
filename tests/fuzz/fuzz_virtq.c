/* Virtqueues against a driver made of noise: the input is ring memory, and what happens
 * in which order.  Checked is what virtq.h promises to devices: pieces lie in RAM,
 * readable ones before writable ones, no more than VQ_MAX_SIZE, and an id is in flight
 * once.
 *
 * Input: one byte of modes, one of queue size, one with the number of steps, the steps (3
 * bytes each), then memory: descriptors, the driver area, indirect tables. */
#include <stdlib.h>

#include "util/bits.h"
#include "virtio/virtio.h"

enum {
    RAM = 0x10000,
    DESC = 0x1000,
    DRIVER = 0x2000,
    DEVICE = 0x3000,
    TABLES = 0x4000,
    TABLES_SIZE = 0x2000,
    MAX_STEPS = 64,
};
enum { MODE_PACKED = 1, MODE_EVENT_IDX = 2, MODE_INDIRECT = 4, MODE_TAME = 8 };
enum { HEADER = 3, STEP = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Target {
    VirtioDevice vdev;
    bool in_flight[VQ_MAX_SIZE];
    unsigned n_held;
    VqReq held[VQ_MAX_SIZE];
} Target;

static GuestMem gm;

static void check(bool promise)
{
    if (!promise)
        abort();
}

static void check_request(Target *t, const Virtqueue *vq, const VqReq *req)
{
    uint64_t bytes = 0;

    check(req->id < vq->cfg.size);
    check(!t->in_flight[req->id]);
    check(req->n_desc >= 1 && req->n_desc <= vq->cfg.size);
    check(req->n_read + req->n_write <= VQ_MAX_SIZE);
    for (unsigned i = 0; i < req->n_read + req->n_write; i++) {
        const struct iovec *v = &req->iov[i];

        check(v->iov_len > 0);
        check((uint8_t *)v->iov_base >= gm.base);
        check(
            range_within((uint64_t)((uint8_t *)v->iov_base - gm.base), v->iov_len, RAM));
        bytes += v->iov_len;
    }
    check(bytes <= UINT32_MAX);
    check(vq->in_flight <= vq->cfg.size && vq->held <= vq->cfg.size);
}

static void pop(Target *t, Virtqueue *vq)
{
    VqReq *req = &t->held[t->n_held];

    if (t->n_held == VQ_MAX_SIZE || !vq_pop(vq, req))
        return;
    check_request(t, vq, req);
    t->in_flight[req->id] = true;
    t->n_held++;
}

static void push(Target *t, Virtqueue *vq, unsigned which, unsigned batch)
{
    for (unsigned n = 0; n < batch && t->n_held; n++) {
        VqReq *req = &t->held[which % t->n_held];

        t->in_flight[req->id] = false;
        vq_fill(vq, req, which);
        *req = t->held[--t->n_held];
    }
    vq_flush(vq);
}

static void unpop(Target *t, Virtqueue *vq)
{
    VqReq *req;

    if (!t->n_held)
        return;
    req = &t->held[--t->n_held];
    t->in_flight[req->id] = false;
    vq_unpop(vq, req);
}

/* Handling is done by steps below. */
static void handle(VirtioDevice *v, Virtqueue *vq)
{
}

static bool realize(VirtioDevice *v, const void *options, GError **error)
{
    v->n_queues = 1;
    return true;
}

static void step(Target *t, Virtqueue *vq, const uint8_t *s, bool *newest_first)
{
    unsigned at;

    switch (s[0] % 8) {
    case 0:
    case 1:
        pop(t, vq);
        *newest_first = true;
        break;
    case 2:
        push(t, vq, s[1], 1 + s[2] % 8);
        *newest_first = false; /* unpop is for the requests popped last */
        break;
    case 3:
        if (*newest_first && t->n_held)
            unpop(t, vq);
        *newest_first = false;
        break;
    case 4:
        vq_notify(vq);
        break;
    case 5:
        s[1] & 1 ? (void)vq_enable_kicks(vq) : vq_disable_kicks(vq);
        break;
    case 6: /* the driver goes on writing: its index, or a descriptor's bytes */
        at = s[1] & 0x80 ? DRIVER + 2 : DESC + 2 * (s[1] & 0x7f);
        store_le16(gm.base + at, (uint16_t)(load_le16(gm.base + at) + s[2]));
        break;
    default:
        vq_has_work(vq);
    }
}

static void lay_out(const uint8_t *data, size_t size, unsigned n, bool tame)
{
    const uint64_t at[] = {DESC, DRIVER, TABLES};
    const size_t len[] = {16 * n, 6 + 2 * n, TABLES_SIZE};

    memset(gm.base, 0, TABLES + TABLES_SIZE);
    for (unsigned i = 0; i < G_N_ELEMENTS(at); i++) {
        size_t part = MIN(size, len[i]);

        memcpy(gm.base + at[i], data, part);
        data += part;
        size -= part;
    }
    if (!tame)
        return;
    for (uint8_t *d = gm.base + DESC; d < gm.base + TABLES + TABLES_SIZE; d += 16) {
        if (d >= gm.base + DESC + 16 * n && d < gm.base + TABLES)
            continue;
        store_le64(d, load_le64(d) & (RAM - 1));
        store_le32(d + 8, load_le32(d + 8) & 0xfff);
    }
}

static VirtioDevice *target(void)
{
    static const VirtioOps ops = {
        .name = "fuzz",
        .size = sizeof(Target),
        .queue_size = VQ_MAX_SIZE,
        .realize = realize,
        .handle = handle,
    };
    static VirtioEnv env;
    static VirtioDevice *v;

    if (v)
        return v;
    log_set_level(LOG_ERROR);
    check(gm_init(&gm, &(GuestMemOptions){.size = RAM}, NULL) &&
          gm_add(&gm, 0, RAM, NULL));
    env = (VirtioEnv){.gm = &gm, .main = ioloop_new(NULL)};
    env.shared_io = env.main; /* which nobody runs: calls are plain calls */
    v = virtio_new(&ops, NULL, NULL, &env, NULL);
    return v;
}

static bool begin(VirtioDevice *v, unsigned mode, uint16_t size)
{
    VqConfig *reg;

    virtio_reset(v);
    v->features = BIT64(VIRTIO_F_VERSION_1);
    v->features |= mode & MODE_PACKED ? BIT64(VIRTIO_F_RING_PACKED) : 0;
    v->features |= mode & MODE_EVENT_IDX ? BIT64(VIRTIO_F_EVENT_IDX) : 0;
    v->features |= mode & MODE_INDIRECT ? BIT64(VIRTIO_F_INDIRECT_DESC) : 0;
    reg = virtio_queue_config(v, 0);
    *reg = (VqConfig){size, true, DESC, DRIVER, DEVICE};
    virtio_set_status(v, 0xf);
    return !virtio_is_broken(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    VirtioDevice *v = target();
    Target *t = (Target *)v;
    unsigned mode, n, steps;
    bool newest_first = false;

    if (size < HEADER)
        return 0;
    mode = data[0];
    if (mode & MODE_PACKED) /* rather small, where more happens */
        n = 1u + (data[1] & 0x80 ? 2 * (data[1] & 0x7f) : data[1] % 8);
    else
        n = 1u << data[1] % 9;
    steps = MIN(data[2] % MAX_STEPS, (unsigned)(size - HEADER) / STEP);
    lay_out(data + HEADER + STEP * steps, size - HEADER - STEP * steps, n,
            mode & MODE_TAME);
    memset(t->in_flight, 0, sizeof(t->in_flight));
    t->n_held = 0;
    if (!begin(v, mode, (uint16_t)n))
        return 0;
    for (unsigned i = 0; i < steps; i++)
        step(t, &v->queues[0].vq, data + HEADER + STEP * i, &newest_first);
    virtio_reset(v);
    return 0;
}
