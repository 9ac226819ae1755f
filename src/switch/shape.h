/* Rates: token buckets of bytes and of frames, one of each for a direction of a port.
 * What is beyond them is dropped, as a policer does; a burst is what may come at once. */
#pragma once

#include "src/switch/switch.h"

typedef struct ShapeOptions {
    uint64_t bytes_per_s, burst_bytes, frames_per_s,
        burst_frames; /* 0: no limit; bursts: a tenth of a second */
} ShapeOptions;

Shape *shape_new(const ShapeOptions *options);
void shape_free(Shape *shape);
bool shape_admit(Shape *shape, size_t bytes, int64_t now_ns);
json_t *shape_json(const Shape *shape);
