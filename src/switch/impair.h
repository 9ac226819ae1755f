/* A bad wire, for testing applications: delay with jitter, loss, duplication, reordering,
 * corruption, on one direction of a port.  Held frames are copies, of a bounded number
 * and sum of bytes; what is beyond is lost.  Random numbers come from a seed that can be
 * given, so that a run can be repeated.
 *
 * Delay is from delay - jitter to delay + jitter, and frames stay in their order.  A
 * frame that is reordered waits until the next one has gone ahead, or for
 * IMPAIR_LATE_NS.  One bit of a frame that is corrupted is turned, behind its Ethernet
 * header, after all checksums were filled in.  A segment that is still to be cut is cut
 * before dice are thrown, so that they are thrown for frames as a wire has them. */
#pragma once

#include "src/switch/switch.h"

enum {
    IMPAIR_MAX_FRAMES = 8192,
    IMPAIR_MAX_BYTES = 16 << 20,
    IMPAIR_LATE_NS = 10000000,
};

typedef struct ImpairOptions {
    uint64_t delay_us, jitter_us;
    double loss, duplicate, reorder, corrupt; /* 0 to 1 */
    uint64_t seed;                            /* 0: one is made up */
} ImpairOptions;

Impair *impair_new(Port *port, Direction direction, const ImpairOptions *options);
void impair_free(Impair *impair); /* frames that it holds are lost; NULL is fine */

/* New options, while frames are held: those stay as they are. */
void impair_change(Impair *impair, const ImpairOptions *options);

/* True: the frame goes on now; false: it was lost, or was given to switch_resume(), or
 * will be. */
bool impair_pass(Impair *impair, Frame *f);
const ImpairOptions *impair_options(const Impair *impair);
