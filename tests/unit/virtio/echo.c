/* See echo.h. */
#include "echo.h"

#include "util/iov.h"

unsigned echo_released;

static uint32_t copy(const VqReq *req)
{
    const struct iovec *from = vq_readable(req);
    size_t done = 0;

    for (unsigned i = 0; i < req->n_read; i++) {
        size_t n = iov_from_buf(vq_writable(req), req->n_write, done, from[i].iov_base,
                                from[i].iov_len);
        done += n;
        if (n < from[i].iov_len)
            break;
    }
    return (uint32_t)done;
}

void echo_finish(Echo *e)
{
    Virtqueue *vq = &e->vdev.queues[2].vq;

    while (e->n_slow) {
        VqReq *req = &e->slow[--e->n_slow];

        vq_push(vq, req, copy(req));
    }
    vq_notify(vq);
}

static void echo_handle(VirtioDevice *v, Virtqueue *vq)
{
    Echo *e = (Echo *)v;
    VqReq req;

    __atomic_fetch_add(&e->handled, 1, __ATOMIC_SEQ_CST);
    switch (vq->index) {
    case 0:
        while (vq_pop(vq, &req))
            vq_push(vq, &req, copy(&req));
        vq_notify(vq);
        break;
    case 2:
        while (e->n_slow < ECHO_QUEUE_SIZE && vq_pop(vq, &e->slow[e->n_slow]))
            e->n_slow++;
        break;
    default:
        break;
    }
}

static bool echo_realize(VirtioDevice *v, const void *options, GError **error)
{
    Echo *e = (Echo *)v;

    e->options = options;
    v->n_queues = ECHO_QUEUES;
    v->offered = 1; /* a feature of its own */
    if (e->options && e->options->fail_realize)
        return fail(error, VM_ERROR_INVALID, "no echo here");
    return true;
}

static bool echo_activate(VirtioDevice *v, GError **error)
{
    Echo *e = (Echo *)v;

    __atomic_fetch_add(&e->activated, 1, __ATOMIC_SEQ_CST);
    if (e->options && e->options->fail_activate)
        return fail(error, VM_ERROR_IO, "no echo today");
    return true;
}

static void echo_quiesce(VirtioDevice *v)
{
    Echo *e = (Echo *)v;

    __atomic_fetch_add(&e->quiesced, 1, __ATOMIC_SEQ_CST);
    echo_finish(e);
}

static void echo_reset(VirtioDevice *v)
{
    __atomic_fetch_add(&((Echo *)v)->resets, 1, __ATOMIC_SEQ_CST);
}

static void echo_release(VirtioDevice *v)
{
    echo_released++;
}

static void echo_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    g_assert_cmpuint(offset + len, <=, ECHO_CONFIG);
    memcpy(buf, ((Echo *)v)->config + offset, len);
}

static void echo_config_write(VirtioDevice *v, uint32_t offset, const void *buf,
                              uint32_t len)
{
    g_assert_cmpuint(offset + len, <=, ECHO_CONFIG);
    memcpy(((Echo *)v)->config + offset, buf, len);
}

static const ParamDesc echo_params[] = {
    VIRTIO_PARAMS(EchoOptions, common),
    {.key = "fail-realize",
     .type = PARAM_BOOL,
     .offset = offsetof(EchoOptions, fail_realize),
     .help = "refuse to be made"},
    {0},
};
static const ParamTable echo_table = {.size = sizeof(EchoOptions), .desc = echo_params};

const VirtioOps virtio_echo_ops = {
    .name = "echo",
    .id = 0x7f,
    .pci_class = 0x00ff00,
    .option = "echo",
    .help = "give back what was given",
    .params = &echo_table,
    .size = sizeof(Echo),
    .queue_size = ECHO_QUEUE_SIZE,
    .config_size = ECHO_CONFIG,
    .own_thread = true,
    .realize = echo_realize,
    .release = echo_release,
    .config_read = echo_config_read,
    .config_write = echo_config_write,
    .activate = echo_activate,
    .handle = echo_handle,
    .quiesce = echo_quiesce,
    .reset = echo_reset,
};
