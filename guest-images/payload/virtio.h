/* A virtio 1.2 driver small enough to read: devices on either transport, and virtqueues
 * in every layout.  Clauses named in comments are those of the virtio 1.2 specification.
 */
#ifndef PAYLOAD_VIRTIO_H
#define PAYLOAD_VIRTIO_H

#include "pci.h"

enum { VIRTIO_NET = 1, VIRTIO_BLK = 2, VIRTIO_CONSOLE = 3, VIRTIO_RNG = 4 };

#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER      0x02
#define STATUS_DRIVER_OK   0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40
#define STATUS_FAILED      0x80

#define BIT64(n)    (1ull << (n))
#define F_INDIRECT  BIT64(28)
#define F_EVENT_IDX BIT64(29)
#define F_VERSION_1 BIT64(32)
#define F_PACKED    BIT64(34)

#define DOORBELLS 32

typedef struct VirtioDevice VirtioDevice;

/* What differs between virtio-pci (4.1) and virtio-mmio (4.2).  The queue_ operations act
 * on the queue that select_queue chose. */
typedef struct VirtioTransport {
    const char *name;
    uint8_t (*get_status)(VirtioDevice *d);
    void (*set_status)(VirtioDevice *d, uint8_t status);
    uint64_t (*get_features)(VirtioDevice *d);
    void (*set_features)(VirtioDevice *d, uint64_t features);
    void (*select_queue)(VirtioDevice *d, uint16_t queue);
    uint16_t (*queue_max)(VirtioDevice *d);
    void (*queue_size)(VirtioDevice *d, uint16_t size);
    void (*queue_place)(VirtioDevice *d, uint64_t desc, uint64_t driver, uint64_t device);
    void (*queue_enable)(VirtioDevice *d, bool on);
    void (*queue_interrupt)(VirtioDevice *d, unsigned index);
    void (*notify)(VirtioDevice *d, uint16_t queue);
} VirtioTransport;

struct VirtioDevice {
    const VirtioTransport *ops;
    unsigned type;
    uint64_t features;           /* as negotiated */
    volatile uint8_t *config;    /* device-specific */
    volatile uint8_t *registers; /* common configuration, or the mmio window */
    volatile uint8_t *notify;    /* pci only, from here on */
    uint32_t notify_step;
    volatile uint16_t
        *doorbells[DOORBELLS]; /* of the first queues, once they were asked for */
    PciFunction function;
};

extern const VirtioTransport virtio_pci, virtio_mmio;

/* The nth device of the transport; false when there are fewer. */
bool virtio_pci_probe(unsigned nth, VirtioDevice *ret);
bool virtio_mmio_probe(unsigned nth, VirtioDevice *ret);

/* The nth device of a type (0: of any), on the transport that `transport=` names or on
 * either.  Fails the test when there is none. */
VirtioDevice *virtio_find(unsigned type, unsigned nth);

/* 3.1.1, steps 1 to 6: reset, then negotiate what is wanted and offered. */
void virtio_start(VirtioDevice *d, uint64_t wanted);
void virtio_reset(VirtioDevice *d);
void virtio_driver_ok(VirtioDevice *d);
bool virtio_needs_reset(VirtioDevice *d);

uint16_t config_read16(VirtioDevice *d, unsigned offset);
uint32_t config_read32(VirtioDevice *d, unsigned offset);
uint64_t config_read64(VirtioDevice *d, unsigned offset);

/* ---- virtq.c ---- */

/* The eight layouts of a ring, as feature bits.  Both go by what the device offers and
 * the words `ring=`, `indirect=` and `event_idx=` do not rule out; the test fails if that
 * is none. */
void in_every_ring_mode(VirtioDevice *d, void (*fn)(VirtioDevice *d, uint64_t mode));
uint64_t best_ring_mode(VirtioDevice *d); /* the one with most features */
const char *ring_mode_name(uint64_t mode);

typedef struct SplitDesc {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
} SplitDesc;

typedef struct PackedDesc {
    uint64_t address;
    uint32_t size;
    uint16_t id, flags;
} PackedDesc;

#define DESC_NEXT     0x0001
#define DESC_WRITE    0x0002
#define DESC_INDIRECT 0x0004
#define DESC_AVAIL    0x0080 /* packed */
#define DESC_USED     0x8000 /* packed */

#define QUEUE_MAX    256
#define INDIRECT_MAX 8

typedef struct Buffer {
    void *at;
    uint32_t size;
    bool device_writes;
} Buffer;

typedef struct Virtq {
    VirtioDevice *dev;
    uint16_t index, size;
    bool packed, indirect, event_idx, interrupts;

    volatile SplitDesc *desc;        /* either this ... */
    volatile uint16_t *avail;        /* flags, idx, ring[size], used_event */
    volatile uint16_t *used;         /* flags, idx, then {u32 id, len}[size] */
    volatile PackedDesc *ring;       /* ... or this */
    volatile uint16_t *driver_event; /* off_wrap, flags */
    volatile uint16_t *device_event;

    SplitDesc *tables; /* INDIRECT_MAX for each id */
    void **tokens;     /* by id: what virtq_pop() returns */
    uint16_t *slots;   /* by id: descriptors it holds in the ring */
    uint16_t *free_ids;
    uint16_t n_free_ids, n_free_slots;
    uint16_t next_avail, next_used, added;
    bool avail_wrap, used_wrap;
} Virtq;

/* Sets a queue up with at most `size` entries (0: what the device offers, to QUEUE_MAX).
 */
void virtq_init(Virtq *q, VirtioDevice *d, uint16_t index, uint16_t size);

/* Offers a chain of buffers; false when the ring is full.  `token` is not NULL. */
bool virtq_add(Virtq *q, const Buffer *buffers, unsigned n, void *token);

/* Tells the device, unless it asked not to be told. */
void virtq_kick(Virtq *q);

/* The token of the next used chain, or NULL. */
void *virtq_pop(Virtq *q, uint32_t *ret_size);

/* Whether there is one. */
bool virtq_has_used(Virtq *q);

/* The same, waiting for it; NULL only when patience ran out. */
void *virtq_wait(Virtq *q, uint32_t *ret_size);

/* One chain, there and back; fails the test when the device does not answer. */
uint32_t virtq_do(Virtq *q, const Buffer *buffers, unsigned n);

#endif
