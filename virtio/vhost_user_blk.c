/* A disk that another process serves (vhost-user-blk: qemu-storage-daemon, SPDK): the
 * virtio block device of 5.2, whose config space and requests are the back end's.  Of the
 * config space, two fields are ours: the number of queues, and what the driver wrote as
 * `writeback`, which the next back end is told of, too. */
#include <string.h>

#include "blk_private.h"
#include "util/bits.h"
#include "vhost_user_private.h"
#include "virtio/devices.h"

enum { F_SIZE_MAX = 1, F_GEOMETRY = 4 };
enum { CONFIG_LEN = offsetof(BlkConfig, unused1) + sizeof(((BlkConfig *)0)->unused1) };

typedef struct VublkOptions {
    VirtioCommonOptions common;
    char *socket;
    uint64_t queues;
} VublkOptions;

typedef struct Vublk {
    VhostDev d;
    uint64_t wanted_queues; /* 0: as many as are of use */
    uint8_t writeback;      /* atomic: as the driver wrote it */
    bool wrote;             /* atomic: it did */
    IoPost send_writeback;
} Vublk;

static const uint64_t blk_features = BIT64(F_SIZE_MAX) | BIT64(BLK_F_SEG_MAX) |
                                     BIT64(F_GEOMETRY) | BIT64(BLK_F_RO) |
                                     BIT64(BLK_F_BLK_SIZE) | BIT64(BLK_F_FLUSH) |
                                     BIT64(BLK_F_TOPOLOGY) | BIT64(BLK_F_CONFIG_WCE) |
                                     BIT64(BLK_F_MQ) | BIT64(BLK_F_DISCARD) |
                                     BIT64(BLK_F_WRITE_ZEROES);

/* ---- config space ----------------------------------------------------------------- */

static BlkConfig *config_of(VhostDev *d)
{
    return (BlkConfig *)d->config;
}

/* The loop. */
static void send_writeback(void *opaque)
{
    Vublk *b = opaque;
    uint8_t value = __atomic_load_n(&b->writeback, __ATOMIC_ACQUIRE);

    if (__atomic_load_n(&b->wrote, __ATOMIC_ACQUIRE))
        vhost_dev_send_config(&b->d, offsetof(BlkConfig, writeback), &value, 1);
}

static void vublk_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    const uint32_t at = offsetof(BlkConfig, writeback);
    Vublk *b = (Vublk *)v;

    memcpy(buf, b->d.config + offset, len);
    if (offset <= at && at - offset < len && __atomic_load_n(&b->wrote, __ATOMIC_RELAXED))
        ((uint8_t *)buf)[at - offset] = __atomic_load_n(&b->writeback, __ATOMIC_RELAXED);
}

static void vublk_config_write(VirtioDevice *v, uint32_t offset, const void *buf,
                               uint32_t len)
{
    const uint32_t at = offsetof(BlkConfig, writeback);
    Vublk *b = (Vublk *)v;

    if (offset > at || at - offset >= len || !virtio_has_feature(v, BLK_F_CONFIG_WCE))
        return;
    __atomic_store_n(&b->writeback, ((const uint8_t *)buf)[at - offset] != 0,
                     __ATOMIC_RELEASE);
    __atomic_store_n(&b->wrote, true, __ATOMIC_RELEASE);
    ioloop_post(v->loop, &b->send_writeback);
}

/* A disk of another size is another disk. */
static bool vublk_came_back(VhostDev *d, const uint8_t *config, GError **error)
{
    uint64_t capacity = ((const BlkConfig *)config)->capacity;

    if (capacity != config_of(d)->capacity)
        return fail(error, VM_ERROR_CORRUPT,
                    "the back end came back with a disk of %" G_GUINT64_FORMAT
                    " sectors instead of %" G_GUINT64_FORMAT,
                    capacity, config_of(d)->capacity);
    ioloop_post(d->v.loop, &((Vublk *)d)->send_writeback);
    return true;
}

/* ---- life-cycle ------------------------------------------------------------------- */

static bool vublk_agree(VhostDev *d, GError **error)
{
    Vublk *b = (Vublk *)d;
    VirtioDevice *v = &d->v;
    uint64_t most = d->u.max_queues;

    if (!(v->offered & BIT64(BLK_F_MQ)))
        most = 1;
    else
        most = MIN(most, MAX(config_of(d)->num_queues, 1));
    if (b->wanted_queues > most)
        return fail(error, VM_ERROR_INVALID,
                    "the back end serves %" G_GUINT64_FORMAT
                    " queues, and queues=%" G_GUINT64_FORMAT
                    " is wanted; give its export more (num-queues=)",
                    most, b->wanted_queues);
    v->n_queues = b->wanted_queues
                      ? (unsigned)b->wanted_queues
                      : (unsigned)MIN(most, MIN(v->env->n_cpus, BLK_AUTO_QUEUES));
    v->n_queues = MAX(v->n_queues, 1);
    config_of(d)->num_queues = (uint16_t)v->n_queues;
    return true;
}

static bool vublk_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    const VublkOptions *o = opaque;
    Vublk *b = (Vublk *)v;

    vhost_dev_init(v);
    b->d.socket = g_strdup(o->socket);
    b->d.features = blk_features;
    b->d.config_len = CONFIG_LEN;
    b->d.agree = vublk_agree;
    b->d.came_back = vublk_came_back;
    b->wanted_queues = o->queues;
    b->send_writeback = (IoPost){.fn = send_writeback, .opaque = b};
    return vhost_dev_realize(&b->d, error);
}

static void forget_post(void *opaque)
{
    Vublk *b = opaque;

    ioloop_unpost(b->d.v.loop, &b->send_writeback);
}

static void vublk_release(VirtioDevice *v)
{
    if (v->loop)
        ioloop_call(v->loop, forget_post, v);
    vhost_dev_release(v);
}

static void vublk_reset(VirtioDevice *v)
{
    __atomic_store_n(&((Vublk *)v)->wrote, false, __ATOMIC_RELEASE);
    vhost_dev_reset(v);
}

static const ParamDesc vublk_desc[] = {
    {.key = "socket",
     .type = PARAM_PATH,
     .offset = offsetof(VublkOptions, socket),
     .arg = "PATH",
     .help = "socket of the program that serves it, as qemu-storage-daemon",
     .required = true},
    {.key = "queues",
     .type = PARAM_UINT,
     .offset = offsetof(VublkOptions, queues),
     .max = BLK_MAX_QUEUES,
     .arg = "N",
     .help = "request queues; 0: one per CPU, up to 4, if that program has them"},
    VIRTIO_PARAMS(VublkOptions, common),
    {0},
};

static const ParamTable vublk_params = {.size = sizeof(VublkOptions), .desc = vublk_desc};

const VirtioOps vhost_user_blk_ops = {
    VHOST_DEV_OPS,
    .name = "vhost-user-blk",
    .id = 2,
    .pci_class = 0x010000,
    .option = "vhost-user-blk",
    .help = "a disk that another process serves",
    .params = &vublk_params,
    .size = sizeof(Vublk),
    .queue_size = BLK_QUEUE_SIZE,
    .config_size = CONFIG_LEN,
    .realize = vublk_realize,
    .release = vublk_release,
    .reset = vublk_reset,
    .config_read = vublk_config_read,
    .config_write = vublk_config_write,
};
