/* The driver's side of virtio, for device tests: a guest without a CPU.
 *
 * VqGuest owns RAM, a device made of the given ops, and every queue's driver half, split
 * or packed.  It negotiates features, offers chains, kicks, and collects what was used.
 * Interrupts are counted.  Neither KVM nor a transport is involved.
 *
 * A device runs in one of two ways.  By default inline: its loop is run by the test's own
 * thread inside vqg_kick(), vqg_settle(), vqg_wait() and vqg_do(), so that a test is
 * deterministic.  With VQG_THREAD its loop is an I/O thread, as in a VM.
 *
 *     static void an_echo(void)
 *     {
 *         static VqGuest g;
 *         char answer[4];
 *
 *         vqg_init(&g, &virtio_echo_ops);
 *         g_assert_cmpuint(vqg_do(&g, 0, "ping", 4, answer, 4), ==, 4);
 *         vqg_finish(&g);
 *     }
 *
 * To run a test in each layout of a ring, loop over vqg_modes[] and vqg_open(). */
#pragma once

#include "core/guestmem.h"
#include "util/ioloop.h"
#include "virtio/virtio.h"

/* How to drive the device: flags. */
enum {
    VQG_PACKED = 1,
    VQG_INDIRECT = 2, /* chains of two and more pieces go into an indirect table */
    VQG_EVENT_IDX = 4,
    VQG_THREAD = 8, /* the device runs on an I/O thread */
};

/* The eight ring layouts, for table-driven tests. */
enum { VQG_N_MODES = 8 };
extern const unsigned vqg_modes[VQG_N_MODES];

/* Guest-physical memory.  A hole separates the two regions.  Rings lie at the start of
 * the low one, vqg_alloc() hands out the rest of it, and the high one is the test's. */
#define VQG_LOW_SIZE  (64 * MIB)
#define VQG_HIGH_BASE (4 * GIB)
#define VQG_HIGH_SIZE (4 * MIB)

typedef struct VqgSetup {
    unsigned mode;       /* VQG_ flags */
    const void *options; /* struct of ops->params, kept until vqg_finish; NULL: none */
    uint16_t queue_size; /* 0: what the device offers */
    uint64_t refuse;     /* offered features (as bits) that the driver leaves alone */
    bool stop_early;     /* do not set DRIVER_OK: the test goes on by itself */
} VqgSetup;

/* One piece of a chain. */
typedef struct VqgBuf {
    uint64_t gpa;
    uint32_t len;
    bool write; /* the device writes it; IN and OUT read better */
} VqgBuf;
enum { OUT = false, IN = true };

/* What the device gave back. */
typedef struct VqgUsed {
    unsigned token; /* as vqg_chain() returned it */
    uint32_t len;
} VqgUsed;

/* The driver's half of one queue.  Tests that break rules reach in here. */
typedef struct VqgQueue {
    uint16_t size;
    bool packed;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    uint8_t *desc, *driver, *device; /* the same, mapped */
    uint16_t avail_idx, used_idx;    /* split: free-running; packed: positions */
    bool avail_wrap, used_wrap;      /* packed */
    unsigned unsent;                 /* entries published since the last kick */
    bool silent;                     /* wants no interrupts */
    uint16_t n_free;                 /* ring entries left */
    bool busy[VQ_MAX_SIZE];          /* split: descriptors; packed: buffer ids */
    uint16_t held[VQ_MAX_SIZE];      /* by token: ring entries it holds */
    uint64_t table[VQ_MAX_SIZE];     /* by token: its indirect table; 0: none yet */
    unsigned interrupts;             /* atomic: raised since start */
} VqgQueue;

typedef struct VqGuest {
    VirtioOps ops; /* a copy: inline, the device gets no thread of its own */
    VqgSetup setup;
    GuestMem gm;
    VirtioEnv env;
    VirtioDevice *vdev;
    uint64_t scratch_gpa, scratch_len; /* vqg_do */
    uint64_t next_gpa;                 /* vqg_alloc */
    unsigned config_interrupts;        /* atomic */
    VqgQueue q[VIRTIO_MAX_QUEUES];
} VqGuest;

/* Makes the device and brings it to DRIVER_OK with everything offered; a VqGuest is big,
 * so make it static.  vqg_init is vqg_open of a split ring, inline, without options.
 * Failure ends the test. */
void vqg_init(VqGuest *g, const VirtioOps *ops);
void vqg_open(VqGuest *g, const VirtioOps *ops, const VqgSetup *setup);
void vqg_finish(VqGuest *g);

/* Driver's reset (status 0, waits), and the way to DRIVER_OK again with empty rings. */
void vqg_reset(VqGuest *g);
void vqg_start(VqGuest *g);

/* Guest RAM: fresh zeroed bytes, aligned to 16; and where a range of it is in the test's
 * memory. */
uint64_t vqg_alloc(VqGuest *g, uint64_t len);
void *vqg_mem(VqGuest *g, uint64_t gpa, uint64_t len);

/* Offers a chain and publishes it, without kicking; returns its token.  vqg_offer is one
 * piece on queue 0.  A full ring ends the test. */
unsigned vqg_chain(VqGuest *g, unsigned queue, const VqgBuf *bufs, unsigned n);
unsigned vqg_offer(VqGuest *g, uint64_t gpa, uint32_t len, bool write);

/* Notifies the device, unless it asked for none, and vqg_settle()s.  vqg_kick is queue
 * 0.  vqg_poke notifies it in any case. */
void vqg_poke(VqGuest *g, unsigned queue);
void vqg_kick_queue(VqGuest *g, unsigned queue);
void vqg_kick(VqGuest *g);
bool vqg_kick_wanted(VqGuest *g, unsigned queue); /* does the device want to know? */

/* Returns when the device has seen everything signalled so far.  What it then does in the
 * background (disk, network) may still go on: use vqg_wait(). */
void vqg_settle(VqGuest *g);

/* How many chains are used and not yet taken; waits (10 s) until there are n: false on
 * timeout; takes the next one: false if there is none. */
unsigned vqg_used_queue(VqGuest *g, unsigned queue);
unsigned vqg_used(VqGuest *g); /* of queue 0 */
bool vqg_wait(VqGuest *g, unsigned queue, unsigned n);
bool vqg_take(VqGuest *g, unsigned queue, VqgUsed *ret);

/* One request, there and back: `out` is copied into guest RAM as one device-readable
 * piece, `in_len` bytes are offered as one writable piece and copied out to `in`.  Either
 * may be of length 0.  Returns the used length; no answer ends the test. */
uint32_t vqg_do(VqGuest *g, unsigned queue, const void *out, uint32_t out_len, void *in,
                uint32_t in_len);

/* Whether the device was broken by what the driver did: DEVICE_NEEDS_RESET is set. */
bool vqg_broken(VqGuest *g);

unsigned vqg_interrupts(VqGuest *g, unsigned queue);
unsigned vqg_config_interrupts(VqGuest *g);
/* No interrupts for used buffers, please (on: again). */
void vqg_want_interrupts(VqGuest *g, unsigned queue, bool on);

/* Device configuration, as a driver reads it.  Past its end is the test's fault. */
uint64_t vqg_config(VqGuest *g, uint32_t offset, unsigned size);

/* ---- saved state ------------------------------------------------------------------- */

/* Pauses the device and saves it; it stays paused.  Resumes it. */
GBytes *vqg_save(VqGuest *g);
void vqg_resume(VqGuest *g);

/* Another device in the place of this one, as it is when a VM is made, over the same
 * guest memory; and a state into that one, which is then paused. */
void vqg_replace(VqGuest *g, const void *options);
bool vqg_load(VqGuest *g, GBytes *state, GError **error);

/* All of it: the driver goes on with another device, whose state, saved again before it
 * runs, is byte for byte that of the first. */
void vqg_restore(VqGuest *g);

/* ---- for tests that break the rules ----------------------------------------------- */

/* Writes a descriptor as told, without publishing it: ring entry `i` of the queue's
 * descriptor area; `next_or_id` is `next` of a split ring, the buffer id of a packed one
 * (whose `flags` then get the AVAIL and USED bits of the current wrap). */
enum { VQG_F_NEXT = 1, VQG_F_WRITE = 2, VQG_F_INDIRECT = 4 };
void vqg_desc(VqGuest *g, unsigned queue, unsigned i, uint64_t gpa, uint32_t len,
              uint16_t flags, uint16_t next_or_id);
/* The same 16 bytes anywhere, for indirect tables. */
void vqg_desc_at(VqGuest *g, uint64_t at, uint64_t gpa, uint32_t len, uint16_t flags,
                 uint16_t next_or_id);
/* Split: puts `head` into the available ring and moves its index by `step`. */
void vqg_publish_split(VqGuest *g, unsigned queue, uint16_t head, uint16_t step);
