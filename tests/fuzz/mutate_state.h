/* How libFuzzer changes a saved state: field by field.  Included by one file of a fuzzer.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "util/bits.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max); /* libFuzzer's */

/* Where the n-th field of the file is, counted through all sections and round again; its
 * length in *ret_len.  0: there is none. */
static inline size_t find_field(const uint8_t *p, size_t size, unsigned n,
                                size_t *ret_len)
{
    size_t first = 0, first_len = 0;
    unsigned found = 0;

    for (size_t at = 12; size - at >= 16 && memcmp(p + at, "SECT", 4) == 0;) {
        size_t field = at + 16 + p[at + 14] + p[at + 15];
        size_t end = field + load_le32(p + at + 8);

        if (end > size)
            break;
        while (end - field >= 6 && end - field - 6 >= load_le32(p + field + 2)) {
            *ret_len = load_le32(p + field + 2);
            if (!first) {
                first = field + 6;
                first_len = *ret_len;
            }
            if (found++ == n)
                return field + 6;
            field += 6 + *ret_len;
        }
        at = end;
    }
    *ret_len = first_len;
    return n && found ? find_field(p, size, n % found, ret_len) : first;
}

/* Mostly, one field gets another value and the rest stays good: noise would hardly ever
 * get to the checks of values. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size_t len, at = size < 28 ? 0 : find_field(data, size, seed >> 3 & 0xfff, &len);

    if (!(seed & 7) || !at || !len)
        return LLVMFuzzerMutate(data, size, max);
    if (seed & 1 && len <= 8)
        data[at + (seed >> 16) % len] = seed >> 24;
    else
        LLVMFuzzerMutate(data + at, len, len);
    return size;
}
