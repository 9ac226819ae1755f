/* Saved state: a file of sections, each the tagged fields of one struct that a const
 * table describes.  The table is the only description there is: saving, loading, the
 * check of every value, the text of `hutch snapshot inspect` and the proof that no field
 * was forgotten (state_tiles) follow from it.
 *
 * Files and streams are hostile: every size, count and value is checked before anything
 * is allocated or returned, and a file that is not whole is refused before any of it is
 * used.  The format is in docs/snapshot-format.md; its rules:
 *
 * - A tag is a field's name for ever.  A new field gets a new tag, raises its table's
 *   version, and says so in `since`; older sections leave it zero, so zero must mean what
 *   a device did before it had the field, or `check` must make it so.
 * - A section of a newer version is taken as long as it has only tags that are known.
 *   What is not known is refused by name: to drop a field is to feed the guest a device
 *   that is not its own.
 *
 * A writer or a reader belongs to one thread at a time. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/json.h"

enum {
    STATE_FORMAT = 1,             /* of the framing */
    STATE_MAX_FILE = 256 << 20,   /* bytes */
    STATE_MAX_SECTION = 64 << 20, /* bytes, of one section's fields */
    STATE_MAX_NAME = 64,          /* bytes, of a section's name or kind */
    STATE_MAX_SECTIONS = 4096,    /* in a file */
    STATE_MAX_FIELDS = 256,       /* in a table */
};

typedef enum {
    STATE_U8,
    STATE_U16,
    STATE_U32, /* int32_t and enums too: their bits */
    STATE_U64,
    STATE_BOOL,
    STATE_I64,    /* without a range: `check` has it */
    STATE_BYTES,  /* `size` bytes as they are: a fixed array, a kernel's uapi struct */
    STATE_TEXT,   /* a char array: ends with NUL, no control characters before it */
    STATE_BLOB,   /* a StateBlob, of at least `min` and at most `max` bytes */
    STATE_STRUCT, /* elements described by `of` */
    STATE_PAD,    /* not saved: padding, pointers, what is rebuilt; for state_tiles() */
} StateType;

typedef struct StateBlob {
    uint8_t *data; /* g_malloc; freed by state_clear().  NULL: size is 0 */
    uint32_t size;
} StateBlob;

typedef struct StateTable StateTable;

typedef struct StateField {
    uint16_t tag;     /* unique in the table, never reused; 0 only for STATE_PAD */
    const char *name; /* "rx_filter"; NULL ends a table */
    StateType type;
    size_t offset, size; /* of one element */
    uint32_t count;      /* elements; 0 and 1: a single one */
    size_t used;         /* 0, or 1 + offset of a uint32_t: how many of `count` are used.
                            That number is saved with the field: no field of its own */
    uint64_t min, max;   /* of integers (max 0: the type's); of a blob's size */
    const StateTable *of;
    uint16_t since;   /* version of the table that brought it */
    const char *help; /* one line for `hutch snapshot inspect`; NULL: the name says it */
} StateField;

struct StateTable {
    const char *name; /* the kind, as it is in files: "serial", "vcpu" */
    uint16_t version; /* >= 1 */
    size_t size;      /* of the struct */
    const StateField *fields;

    /* What the fields' ranges cannot say; NULL: nothing.  Also called before saving, so
     * that no file is written that could not be loaded. */
    bool (*check)(const void *s, GError **error);
};

/* ---- entries of a table: struct, member, tag, then any of .min .max .since .help ------
 *
 *     static const StateField fields[] = {
 *         STATE_FIELD(RtcState, index, 1, U8, .max = 127, .help = "register selected"),
 *         STATE_RAW(RtcState, cmos, 2),
 *         {},
 *     };
 */
#define STATE_MEMBER(S, m)    (((S *)0)->m)
#define STATE_AT(S, m)        .name = #m, .offset = offsetof(S, m)
#define STATE_USED_AT(S, m)   (1 + offsetof(S, m))
#define STATE_LENGTH_OF(S, m) (sizeof(STATE_MEMBER(S, m)) / sizeof(STATE_MEMBER(S, m)[0]))

/* One integer or bool. */
#define STATE_FIELD(S, m, tag_, type_, ...)                                              \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_##type_,                              \
        .size = sizeof(STATE_MEMBER(S, m)), __VA_ARGS__                                  \
    }
/* An array of them.  .used = STATE_USED_AT(S, n): only the first n are saved. */
#define STATE_INTS(S, m, tag_, type_, ...)                                               \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_##type_,                              \
        .size = sizeof(STATE_MEMBER(S, m)[0]), .count = STATE_LENGTH_OF(S, m),           \
        __VA_ARGS__                                                                      \
    }
/* Bytes as they are, of a member of any type. */
#define STATE_RAW(S, m, tag_, ...)                                                       \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_BYTES,                                \
        .size = sizeof(STATE_MEMBER(S, m)), __VA_ARGS__                                  \
    }
#define STATE_STRING(S, m, tag_, ...)                                                    \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_TEXT,                                 \
        .size = sizeof(STATE_MEMBER(S, m)), __VA_ARGS__                                  \
    }
/* A StateBlob of at most max_ bytes. */
#define STATE_DATA(S, m, tag_, max_, ...)                                                \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_BLOB,                                 \
        .size = sizeof(STATE_MEMBER(S, m)), .max = max_, __VA_ARGS__                     \
    }
/* One struct, an array of them, and an array of which the first `used_member` are used.
 */
#define STATE_NESTED(S, m, tag_, of_, ...)                                               \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_STRUCT,                               \
        .size = sizeof(STATE_MEMBER(S, m)), .of = of_, __VA_ARGS__                       \
    }
#define STATE_ARRAY(S, m, tag_, of_, ...)                                                \
    {                                                                                    \
        .tag = tag_, STATE_AT(S, m), .type = STATE_STRUCT,                               \
        .size = sizeof(STATE_MEMBER(S, m)[0]), .count = STATE_LENGTH_OF(S, m),           \
        .of = of_, __VA_ARGS__                                                           \
    }
#define STATE_LIST(S, m, used_member, tag_, of_, ...)                                    \
    STATE_ARRAY(S, m, tag_, of_, .used = STATE_USED_AT(S, used_member), ##__VA_ARGS__)
/* Not saved: a member; the hole that the compiler leaves between two members, and after
 * the last one. */
#define STATE_SKIP(S, m)                                                                 \
    {                                                                                    \
        STATE_AT(S, m), .type = STATE_PAD, .size = sizeof(STATE_MEMBER(S, m))            \
    }
#define STATE_HOLE(S, before, after)                                                     \
    {                                                                                    \
        .name = "(hole)", .type = STATE_PAD,                                             \
        .offset = offsetof(S, before) + sizeof(STATE_MEMBER(S, before)),                 \
        .size = offsetof(S, after) - offsetof(S, before) -                               \
                sizeof(STATE_MEMBER(S, before)),                                         \
    }
#define STATE_HOLE_AT_END(S, last)                                                       \
    {                                                                                    \
        .name = "(hole)", .type = STATE_PAD,                                             \
        .offset = offsetof(S, last) + sizeof(STATE_MEMBER(S, last)),                     \
        .size = sizeof(S) - offsetof(S, last) - sizeof(STATE_MEMBER(S, last)),           \
    }

/* ---- writing ------------------------------------------------------------------------
 */

typedef struct StateWriter StateWriter;

StateWriter *state_writer_new(void);
void state_writer_free(StateWriter *w); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StateWriter, state_writer_free)

/* Adds a section with a name of its own: "serial0", "disk0/blk".  `s` is the caller's and
 * is copied.  What could not be loaded again (a value out of its range, a name twice) is
 * remembered, and state_writer_end() fails with the first such error. */
void state_put(StateWriter *w, const char *section, const StateTable *t, const void *s);

/* The whole file's bytes, or NULL.  Frees w in either case. */
GBytes *state_writer_end(StateWriter *w, GError **error);

/* ---- reading ------------------------------------------------------------------------
 */

typedef struct StateReader StateReader;

/* Checks framing, sums, sizes and that names are unique.  Copies nothing and holds a
 * reference to `bytes`. */
StateReader *state_reader_new(GBytes *bytes, GError **error);
void state_reader_free(StateReader *r); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StateReader, state_reader_free)

bool state_has(const StateReader *r, const char *section);

/* Fills a struct, which is zeroed first; what was in it is not freed.  Errors are one
 * sentence with section and field: "state, section 'rtc', field 'index': 300 is more than
 * 127".  On failure *ret is all zero.  A later state_clear() frees its blobs. */
bool state_get(StateReader *r, const char *section, const StateTable *t, void *ret,
               GError **error);

/* Frees the blobs of a struct, then zeroes it. */
void state_clear(const StateTable *t, void *s);

/* Fails if a section was not asked for: it is the state of something that this machine
 * does not have. */
bool state_reader_done(const StateReader *r, GError **error);

/* ---- looking ------------------------------------------------------------------------
 */

/* The table of that kind in a NULL-terminated list; NULL: none. */
const StateTable *state_find_table(const StateTable *const *tables, const char *kind);

/* All sections in the file's order: {"rtc": {"kind": "rtc", "version": 1, "fields":
 * {"index": 13, "cmos": "00ff..."}}}.  Integers beyond int64_t and bytes are hexadecimal
 * text; a blob above 4 KiB is {"size", "crc32"}.  A section whose kind is not among
 * `tables`, or that does not fit its table, has "size" and, the latter, "error" instead
 * of "fields".  A new reference. */
json_t *state_describe(const StateReader *r, const StateTable *const *tables);

/* For tests: each byte of the struct belongs to exactly one field, holes and pointers are
 * declared as such, and the table keeps the rules above; so no field was forgotten. */
bool state_tiles(const StateTable *t, GError **error);
