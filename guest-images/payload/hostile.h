/* What the hostile cases share: see test_hostile.c. */
#ifndef PAYLOAD_HOSTILE_H
#define PAYLOAD_HOSTILE_H

#include "virtio.h"

typedef struct Case {
    const char *name;
    void (*run)(void);
    uint64_t needs; /* features */
    bool pci;
} Case;

extern const Case cases_rings[], cases_device[];

extern VirtioDevice *dev; /* the one that is ill-treated */
extern Virtq q;           /* its work queue */
extern uint8_t data[4096];
extern uint64_t beyond_ram; /* no RAM, no device */

/* The queue that a device of this type takes requests from, and a request it likes. */
uint16_t work_queue(VirtioDevice *d);
unsigned harmless_request(VirtioDevice *d, Buffer *ret);

/* Brings the device up, and writes a split ring by hand. */
void ring_start(uint64_t mode);
void ring_put(unsigned i, uint64_t address, uint32_t size, unsigned flags, unsigned next);
void ring_offer(unsigned head);
uint64_t address_of(const volatile void *p);

#endif
