/* The headers of tar archives: POSIX's ustar (pax, "ustar Interchange Format") with what
 * GNU and busybox add to it: sizes in binary, and sparse files (type 'S'). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TAR_BLOCK = 512, TAR_RUNS_HERE = 4, TAR_RUNS_MORE = 21 };

/* Where a sparse file has data. */
typedef struct TarRunField {
    char offset[12], len[12];
} TarRunField;

typedef struct TarHeader {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[100], magic[8], user[32], group[32], major[8], minor[8];
    union {
        struct {
            char prefix[155], pad[12];
        } ustar;
        struct {
            char atime[12], ctime[12], offset[12], longnames[4], unused;
            TarRunField runs[TAR_RUNS_HERE];
            char extended, real_size[12], pad[17];
        } gnu;
    };
} TarHeader;
_Static_assert(sizeof(TarHeader) == TAR_BLOCK, "a header is a block");

/* What continues the header of a sparse file. */
typedef struct TarMoreRuns {
    TarRunField runs[TAR_RUNS_MORE];
    char extended, pad[7];
} TarMoreRuns;
_Static_assert(sizeof(TarMoreRuns) == TAR_BLOCK, "what continues it is one, too");

/* Octal digits, or binary behind a byte 0x80 where those would not fit. */
void tar_put_number(char *field, size_t len, uint64_t value);
/* False: it is none, or 2^56 or more, which no file has. */
bool tar_get_number(const char *field, size_t len, uint64_t *ret);

/* The checksum: last, when all else is in it. */
void tar_put_sum(TarHeader *h);
bool tar_check_sum(const TarHeader *h);

/* Bytes of zeroes behind so much data. */
size_t tar_padding(uint64_t size);
