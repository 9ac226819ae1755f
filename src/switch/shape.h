/* Rates: token buckets of bytes and of frames, one of each for a direction of a port.
 * What is beyond them is dropped, as a policer does; a burst is what may come at once.
 *
 * A segment that is still to be cut counts as the frames that it will be.  One frame may
 * take more than there is, and the next ones wait for that: so a burst that is smaller
 * than a segment of 64 KiB slows a card down, and does not silence it. */
#pragma once

#include "src/switch/switch.h"

typedef struct ShapeOptions {
    uint64_t bytes_per_s, burst_bytes, frames_per_s,
        burst_frames; /* 0: no limit; bursts: a tenth of a second */
} ShapeOptions;

/* Buckets begin full; `old` (may be NULL): they go on as full as its are. */
Shape *shape_new(const ShapeOptions *options, const Shape *old);
void shape_free(Shape *shape); /* NULL is fine */
bool shape_admit(Shape *shape, const Frame *f, int64_t now_ns);
const ShapeOptions *shape_options(const Shape *shape);
