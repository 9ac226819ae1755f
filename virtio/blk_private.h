/* Private to blk.c and blk_io.c. */
#pragma once

#include "backend/block.h"
#include "util/log.h"
#include "virtio/virtio.h"

/* 5.2.3 */
enum {
    BLK_F_SEG_MAX = 2,
    BLK_F_RO = 5,
    BLK_F_BLK_SIZE = 6,
    BLK_F_FLUSH = 9,
    BLK_F_TOPOLOGY = 10,
    BLK_F_CONFIG_WCE = 11,
    BLK_F_MQ = 12,
    BLK_F_DISCARD = 13,
    BLK_F_WRITE_ZEROES = 14,
};

/* 5.2.6 */
enum {
    BLK_T_IN = 0,
    BLK_T_OUT = 1,
    BLK_T_FLUSH = 4,
    BLK_T_GET_ID = 8,
    BLK_T_DISCARD = 11,
    BLK_T_WRITE_ZEROES = 13,
};
typedef enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2, BLK_S_GOES_ON } BlkStatus;

enum {
    BLK_QUEUE_SIZE = 256,
    BLK_SEG_MAX = 126, /* with header and status, half a queue: drivers may shorten it */
    BLK_ID_LEN = 20,
    BLK_MAX_QUEUES = 64,
    /* More than this gains nothing, since one I/O thread serves them all: several queues
     * only spare the guest's CPUs a shared lock, and each costs it an interrupt vector.
     */
    BLK_AUTO_QUEUES = 4,
    BLK_MAX_DISCARD = 1 << 22,      /* sectors: 2 GiB */
    BLK_MAX_WRITE_ZEROES = 1 << 18, /* 128 MiB, which may have to be written */
    BLK_ZEROES_UNMAP = 1,
    /* Of data in flight; what comes on top waits in the rings.  Pausing, resetting and
     * ending a VM wait for all that is in flight, and a request may be of 4 GiB. */
    BLK_MAX_BYTES = 256 << 20,
    BLK_DISCARD_BYTES = 1 << 20, /* a discard counts for so much: it moves none, and takes
                                    its time all the same */
};

typedef struct BlkHeader {
    uint32_t type, reserved;
    uint64_t sector;
} BlkHeader;

typedef struct BlkRange {
    uint64_t sector;
    uint32_t n_sectors, flags;
} BlkRange;

/* 5.2.4 */
typedef struct BlkConfig {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} BlkConfig;
_Static_assert(sizeof(BlkConfig) == 64 && offsetof(BlkConfig, writeback) == 32 &&
                   offsetof(BlkConfig, write_zeroes_may_unmap) == 56,
               "virtio 1.2, 5.2.4");

typedef struct BlkOptions {
    VirtioCommonOptions common;
    BlockOptions block;
    int rerror, werror; /* BlkOnError */
    uint64_t queues;    /* 0: as many as CPUs, within reason */
    char *serial;
} BlkOptions;

/* What becomes of a request that the backend fails. */
typedef enum { BLK_REPORT, BLK_STOP, BLK_IGNORE, BLK_ENOSPC } BlkOnError;

typedef struct Blk Blk;
typedef struct BlkSlot BlkSlot;

struct BlkSlot {
    BlockReq io; /* first */
    Blk *blk;
    Virtqueue *vq;
    BlkSlot *next_free;
    uint8_t *status; /* in guest RAM */
    bool cut;        /* the last writable piece lost its last byte, the status */
    bool unserved;   /* it came out of a saved state: nothing was done for it yet */
    uint64_t bytes;  /* its part of blk->bytes */
    VqReq req;
};

typedef struct BlkQueue {
    BlkSlot *slots; /* one per ring entry: ids in flight are unique */
    BlkSlot *free;
    unsigned n_fresh; /* slots[n_fresh...] have never been used */
} BlkQueue;

struct Blk {
    VirtioDevice v;
    BlockDev *dev;
    char serial[BLK_ID_LEN];
    bool writeback; /* atomic: vCPU threads write it in the config space */

    /* The I/O thread's */
    BlockQueue *io;
    BlkQueue *queues;
    uint64_t to_notify; /* a bit per queue that was pushed to */
    uint64_t held_back; /* a bit per queue that was left because of BLK_MAX_BYTES */
    uint64_t bytes;     /* in flight */
    BlkSlot *stopped;   /* failed under werror=stop; tried again on resume */
    int on_error[2];    /* BlkOnError: reads, all else */
    LogLimit log_limit;
};

/* blk_io.c, all on the I/O thread. */
void blk_handle(VirtioDevice *v, Virtqueue *vq);
void blk_notify(void *opaque); /* after a batch of completions */
void blk_retry(Blk *b);        /* what an error stopped is tried again */
void blk_forget(Blk *b);       /* or is given up */

/* Of queues that are not served, on any thread: a request that an error stopped, as it
 * was popped; and a place among these for one that is to be served on the next retry.
 * NULL: there is none. */
void blk_popped(const BlkSlot *s, VqReq *ret);
VqReq *blk_stop_again(Blk *b, unsigned queue);

/* blk_state.c; VirtioOps has what they do. */
void blk_save(VirtioDevice *v, StateWriter *w);
bool blk_load(VirtioDevice *v, StateReader *r, GError **error);
