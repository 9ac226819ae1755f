/* A virtio device for tests only.
 *
 *   queue 0  echoes: copies what it can of the readable part into the writable part
 *   queue 1  is left alone: the test pops and pushes by hand
 *   queue 2  is slow: requests stay in flight until quiesce, or echo_finish() */
#pragma once

#include "virtio/virtio.h"

enum { ECHO_QUEUES = 3, ECHO_QUEUE_SIZE = 256, ECHO_CONFIG = 12 };

typedef struct EchoOptions {
    VirtioCommonOptions common;
    bool fail_realize, fail_activate;
} EchoOptions;

typedef struct Echo {
    VirtioDevice vdev;
    const EchoOptions *options;
    unsigned handled, activated, quiesced, resets; /* calls; atomic */
    uint8_t config[ECHO_CONFIG];
    unsigned n_slow;
    VqReq slow[ECHO_QUEUE_SIZE];
} Echo;

extern const VirtioOps virtio_echo_ops;
extern unsigned echo_released; /* calls of release, of all instances */

/* Completes what queue 2 holds, newest first; on the device's loop. */
void echo_finish(Echo *e);
