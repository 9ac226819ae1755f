/* The guest of the tests of a card with several pairs: its buffers for what is received.
 */
#pragma once

#include "virtio/devices.h"
#include "vq_guest.h"

enum { PAIRS = 4, BUF = 2000 };

static VqGuest g;
static void *options;
static uint64_t buf_gpa[2 * PAIRS][VQ_MAX_SIZE]; /* by token */

static void end(void)
{
    vqg_finish(&g);
    param_free(virtio_net_ops.params, options);
}

static void offer(unsigned pair, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t gpa = vqg_alloc(&g, BUF);

        buf_gpa[pair][vqg_chain(&g, 2 * pair, &(VqgBuf){gpa, BUF, IN}, 1)] = gpa;
    }
    vqg_kick_queue(&g, 2 * pair);
}

static void offer_all(unsigned n)
{
    for (unsigned i = 0; i < PAIRS; i++)
        offer(i, n);
}
