/* See src/cli/tar.h. */
#include "src/cli/tar.h"

#include <string.h>

#include "util/bits.h"

enum { MAX_BITS = 56 };

void tar_put_number(char *field, size_t len, uint64_t value)
{
    bool fits = value >> (3 * (len - 1)) == 0;

    memset(field, 0, len);
    for (size_t i = fits ? len - 1 : len; i-- > (fits ? 0 : 1);) {
        field[i] = fits ? (char)('0' + (value & 7)) : (char)(value & 0xff);
        value >>= fits ? 3 : 8;
    }
    if (!fits)
        *field = (char)0x80;
}

bool tar_get_number(const char *field, size_t len, uint64_t *ret)
{
    uint64_t value = 0;
    size_t i = 0;

    if ((unsigned char)*field == 0x80) {
        for (i = 1; i < len && value < BIT64(MAX_BITS); i++)
            value = value << 8 | (unsigned char)field[i];
    } else {
        while (i < len && field[i] == ' ')
            i++;
        for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
            value = value << 3 | (uint64_t)(field[i] - '0');
        if (i < len && field[i] && field[i] != ' ')
            return false;
    }
    *ret = value;
    return value < BIT64(MAX_BITS);
}

/* Of all bytes, with blanks for its own. */
static unsigned sum_of(const TarHeader *h)
{
    const unsigned char *bytes = (const unsigned char *)h;
    unsigned sum = 0;

    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= offsetof(TarHeader, checksum) && i < offsetof(TarHeader, type)
                   ? ' '
                   : bytes[i];
    return sum;
}

void tar_put_sum(TarHeader *h)
{
    tar_put_number(h->checksum, 7, sum_of(h));
    h->checksum[7] = ' ';
}

bool tar_check_sum(const TarHeader *h)
{
    uint64_t told;

    return tar_get_number(h->checksum, sizeof(h->checksum), &told) && told == sum_of(h);
}

size_t tar_padding(uint64_t size)
{
    return (size_t)(align_up(size, TAR_BLOCK) - size);
}
