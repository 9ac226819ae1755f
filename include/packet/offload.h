/* What a virtio network header leaves to be done: a checksum to be filled in, a big
 * segment to be cut into frames (virtio 1.2, 5.1.6.2), for those who cannot be given
 * such. Checksums: RFC 1071.  Any thread; nothing allocates. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As drivers, taps and our own rings have it; little-endian. */
typedef struct VnetHdr {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
} VnetHdr;

enum {
    VNET_NEEDS_CSUM = 1,
    VNET_DATA_VALID = 2,
    VNET_GSO_NONE = 0,
    VNET_GSO_TCPV4 = 1,
    VNET_GSO_TCPV6 = 4,
    VNET_GSO_UDP_L4 = 5, /* datagrams of one size, one after the other (virtio 1.3) */
    VNET_GSO_ECN = 0x80,
    VNET_SCRATCH = 1 << 16, /* the longest frame that is cut or summed up elsewhere */
};

/* Adds bytes to a one's complement sum, and ends it.  Begin with 0; every piece but the
 * last has an even length. */
uint32_t checksum_add(uint32_t sum, const void *bytes, size_t len);
uint16_t checksum_end(uint32_t sum); /* to be stored as it is, with memcpy() */

/* Whether the header can be meant: offsets within `len`, a known type, a whole header of
 * TCP or UDP where it says so (behind one 802.1Q tag at most).  What fails is to be
 * dropped. hdr_len is a hint that nobody here believes. */
bool vnet_hdr_valid(const VnetHdr *hdr, const uint8_t *frame, size_t len);

/* Fills in the checksum that NEEDS_CSUM asks for, and clears the flag.  Only with a valid
 * header, and only once for a frame. */
void vnet_finish_checksum(VnetHdr *hdr, uint8_t *frame, size_t len);

/* Cuts a valid GSO frame into frames of hdr->gso_size, whole with checksums, and calls
 * `each` with one after the other, in `scratch` (VNET_SCRATCH bytes).  Stops when it
 * returns false.  A frame that is no GSO is given as it is, or as a copy in `scratch`
 * whose checksum is filled in: `frame` itself is never changed. */
void vnet_segment(const VnetHdr *hdr, const uint8_t *frame, size_t len, uint8_t *scratch,
                  bool (*each)(void *opaque, const uint8_t *frame, size_t len),
                  void *opaque);
