/* For who makes up states: a sum is no signature, so hostile files have right ones. */
#pragma once

#include <zlib.h>

#include "state/state.h"
#include "util/bits.h"

/* Puts right the CRC-32 of each section, as far as the framing can be followed, and the
 * number of sections at the end. */
static inline void state_fix_sums(uint8_t *p, size_t size)
{
    size_t at = 12, n = 0;

    while (size - at >= 16 && size >= at && memcmp(p + at, "SECT", 4) == 0) {
        size_t whole = 16 + (size_t)load_le32(p + at + 8) + p[at + 14] + p[at + 15];

        if (whole > size - at)
            return;
        store_le32(p + at + 4, crc32_z(0, p + at + 8, whole - 8));
        at += whole;
        n++;
    }
    if (size >= at + 8 && memcmp(p + at, "LAST", 4) == 0)
        store_le32(p + at + 4, n);
}
