/* The driver's half of virtqueues (virtio 1.2, 2.7 and 2.8), for tests; see vq_guest.h.
 */
#include "vq_guest.h"

#include <string.h>

#include "util/bits.h"

enum {
    RING_BASE = 0x10000, /* then a stride for each queue */
    RING_STRIDE = 0x3000,
    DRIVER_AREA = 0x1000,
    DEVICE_AREA = 0x2000,
    DATA_BASE = 0x200000,
    TABLE_MAX = 256 * 16,
    SETTLE_TURNS = 4,
    PACKED_AVAIL = 0x80,
    PACKED_USED = 0x8000,
    PACKED_WRAP = 0x8000,
    EVENT_DISABLE = 1,
    EVENT_DESC = 2,
};
static const int64_t PATIENCE_NS = 10000000000;

const unsigned vqg_modes[VQG_N_MODES] = {
    0,
    VQG_INDIRECT,
    VQG_EVENT_IDX,
    VQG_INDIRECT | VQG_EVENT_IDX,
    VQG_PACKED,
    VQG_PACKED | VQG_INDIRECT,
    VQG_PACKED | VQG_EVENT_IDX,
    VQG_PACKED | VQG_INDIRECT | VQG_EVENT_IDX,
};

typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t a, b; /* split: flags, next; packed: id, flags */
} Desc;

/* ---- life-cycle ------------------------------------------------------------------- */

static void on_interrupt(void *opaque, int queue)
{
    VqGuest *g = opaque;
    unsigned *count = queue == VIRTIO_CONFIG_VECTOR ? &g->config_interrupts
                                                    : &g->q[queue].interrupts;

    __atomic_fetch_add(count, 1, __ATOMIC_SEQ_CST);
    ioloop_quit(g->env.main); /* vqg_wait looks again */
}

static const VirtioBinding binding = {.interrupt = on_interrupt};

void vqg_init(VqGuest *g, const VirtioOps *ops)
{
    vqg_open(g, ops, &(VqgSetup){0});
}

static void make_ram(VqGuest *g)
{
    GError *error = NULL;
    const void *options = g->setup.options;
    bool shared = g->ops.remote ||
                  (g->ops.wants_shared && options && g->ops.wants_shared(options));
    GuestMemOptions o = {.size = VQG_LOW_SIZE + VQG_HIGH_SIZE, .shared = shared};

    g_assert_true(gm_init(&g->gm, &o, &error));
    g_assert_true(gm_add(&g->gm, 0, VQG_LOW_SIZE, &error));
    g_assert_true(gm_add(&g->gm, VQG_HIGH_BASE, VQG_HIGH_SIZE, &error));
    g->next_gpa = DATA_BASE;
}

void vqg_open(VqGuest *g, const VirtioOps *ops, const VqgSetup *setup)
{
    GError *error = NULL;
    bool thread = setup->mode & VQG_THREAD;

    memset(g, 0, sizeof(*g));
    g->setup = *setup;
    g->ops = *ops;
    g->ops.own_thread = ops->own_thread && thread;
    make_ram(g);
    g->env = (VirtioEnv){.gm = &g->gm, .n_cpus = 2, .main = ioloop_new(&error)};
    g_assert_no_error(error);
    g->env.shared_io = thread ? ioloop_start("io-test", &error) : g->env.main;
    g_assert_no_error(error);
    g->vdev = virtio_new(&g->ops, NULL, setup->options, &g->env, &error);
    g_assert_no_error(error);
    virtio_bind(g->vdev, &binding, g);
    vqg_start(g);
}

void vqg_finish(VqGuest *g)
{
    virtio_free(g->vdev);
    if (g->env.shared_io != g->env.main)
        ioloop_free(g->env.shared_io);
    ioloop_free(g->env.main);
    gm_finish(&g->gm);
    memset(g, 0, sizeof(*g));
}

GBytes *vqg_save(VqGuest *g)
{
    StateWriter *w = state_writer_new();
    GError *error = NULL;
    GBytes *state;

    virtio_quiesce(g->vdev);
    virtio_save(g->vdev, w);
    state = state_writer_end(w, &error);
    g_assert_no_error(error);
    return state;
}

void vqg_resume(VqGuest *g)
{
    virtio_resume(g->vdev);
    vqg_settle(g);
}

void vqg_replace(VqGuest *g, const void *options)
{
    GError *error = NULL;

    virtio_free(g->vdev);
    g->setup.options = options;
    g->vdev = virtio_new(&g->ops, NULL, options, &g->env, &error);
    g_assert_no_error(error);
    virtio_bind(g->vdev, &binding, g);
}

bool vqg_load(VqGuest *g, GBytes *state, GError **error)
{
    g_autoptr(StateReader) r = state_reader_new(state, error);

    return r && virtio_load(g->vdev, r, error) && state_reader_done(r, error);
}

void vqg_restore(VqGuest *g)
{
    g_autoptr(GBytes) before = vqg_save(g);
    g_autoptr(GBytes) after = NULL;
    GError *error = NULL;

    vqg_replace(g, g->setup.options);
    vqg_load(g, before, &error);
    g_assert_no_error(error);
    after = vqg_save(g);
    g_assert_cmpmem(g_bytes_get_data(before, NULL), g_bytes_get_size(before),
                    g_bytes_get_data(after, NULL), g_bytes_get_size(after));
    vqg_resume(g);
}

void vqg_reset(VqGuest *g)
{
    virtio_set_status(g->vdev, 0);
    g_assert_cmphex(virtio_status(g->vdev), ==, 0);
}

static uint64_t wanted_features(const VqGuest *g, uint64_t offered)
{
    unsigned mode = g->setup.mode;
    uint64_t no = g->setup.refuse;

    no |= mode & VQG_PACKED ? 0 : BIT64(VIRTIO_F_RING_PACKED);
    no |= mode & VQG_INDIRECT ? 0 : BIT64(VIRTIO_F_INDIRECT_DESC);
    no |= mode & VQG_EVENT_IDX ? 0 : BIT64(VIRTIO_F_EVENT_IDX);
    return offered & ~no;
}

static void negotiate(VqGuest *g)
{
    VirtioDevice *v = g->vdev;
    uint64_t offered = 0, wanted;

    for (unsigned half = 0; half < 2; half++) {
        v->feature_select[0] = half;
        offered |= (uint64_t)virtio_device_features(v) << (32 * half);
    }
    wanted = wanted_features(g, offered);
    for (unsigned half = 0; half < 2; half++) {
        v->feature_select[1] = half;
        virtio_set_driver_features(v, (uint32_t)(wanted >> (32 * half)));
    }
}

static void set_up_queue(VqGuest *g, unsigned i)
{
    VqConfig *reg = virtio_queue_config(g->vdev, i);
    VqgQueue *q = &g->q[i];
    uint64_t base = RING_BASE + (uint64_t)i * RING_STRIDE;

    memset(q, 0, sizeof(*q));
    memset(vqg_mem(g, base, RING_STRIDE), 0, RING_STRIDE);
    if (g->setup.queue_size)
        reg->size = g->setup.queue_size;
    q->size = q->n_free = reg->size;
    q->packed = q->avail_wrap = q->used_wrap = g->setup.mode & VQG_PACKED;
    reg->desc = q->desc_gpa = base;
    reg->driver = q->driver_gpa = base + DRIVER_AREA;
    reg->device = q->device_gpa = base + DEVICE_AREA;
    q->desc = vqg_mem(g, base, DRIVER_AREA);
    q->driver = q->desc + DRIVER_AREA;
    q->device = q->desc + DEVICE_AREA;
    vqg_want_interrupts(g, i, true);
    reg->enabled = true;
}

void vqg_start(VqGuest *g)
{
    VirtioDevice *v = g->vdev;
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

    virtio_set_status(v, status);
    negotiate(g);
    status |= VIRTIO_STATUS_FEATURES_OK;
    virtio_set_status(v, status);
    g_assert_cmphex(virtio_status(v), ==, status);
    for (unsigned i = 0; i < v->n_queues; i++)
        set_up_queue(g, i);
    if (!g->setup.stop_early)
        virtio_set_status(v, status | VIRTIO_STATUS_DRIVER_OK);
}

/* ---- memory ----------------------------------------------------------------------- */

uint64_t vqg_alloc(VqGuest *g, uint64_t len)
{
    uint64_t gpa = g->next_gpa;

    g->next_gpa = align_up(gpa + len, 16);
    memset(vqg_mem(g, gpa, len), 0, len);
    return gpa;
}

void *vqg_mem(VqGuest *g, uint64_t gpa, uint64_t len)
{
    void *host = gm_at(&g->gm, gpa, len);

    g_assert_nonnull(host);
    return host;
}

/* ---- offering --------------------------------------------------------------------- */

void vqg_desc_at(VqGuest *g, uint64_t at, uint64_t gpa, uint32_t len, uint16_t flags,
                 uint16_t next_or_id)
{
    bool packed = g->setup.mode & VQG_PACKED;
    Desc d = {gpa, len, packed ? next_or_id : flags, packed ? flags : next_or_id};

    memcpy(vqg_mem(g, at, sizeof(d)), &d, sizeof(d));
}

/* AVAIL and USED as they are in an available descriptor (2.8.1). */
static uint16_t packed_flags(bool wrap)
{
    return wrap ? PACKED_AVAIL : PACKED_USED;
}

void vqg_desc(VqGuest *g, unsigned queue, unsigned i, uint64_t gpa, uint32_t len,
              uint16_t flags, uint16_t next_or_id)
{
    VqgQueue *q = &g->q[queue];
    Desc *d = (Desc *)q->desc + i;

    if (!q->packed) {
        *d = (Desc){gpa, len, flags, next_or_id};
        return;
    }
    d->addr = gpa;
    d->len = len;
    d->a = next_or_id;
    __atomic_store_n(&d->b, flags | packed_flags(q->avail_wrap), __ATOMIC_RELEASE);
}

void vqg_publish_split(VqGuest *g, unsigned queue, uint16_t head, uint16_t step)
{
    VqgQueue *q = &g->q[queue];
    uint16_t *avail = (uint16_t *)q->driver;

    __atomic_store_n(&avail[2 + q->avail_idx % q->size], head, __ATOMIC_RELAXED);
    q->avail_idx += step;
    __atomic_store_n(&avail[1], q->avail_idx, __ATOMIC_RELEASE);
    q->unsent += step;
}

static unsigned find_free(const VqgQueue *q)
{
    unsigned i = 0;

    while (i < q->size && q->busy[i])
        i++;
    g_assert_cmpuint(i, <, q->size);
    return i;
}

static uint16_t buf_flags(const VqgBuf *buf, bool last)
{
    return (buf->write ? VQG_F_WRITE : 0) | (last ? 0 : VQG_F_NEXT);
}

static uint64_t make_table(VqGuest *g, VqgQueue *q, unsigned token, const VqgBuf *bufs,
                           unsigned n)
{
    g_assert_cmpuint(n * sizeof(Desc), <=, TABLE_MAX);
    if (!q->table[token])
        q->table[token] = vqg_alloc(g, TABLE_MAX);
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = buf_flags(&bufs[i], i == n - 1 || q->packed);

        vqg_desc_at(g, q->table[token] + i * sizeof(Desc), bufs[i].gpa, bufs[i].len,
                    flags, q->packed ? 0 : (uint16_t)(i + 1));
    }
    return q->table[token];
}

static unsigned chain_split(VqGuest *g, unsigned queue, const VqgBuf *bufs, unsigned n,
                            uint64_t table)
{
    VqgQueue *q = &g->q[queue];
    unsigned head = find_free(q), at = head;

    q->held[head] = (uint16_t)n;
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = buf_flags(&bufs[i], i == n - 1) | (table ? VQG_F_INDIRECT : 0);
        unsigned next;

        q->busy[at] = true;
        next = i < n - 1 ? find_free(q) : 0;
        vqg_desc(g, queue, at, bufs[i].gpa, bufs[i].len, flags, (uint16_t)next);
        at = next;
    }
    vqg_publish_split(g, queue, (uint16_t)head, 1);
    return head;
}

/* The head's flags last: they publish the chain. */
static unsigned chain_packed(VqGuest *g, unsigned queue, const VqgBuf *bufs, unsigned n,
                             uint64_t table)
{
    VqgQueue *q = &g->q[queue];
    unsigned id = find_free(q), head = q->avail_idx;
    uint16_t head_flags = 0;

    q->busy[id] = true;
    q->held[id] = (uint16_t)n;
    for (unsigned i = 0; i < n; i++) {
        Desc *d = (Desc *)q->desc + q->avail_idx;
        uint16_t flags = buf_flags(&bufs[i], i == n - 1) | (table ? VQG_F_INDIRECT : 0) |
                         packed_flags(q->avail_wrap);

        d->addr = bufs[i].gpa;
        d->len = bufs[i].len;
        d->a = (uint16_t)id;
        if (i)
            __atomic_store_n(&d->b, flags, __ATOMIC_RELAXED);
        else
            head_flags = flags;
        if (++q->avail_idx == q->size) {
            q->avail_idx = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    __atomic_store_n(&((Desc *)q->desc + head)->b, head_flags, __ATOMIC_RELEASE);
    q->unsent += n;
    return id;
}

unsigned vqg_chain(VqGuest *g, unsigned queue, const VqgBuf *bufs, unsigned n)
{
    VqgQueue *q = &g->q[queue];
    uint64_t table = 0;
    VqgBuf whole;

    g_assert_cmpuint(n, >, 0);
    if (n > 1 && (g->setup.mode & VQG_INDIRECT)) {
        table = make_table(g, q, find_free(q), bufs, n);
        whole = (VqgBuf){table, n * sizeof(Desc), OUT};
        bufs = &whole;
        n = 1;
    }
    g_assert_cmpuint(n, <=, q->n_free);
    q->n_free -= n;
    return q->packed ? chain_packed(g, queue, bufs, n, table)
                     : chain_split(g, queue, bufs, n, table);
}

unsigned vqg_offer(VqGuest *g, uint64_t gpa, uint32_t len, bool write)
{
    return vqg_chain(g, 0, &(VqgBuf){gpa, len, write}, 1);
}

/* ---- kicking and waiting ---------------------------------------------------------- */

static bool packed_kick_wanted(const VqGuest *g, const VqgQueue *q)
{
    const uint16_t *event = (const uint16_t *)q->device;
    uint16_t flags = __atomic_load_n(&event[1], __ATOMIC_ACQUIRE);
    uint16_t off_wrap = __atomic_load_n(&event[0], __ATOMIC_RELAXED);
    int at = off_wrap & ~PACKED_WRAP;

    if (flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    if (!!(off_wrap & PACKED_WRAP) != q->avail_wrap)
        at -= q->size;
    return (uint16_t)(q->avail_idx - at - 1) < q->unsent;
}

bool vqg_kick_wanted(VqGuest *g, unsigned queue)
{
    const VqgQueue *q = &g->q[queue];
    const uint16_t *used = (const uint16_t *)q->device;
    uint16_t event;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->packed)
        return packed_kick_wanted(g, q);
    if (!(g->setup.mode & VQG_EVENT_IDX))
        return !(__atomic_load_n(used, __ATOMIC_ACQUIRE) & 1);
    event = __atomic_load_n(&used[2 + 4 * q->size], __ATOMIC_ACQUIRE);
    return (uint16_t)(q->avail_idx - event - 1) < q->unsent;
}

void vqg_poke(VqGuest *g, unsigned queue)
{
    g->q[queue].unsent = 0;
    virtio_queue_kick(g->vdev, queue);
    vqg_settle(g);
}

void vqg_kick_queue(VqGuest *g, unsigned queue)
{
    if (vqg_kick_wanted(g, queue)) {
        vqg_poke(g, queue);
    } else {
        g->q[queue].unsent = 0;
        vqg_settle(g);
    }
}

void vqg_kick(VqGuest *g)
{
    vqg_kick_queue(g, 0);
}

static void quit(void *opaque)
{
    ioloop_quit(opaque);
}

/* Runs the test's own loop until something interrupts or `ns` are over; 0 is one turn. */
static void run_main(VqGuest *g, int64_t ns)
{
    IoTimer timer = {0};

    ioloop_timer(g->env.main, &timer, ns ? clock_ns() + ns : 0, quit, g->env.main);
    ioloop_run(g->env.main);
    ioloop_timer_cancel(&timer);
}

static void nothing(void *opaque)
{
}

void vqg_settle(VqGuest *g)
{
    for (int i = 0; i < SETTLE_TURNS; i++) {
        if (g->setup.mode & VQG_THREAD)
            ioloop_call(g->vdev->loop, nothing, NULL);
        run_main(g, 0);
    }
}

/* ---- collecting ------------------------------------------------------------------- */

static bool packed_is_used(const VqgQueue *q, unsigned i, bool wrap)
{
    uint16_t flags = __atomic_load_n(&((const Desc *)q->desc + i)->b, __ATOMIC_ACQUIRE);

    return !!(flags & PACKED_AVAIL) == wrap && !!(flags & PACKED_USED) == wrap;
}

/* Chains, not entries: each used element is followed by the entries its chain held. */
static unsigned packed_used(const VqgQueue *q)
{
    unsigned n = 0, at = q->used_idx, passed = 0;
    bool wrap = q->used_wrap;

    while (passed < q->size && packed_is_used(q, at, wrap)) {
        uint16_t id = ((const Desc *)q->desc + at)->a;

        g_assert_cmpuint(id, <, q->size);
        n++;
        passed += MAX(q->held[id], 1);
        at += MAX(q->held[id], 1);
        if (at >= q->size) {
            at -= q->size;
            wrap = !wrap;
        }
    }
    return n;
}

unsigned vqg_used_queue(VqGuest *g, unsigned queue)
{
    const VqgQueue *q = &g->q[queue];
    const uint16_t *used = (const uint16_t *)q->device;

    if (q->packed)
        return packed_used(q);
    return (uint16_t)(__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) - q->used_idx);
}

unsigned vqg_used(VqGuest *g)
{
    return vqg_used_queue(g, 0);
}

bool vqg_wait(VqGuest *g, unsigned queue, unsigned n)
{
    int64_t end = clock_ns() + PATIENCE_NS;

    while (vqg_used_queue(g, queue) < n) {
        if (clock_ns() > end)
            return false;
        run_main(g, 1000000);
    }
    return true;
}

static void take_split(VqgQueue *q, VqgUsed *ret)
{
    const uint32_t *element = (const uint32_t *)(q->device + 4) +
                              2 * (q->used_idx % q->size);
    unsigned at = element[0];

    *ret = (VqgUsed){element[0], element[1]};
    g_assert_cmpuint(at, <, q->size);
    g_assert_true(q->busy[at]);
    for (unsigned left = q->held[ret->token]; left; left--) {
        q->busy[at] = false;
        at = ((const Desc *)q->desc + at)->b % q->size;
    }
    q->used_idx++;
}

static void take_packed(VqgQueue *q, VqgUsed *ret)
{
    const Desc *d = (const Desc *)q->desc + q->used_idx;
    unsigned to;

    *ret = (VqgUsed){d->a, d->len};
    g_assert_cmpuint(d->a, <, q->size);
    g_assert_true(q->busy[d->a]);
    q->busy[d->a] = false;
    to = q->used_idx + q->held[d->a];
    if (to >= q->size) {
        to -= q->size;
        q->used_wrap = !q->used_wrap;
    }
    q->used_idx = (uint16_t)to;
}

bool vqg_take(VqGuest *g, unsigned queue, VqgUsed *ret)
{
    VqgQueue *q = &g->q[queue];

    if (!vqg_used_queue(g, queue))
        return false;
    if (q->packed)
        take_packed(q, ret);
    else
        take_split(q, ret);
    q->n_free += q->held[ret->token];
    q->held[ret->token] = 0;
    if (!q->silent)
        vqg_want_interrupts(g, queue, true); /* of the next one */
    return true;
}

static void grow_scratch(VqGuest *g, uint64_t len)
{
    if (g->scratch_len >= len)
        return;
    g->scratch_len = align_up(len, GM_PAGE_SIZE);
    g->scratch_gpa = vqg_alloc(g, g->scratch_len);
}

uint32_t vqg_do(VqGuest *g, unsigned queue, const void *out, uint32_t out_len, void *in,
                uint32_t in_len)
{
    uint64_t in_at = align_up(out_len, 16);
    VqgBuf bufs[2];
    unsigned n = 0, token;
    VqgUsed used;

    grow_scratch(g, in_at + in_len);
    if (out_len) {
        memcpy(vqg_mem(g, g->scratch_gpa, out_len), out, out_len);
        bufs[n++] = (VqgBuf){g->scratch_gpa, out_len, OUT};
    }
    if (in_len)
        bufs[n++] = (VqgBuf){g->scratch_gpa + in_at, in_len, IN};
    token = vqg_chain(g, queue, bufs, n);
    vqg_kick_queue(g, queue);
    g_assert_true(vqg_wait(g, queue, 1));
    g_assert_true(vqg_take(g, queue, &used));
    g_assert_cmpuint(used.token, ==, token);
    if (in_len)
        memcpy(in, vqg_mem(g, g->scratch_gpa + in_at, in_len), in_len);
    return used.len;
}

/* ---- the rest --------------------------------------------------------------------- */

bool vqg_broken(VqGuest *g)
{
    return virtio_status(g->vdev) & VIRTIO_STATUS_NEEDS_RESET;
}

unsigned vqg_interrupts(VqGuest *g, unsigned queue)
{
    return __atomic_load_n(&g->q[queue].interrupts, __ATOMIC_SEQ_CST);
}

unsigned vqg_config_interrupts(VqGuest *g)
{
    return __atomic_load_n(&g->config_interrupts, __ATOMIC_SEQ_CST);
}

void vqg_want_interrupts(VqGuest *g, unsigned queue, bool on)
{
    VqgQueue *q = &g->q[queue];
    uint16_t *area = (uint16_t *)q->driver;
    bool event_idx = g->setup.mode & VQG_EVENT_IDX;

    q->silent = !on;
    if (q->packed) {
        __atomic_store_n(&area[0], q->used_idx | (q->used_wrap ? PACKED_WRAP : 0),
                         __ATOMIC_RELAXED);
        __atomic_store_n(&area[1],
                         !on         ? EVENT_DISABLE
                         : event_idx ? EVENT_DESC
                                     : 0,
                         __ATOMIC_RELEASE);
    } else if (event_idx) {
        __atomic_store_n(&area[2 + q->size], on ? q->used_idx : q->used_idx + 0x8000,
                         __ATOMIC_RELEASE);
    } else {
        __atomic_store_n(&area[0], !on, __ATOMIC_RELEASE);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

uint64_t vqg_config(VqGuest *g, uint32_t offset, unsigned size)
{
    uint64_t value = 0;

    g_assert_cmpuint(offset + size, <=, g->ops.config_size);
    virtio_config_read(g->vdev, offset, &value, size);
    return value;
}
