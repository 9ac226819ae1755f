/* Registers a byte wide behind ports that the guest may read with wider accesses: the bus
 * cuts those into bytes at consecutive ports.  What lies past the device reads as ones
 * and ignores writes. */
#pragma once

#include "core/device.h"
#include "util/bits.h"

static inline uint64_t regs_read(Device *d, uint64_t offset, unsigned size, unsigned end,
                                 uint8_t (*read)(Device *d, unsigned reg))
{
    uint64_t value = ones(size);

    for (unsigned i = 0; i < size && offset + i < end; i++) {
        value &= ~(0xffull << 8 * i);
        value |= (uint64_t)read(d, offset + i) << 8 * i;
    }
    return value;
}

static inline void regs_write(Device *d, uint64_t offset, unsigned size, uint64_t value,
                              unsigned end,
                              void (*write)(Device *d, unsigned reg, uint8_t value))
{
    for (unsigned i = 0; i < size && offset + i < end; i++)
        write(d, offset + i, value >> 8 * i);
}
