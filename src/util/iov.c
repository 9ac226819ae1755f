/* See util/iov.h. */
#include "util/iov.h"

#include <stdbool.h>
#include <string.h>

size_t iov_len(const struct iovec *iov, unsigned n)
{
    size_t len = 0;

    for (unsigned i = 0; i < n; i++)
        len += iov[i].iov_len;
    return len;
}

/* Runs over the pieces of [offset, offset + len), one at a time. */
static bool next_piece(const struct iovec **iov, unsigned *n, size_t *offset, size_t len,
                       struct iovec *piece)
{
    while (*n && *offset >= (*iov)->iov_len) {
        *offset -= (*iov)->iov_len;
        (*iov)++;
        (*n)--;
    }
    if (!*n || !len)
        return false;
    piece->iov_base = (char *)(*iov)->iov_base + *offset;
    piece->iov_len = (*iov)->iov_len - *offset;
    if (piece->iov_len > len)
        piece->iov_len = len;
    *offset += piece->iov_len;
    return true;
}

size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf,
                  size_t len)
{
    struct iovec piece;
    size_t done = 0;

    for (; next_piece(&iov, &n, &offset, len - done, &piece); done += piece.iov_len)
        memcpy((char *)buf + done, piece.iov_base, piece.iov_len);
    return done;
}

size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
                    size_t len)
{
    struct iovec piece;
    size_t done = 0;

    for (; next_piece(&iov, &n, &offset, len - done, &piece); done += piece.iov_len)
        memcpy(piece.iov_base, (const char *)buf + done, piece.iov_len);
    return done;
}

size_t iov_fill(const struct iovec *iov, unsigned n, size_t offset, int byte, size_t len)
{
    struct iovec piece;
    size_t done = 0;

    for (; next_piece(&iov, &n, &offset, len - done, &piece); done += piece.iov_len)
        memset(piece.iov_base, byte, piece.iov_len);
    return done;
}

unsigned iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                   struct iovec *out)
{
    unsigned n_out = 0;

    for (; next_piece(&iov, &n, &offset, len, &out[n_out]); n_out++)
        len -= out[n_out].iov_len;
    return n_out;
}
