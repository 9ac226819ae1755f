/* The two rings of a port: frames between a monitor and a switch, in memory that both
 * have.  Each ring has one producer and one consumer, in two processes that do not trust
 * each other: whoever reads a length copies it, checks it, and then uses it, and the
 * worst that nonsense does is to lose the ring's frames.
 *
 * A record is a length of four bytes (of the virtio header and the frame), then those,
 * then padding to eight.  A record never wraps: a length of RING_SKIP says that the next
 * one is at the ring's beginning.  A producer that finds the ring empty begins there
 * again and says in `restart` from where, so that a ring that is never full stays in the
 * cache, and its other pages are never touched.  Those of a ring that was full once, and
 * then lay empty for a while, its producer gives back to the host: nobody reads them
 * before it has written to them again.
 *
 * Sleeping: the consumer says so (`asleep`), looks once more, and waits for its wake-up;
 * the producer signals only then.  A producer that finds no room says so (`starved`), and
 * the consumer wakes it when half of the ring is free.  Both wake by a pipe, whose
 * two ends are two descriptors: who may only ring cannot take away what was rung.
 *
 * One thread on each side; nothing allocates. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/error.h"

/* Each index on a cache line of its own; free-running byte counts. */
typedef struct RingShared {
    uint32_t head;    /* the producer's */
    uint32_t restart; /* n + 1: a consumer at n goes on at the next lap's beginning */
    uint32_t starved; /* set by the producer, cleared by who wakes it */
    uint8_t pad0[52];
    uint32_t tail;   /* the consumer's */
    uint32_t asleep; /* set by the consumer, cleared by who wakes it */
    uint8_t pad1[56];
} RingShared;

#define RING_SKIP UINT32_MAX
enum {
    RING_BYTES = 512 * 1024,
    RING_ALIGN = 8,
    RING_MAX_RECORD = 128 * 1024, /* bytes that a record may carry */
    RING_KEPT = 4096,             /* bytes that ring_shrink() leaves */
    RING_REST_MS = 100,           /* between calls of it */
};

/* One end's view. */
typedef struct Ring {
    RingShared *shared;
    uint8_t *data;       /* RING_BYTES */
    uint32_t head, tail; /* ours: as of now; the other's: as last seen */
    uint32_t next;       /* consumer: past the record that was peeked at */
    uint32_t restart;    /* producer: what it wrote there */
    uint32_t reach;      /* producer: bytes from the beginning that may have memory */
    uint32_t rest;       /* producer: its head when ring_shrink() was called last */
    int wake_fd;         /* the other side sleeps on it, fd_bell()'s; -1: none */
    uint64_t nonsense;   /* consumer: how often the ring's frames were lost */
} Ring;

/* The bytes of a mapping for `queues` pairs of rings: all shared parts, then the data;
 * that to the switch first.  The switch makes the memory and the descriptors and hands
 * them out. */
size_t ring_memory(unsigned queues);
void ring_attach(Ring *r, void *memory, unsigned queues, unsigned queue, bool to_switch,
                 int wake_fd);

/* Producer.  False: no room (starved is noted, and we are woken when there is some), or
 * the frame is longer than RING_MAX_RECORD, which the caller looks at before.
 */
bool ring_put(Ring *r, const struct iovec *iov, unsigned n);
/* Whether records of so many bytes fit; if not, it is as after a ring_put() that failed.
 */
bool ring_has_room(Ring *r, uint32_t bytes);
void ring_flush(Ring *r); /* publishes what was put, and wakes who sleeps */
/* Whether it has memory that ring_shrink() could give back, which is then to be called
 * after RING_REST_MS, and again while that returns true.  It gives back what has lain
 * empty since the call before.  False: it did, or the consumer takes nothing (starved is
 * noted, and we are woken when it does); in either case there is nothing to do before the
 * next ring_flush() or wake-up. */
static inline bool ring_is_stretched(const Ring *r)
{
    return r->reach > RING_KEPT;
}
bool ring_shrink(Ring *r);

/* Consumer.  The next record's bytes, in place (the other side may still write to them);
 * NULL: there is none.  ring_take() goes past it. */
const uint8_t *ring_peek(Ring *r, uint32_t *ret_len);
void ring_take(Ring *r);
void ring_release(Ring *r); /* publishes what was taken; wakes a starved producer */
bool ring_sleep(Ring *r);   /* true: nothing there, kicks are on; false: look again */
void ring_awake(Ring *r);   /* kicks off: we are looking anyway */
