/* Bits, alignment, overflow, and fields of either byte order at any address. */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BIT(n)   (1u << (n))
#define BIT64(n) (1ull << (n))

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static inline bool is_pow2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

static inline bool is_aligned(uint64_t v, uint64_t align)
{
    return !(v & (align - 1));
}

/* True when [start, start + len) does not wrap and lies within [0, limit). */
static inline bool range_within(uint64_t start, uint64_t len, uint64_t limit)
{
    return len <= limit && start <= limit - len;
}

/* Hosts are little-endian, as virtio and what guests see of a PC are. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian hosts only");

static inline uint16_t load_le16(const void *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t load_le32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t load_le64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store_le16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_le32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_le64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

/* Little-endian field of 1 to 8 bytes, as register accesses have them. */
static inline uint64_t load_le(const void *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size);
    return v;
}

static inline void store_le(void *p, uint64_t v, unsigned size)
{
    memcpy(p, &v, size);
}

/* Big-endian ones, as networks and qcow2 have them. */
static inline uint16_t load_be16(const void *p)
{
    return be16toh(load_le16(p));
}

static inline uint32_t load_be32(const void *p)
{
    return be32toh(load_le32(p));
}

static inline uint64_t load_be64(const void *p)
{
    return be64toh(load_le64(p));
}

static inline void store_be16(void *p, uint16_t v)
{
    store_le16(p, htobe16(v));
}

static inline void store_be32(void *p, uint32_t v)
{
    store_le32(p, htobe32(v));
}

static inline void store_be64(void *p, uint64_t v)
{
    store_le64(p, htobe64(v));
}

/* All ones for an access of `size` bytes: what a read of nothing returns. */
static inline uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : BIT64(size * 8) - 1;
}
