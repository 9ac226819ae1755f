/* A host's end of a network card that does as the test says; takes the place of
 * src/net/netdev.c in the test's program. */
#pragma once

#include "backend/netdev.h"

typedef struct FakeFrame {
    size_t len; /* with the header */
    uint8_t b[NET_MAX_FRAME];
} FakeFrame;

enum { FAKE_FRAMES = 64 };

/* One of its queues; the first is what all else is said to. */
typedef struct FakeNetDev {
    unsigned can;      /* offloads; the test's to set before the card is made */
    unsigned offloads; /* as the card set them last */
    unsigned expected; /* what the card said that its driver leaves to us */
    uint8_t mac[6];    /* as the card set it last; zero: it did not */
    bool busy;         /* sends are refused */
    bool reading;
    unsigned queues; /* that it has; the test's to set before the card is made; 0: one */
    unsigned used;   /* as the card said last */
    bool refuses;    /* it cannot have several now */
    unsigned n_sent, n_in, at_in;
    unsigned restored; /* calls */
    FakeFrame sent;    /* the last one */
    void (*readable)(void *opaque);
    void (*writable)(void *opaque);
    void *opaque;
    FakeFrame in[FAKE_FRAMES];
} FakeNetDev;

extern FakeNetDev fake_queue[NETDEV_MAX_QUEUES];
#define fake fake_queue[0]

void fake_reset(unsigned can);
/* A frame for the guest, of `len` bytes with the header, told from others by `mark`; the
 * card is told at once if it is reading. */
void fake_push(size_t len, uint8_t mark);
void fake_push_to(unsigned queue, size_t len, uint8_t mark);
void fake_push_frame(const void *frame, size_t len); /* these bytes, without header */
uint8_t fake_byte(size_t at, uint8_t mark);          /* what is at `at` of such a frame */
void fake_ready(void);                               /* sends are taken again */
