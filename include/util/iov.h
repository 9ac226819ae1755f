/* Scatter/gather lists.  Lengths are in bytes; nothing here allocates. */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

size_t iov_len(const struct iovec *iov, unsigned n);

/* Copies up to `len` bytes between `buf` and the list from `offset` on; returns the bytes
 * copied, fewer than `len` only at the end of the list. */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf,
                  size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
                    size_t len);
size_t iov_fill(const struct iovec *iov, unsigned n, size_t offset, int byte, size_t len);

/* Writes into `out` (room for `n` entries) the part [offset, offset + len) of the list;
 * returns the number of entries written. */
unsigned iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                   struct iovec *out);
