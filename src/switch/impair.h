/* A bad wire, for testing applications: delay with jitter, loss, duplication, reordering,
 * corruption, on one direction of a port.  Held frames are copies, of a bounded number
 * and sum of bytes; what is beyond is lost.  Random numbers come from a seed that can be
 * given, so that a run can be repeated. */
#pragma once

#include "src/switch/switch.h"

typedef struct ImpairOptions {
    uint64_t delay_us, jitter_us;
    double loss, duplicate, reorder, corrupt; /* 0 to 1 */
    uint64_t seed;
} ImpairOptions;

Impair *impair_new(Port *port, Direction direction, const ImpairOptions *options);
void impair_free(Impair *impair); /* frames that it holds are lost */

/* True: the frame goes on now; false: it was lost, or will be given to switch_resume().
 */
bool impair_pass(Impair *impair, Frame *f);
json_t *impair_json(const Impair *impair);
