/* Block device (virtio 1.2, 5.2): sectors of a BlockDev.  Here is what the driver sees of
 * it before and beside requests, which are blk_io.c's.
 *
 * Theory.  All queues are served by the device's one I/O thread and share one BlockQueue,
 * so that requests of several queues go to the host in one batch.
 *
 * The cache.  Writes are volatile until a flush, unless the driver did not negotiate
 * flushes or turned the cache off (5.2.5.2, writeback), or cache=writethrough: then each
 * write is followed by a flush of ours before it is completed. */
#include "virtio/blk.h"

#include <string.h>

#include "backend/blockjob.h"
#include "blk_private.h"
#include "util/bits.h"
#include "virtio/devices.h"

/* ---- configuration --------------------------------------------------------------------
 */

static void blk_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    const Blk *b = (const Blk *)v;
    unsigned logical = block_logical_size(b->dev);
    unsigned physical = block_physical_size(b->dev);
    const BlkConfig c = {
        .capacity = block_size(b->dev) / BLOCK_SECTOR,
        .seg_max = BLK_SEG_MAX,
        .blk_size = logical,
        .physical_block_exp = (uint8_t)__builtin_ctz(physical / logical),
        .min_io_size = (uint16_t)(physical / logical),
        .writeback = __atomic_load_n(&b->writeback, __ATOMIC_RELAXED),
        .num_queues = (uint16_t)v->n_queues,
        .max_discard_sectors = BLK_MAX_DISCARD,
        .max_discard_seg = 1,
        .discard_sector_alignment = physical / BLOCK_SECTOR,
        .max_write_zeroes_sectors = BLK_MAX_WRITE_ZEROES,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = block_can_discard(b->dev),
    };

    memcpy(buf, (const uint8_t *)&c + offset, len);
}

static void blk_config_write(VirtioDevice *v, uint32_t offset, const void *buf,
                             uint32_t len)
{
    const uint32_t at = offsetof(BlkConfig, writeback);
    Blk *b = (Blk *)v;

    if (offset <= at && at - offset < len && virtio_has_feature(v, BLK_F_CONFIG_WCE) &&
        virtio_has_feature(v, BLK_F_FLUSH))
        __atomic_store_n(&b->writeback, ((const uint8_t *)buf)[at - offset] != 0,
                         __ATOMIC_RELAXED);
}

static bool blk_poll(VirtioDevice *v)
{
    return block_poll(((Blk *)v)->io);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

typedef struct MakeQueue {
    Blk *blk;
    GError **error;
} MakeQueue;

static void make_queue(void *opaque)
{
    MakeQueue *m = opaque;
    Blk *b = m->blk;

    b->io = block_queue_new(b->dev, b->v.loop, b->v.n_queues * BLK_QUEUE_SIZE, m->error);
    if (b->io)
        block_queue_on_batch(b->io, blk_notify, b);
}

static void free_queue(void *opaque)
{
    block_queue_free(opaque);
}

static uint64_t features(const Blk *b)
{
    uint64_t f = BIT64(BLK_F_SEG_MAX) | BIT64(BLK_F_BLK_SIZE) | BIT64(BLK_F_TOPOLOGY) |
                 BIT64(BLK_F_FLUSH) | BIT64(BLK_F_CONFIG_WCE);

    if (b->v.n_queues > 1)
        f |= BIT64(BLK_F_MQ);
    if (block_readonly(b->dev))
        return f | BIT64(BLK_F_RO);
    if (block_can_discard(b->dev))
        f |= BIT64(BLK_F_DISCARD);
    return f | BIT64(BLK_F_WRITE_ZEROES);
}

/* Any thread (5.2.4.2: the driver looks at the capacity again). */
static void on_resize(void *opaque)
{
    virtio_config_changed(opaque);
}

static bool blk_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    const BlkOptions *o = opaque;
    Blk *b = (Blk *)v;

    b->dev = block_open(&o->block, error);
    if (!b->dev)
        return false;
    v->n_queues = o->queues ? (unsigned)o->queues : MIN(v->env->n_cpus, BLK_AUTO_QUEUES);
    v->n_queues = MAX(v->n_queues, 1);
    v->offered = features(b);
    b->writeback = !block_writethrough(b->dev);
    b->on_error[0] = o->rerror;
    b->on_error[1] = o->werror;
    block_on_resize(b->dev, on_resize, b);
    if (o->serial)
        memcpy(b->serial, o->serial, MIN(strlen(o->serial), BLK_ID_LEN));

    b->queues = g_new0(BlkQueue, v->n_queues);
    for (unsigned i = 0; i < v->n_queues; i++) {
        b->queues[i].slots = g_try_new0(BlkSlot, BLK_QUEUE_SIZE);
        if (!b->queues[i].slots)
            return fail(error, VM_ERROR_IO, "out of memory for %u queues", v->n_queues);
    }
    ioloop_call(v->loop, make_queue, &(MakeQueue){b, error});
    return b->io != NULL;
}

static void blk_release(VirtioDevice *v)
{
    Blk *b = (Blk *)v;

    if (b->io)
        ioloop_call(v->loop, free_queue, b->io);
    for (unsigned i = 0; b->queues && i < v->n_queues; i++)
        g_free(b->queues[i].slots);
    g_free(b->queues);
    block_close(b->dev);
}

/* 5.2.5.2: without flushes there is no write cache. */
static bool blk_activate(VirtioDevice *v, GError **error)
{
    if (!virtio_has_feature(v, BLK_F_FLUSH))
        __atomic_store_n(&((Blk *)v)->writeback, false, __ATOMIC_RELAXED);
    return true;
}

static void blk_quiesce(VirtioDevice *v)
{
    block_drain(((Blk *)v)->io);
}

static void blk_hurry(VirtioDevice *v)
{
    block_hurry(((Blk *)v)->dev);
}

static void blk_resume(VirtioDevice *v)
{
    blk_retry((Blk *)v);
}

static void blk_reset(VirtioDevice *v)
{
    Blk *b = (Blk *)v;

    blk_forget(b);
    __atomic_store_n(&b->writeback, !block_writethrough(b->dev), __ATOMIC_RELAXED);
}

static const ParamDesc blk_desc[];

/* The image may have been exchanged, and limits are set at any time. */
static void blk_describe(VirtioDevice *v, json_t *option)
{
    BlockDev *dev = ((Blk *)v)->dev;
    json_t *chain = block_chain_info(dev), *top = json_array_get(chain, 0);
    BlkOptions now = {
        .block.path = (char *)json_string_value(json_object_get(top, "filename"))};
    json_t *path = param_value_to_json(blk_desc, &now); /* absolute, as the option's */

    if (path && !json_equal(path, json_object_get(option, "path"))) {
        json_object_set(option, "path", path);
        json_object_set(option, "format", json_object_get(top, "format"));
    }
    json_decref(path);
    json_decref(chain);
    block_limits(dev, &now.block.limits);
    for (const ParamDesc *d = blk_desc; d->key; d++)
        if (d->offset >= offsetof(BlkOptions, block.limits) &&
            d->offset < offsetof(BlkOptions, block.limits) + sizeof(BlockLimits))
            json_object_set_new(option, d->key, param_value_to_json(d, &now));
}

static bool blk_check(void *opaque, GError **error)
{
    const BlkOptions *o = opaque;

    return !o->serial || strlen(o->serial) <= BLK_ID_LEN ||
           fail(error, VM_ERROR_INVALID, "serial '%s' is longer than %d bytes", o->serial,
                BLK_ID_LEN);
}

static const char *const on_error_names[] = {"report", "stop", "ignore", "enospc", NULL};

static const ParamDesc blk_desc[] = {
    BLOCK_PARAMS(BlkOptions, block),
    VIRTIO_PARAMS(BlkOptions, common),
    {.key = "rerror",
     .type = PARAM_ENUM,
     .offset = offsetof(BlkOptions, rerror),
     .choices = on_error_names,
     .def = "report",
     .help = "when a read fails: tell the guest, stop the VM until continued, or ignore"},
    {.key = "werror",
     .type = PARAM_ENUM,
     .offset = offsetof(BlkOptions, werror),
     .choices = on_error_names,
     .def = "report",
     .help = "the same for writes; enospc: stop when the host's disk is full"},
    {.key = "queues",
     .type = PARAM_UINT,
     .offset = offsetof(BlkOptions, queues),
     .max = BLK_MAX_QUEUES,
     .arg = "N",
     .help = "request queues; 0: one per CPU, up to 4"},
    {.key = "serial",
     .type = PARAM_STRING,
     .offset = offsetof(BlkOptions, serial),
     .arg = "STR",
     .help = "serial number, up to 20 bytes"},
    {},
};

static const ParamTable blk_params = {
    .size = sizeof(BlkOptions), .desc = blk_desc, .check = blk_check};

const VirtioOps virtio_blk_ops = {
    .name = "blk",
    .id = 2,
    .pci_class = 0x010000, /* mass storage, SCSI: what guests expect of virtio */
    .option = "disk",
    .help = "a disk",
    .params = &blk_params,
    .size = sizeof(Blk),
    .queue_size = BLK_QUEUE_SIZE,
    .config_size = offsetof(BlkConfig, unused1) + sizeof(((BlkConfig *)0)->unused1),
    .own_thread = true,
    .realize = blk_realize,
    .release = blk_release,
    .describe = blk_describe,
    .config_read = blk_config_read,
    .config_write = blk_config_write,
    .activate = blk_activate,
    .handle = blk_handle,
    .poll = blk_poll,
    .quiesce = blk_quiesce,
    .hurry = blk_hurry,
    .resume = blk_resume,
    .reset = blk_reset,
    .save = blk_save,
    .load = blk_load,
    .kept_features = BIT64(BLK_F_DISCARD) | BIT64(BLK_F_RO),
};

BlockDev *virtio_blk_dev(VirtioDevice *v)
{
    return v->ops == &virtio_blk_ops ? ((Blk *)v)->dev : NULL;
}
