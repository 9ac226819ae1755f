/* What the tests of disks share: setting a disk up, and putting a request into a ring. */
#include "blk.h"

void disk_start(Disk *disk, VirtioDevice *d, uint64_t mode, uint64_t wanted,
                unsigned queues)
{
    disk->dev = d;
    disk->n_queues = 1;
    virtio_start(d, mode | wanted);
    disk->sectors = config_read64(d, CONFIG_CAPACITY);
    if (d->features & F_MQ)
        disk->n_queues = config_read16(d, CONFIG_NUM_QUEUES);
    if (disk->n_queues > QUEUES_MAX)
        disk->n_queues = QUEUES_MAX;
    if (disk->n_queues > queues)
        disk->n_queues = queues;
    for (unsigned i = 0; i < disk->n_queues; i++) {
        disk->queues[i].interrupts = i < IRQ_VECTORS && arg_number("irq", 0);
        virtq_init(&disk->queues[i], d, (uint16_t)i, (uint16_t)arg_number("size", 0));
    }
    virtio_driver_ok(d);
}

bool disk_submit_pieces(Virtq *q, Request *r, uint32_t type, uint64_t sector,
                        const Buffer *pieces, unsigned n_pieces)
{
    Buffer buffers[INDIRECT_MAX] = {{r, 16, false}};
    unsigned n = 1;

    r->type = type;
    r->reserved = 0;
    r->sector = sector;
    r->status = STATUS_NONE;
    for (unsigned i = 0; i < n_pieces; i++)
        buffers[n++] = pieces[i];
    buffers[n++] = (Buffer){&r->status, 1, true};
    return virtq_add(q, buffers, n, r);
}

bool disk_submit(Virtq *q, Request *r, uint32_t type, uint64_t sector, void *data,
                 uint32_t size)
{
    Buffer piece = {data, size, type == REQ_IN || type == REQ_GET_ID};

    return disk_submit_pieces(q, r, type, sector, &piece, size ? 1 : 0);
}
