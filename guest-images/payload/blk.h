/* virtio-blk from the driver's side (virtio 1.2, 5.2), for every test of disks. */
#ifndef PAYLOAD_BLK_H
#define PAYLOAD_BLK_H

#include "virtio.h"

#define F_RO           BIT64(5) /* 5.2.3 */
#define F_FLUSH        BIT64(9)
#define F_MQ           BIT64(12)
#define F_DISCARD      BIT64(13)
#define F_WRITE_ZEROES BIT64(14)

#define CONFIG_CAPACITY   0x00 /* 5.2.4 */
#define CONFIG_NUM_QUEUES 0x22

enum {
    REQ_IN = 0,
    REQ_OUT = 1,
    REQ_FLUSH = 4,
    REQ_GET_ID = 8,
    REQ_DISCARD = 11,
    REQ_WRITE_ZEROES = 13,
    REQ_UNKNOWN = 0x7777
};
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2, STATUS_NONE = 0xee };

#define SECTOR     512
#define QUEUES_MAX 16

typedef struct Request {
    uint32_t type, reserved;
    uint64_t sector;
    uint8_t status;
} Request;

typedef struct Segment { /* of discard and write zeroes: 5.2.6 */
    uint64_t sector;
    uint32_t n_sectors, flags;
} Segment;

/* A disk that is driven. */
typedef struct Disk {
    VirtioDevice *dev;
    uint64_t sectors;
    unsigned n_queues;
    Virtq queues[QUEUES_MAX];
} Disk;

/* Negotiates `mode` (of a ring) and those of the features above that are `wanted`, and
 * sets up as many queues as there are, but at most `queues`. */
void disk_start(Disk *disk, VirtioDevice *d, uint64_t mode, uint64_t wanted,
                unsigned queues);

/* Appends a request to a queue, its data in one piece or none, without a kick; false when
 * the ring is full.  virtq_pop() returns `r` when it is done. */
bool disk_submit(Virtq *q, Request *r, uint32_t type, uint64_t sector, void *data,
                 uint32_t size);

/* The same with its data in several pieces, at most DISK_PIECES. */
#define DISK_PIECES (INDIRECT_MAX - 2)
bool disk_submit_pieces(Virtq *q, Request *r, uint32_t type, uint64_t sector,
                        const Buffer *pieces, unsigned n);

#endif
