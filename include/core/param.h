/* Options as tables.  One ParamDesc array describes a struct of options; the command-line
 * parser, JSON in and out, --help, the man page and shell completion all read it, so that
 * an option is written down once.
 *
 * On the command line a list of options is KEY=VALUE,KEY=VALUE.  The table's first entry
 * may be given bare ("--disk root.raw"), as may booleans ("readonly"); a comma inside a
 * value is doubled.  In JSON it is an object with the same keys, and PARAM_LIST is an
 * array. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

typedef enum {
    PARAM_STRING, /* char *, owned; NULL: not given */
    PARAM_PATH,   /* char *, owned; relative ones in a JSON file count from its folder */
    PARAM_BOOL,   /* bool: bare, on|off, yes|no, true|false */
    PARAM_UINT,   /* uint64_t within [min, max] */
    PARAM_SIZE, /* uint64_t bytes with suffix K M G T (powers of 1024), within [min, max]
                 */
    PARAM_ENUM, /* int: index into choices[], plus min; so with min 1, zero: not given */
    PARAM_MAC,  /* uint8_t[6]; all zero: not given */
    PARAM_LIST, /* char **, owned, NULL-terminated: a key that may be repeated */
    PARAM_JSON, /* json_t *, owned: any value, which whoever uses it checks */
} ParamType;

typedef struct ParamDesc {
    const char *key;
    char letter; /* its short name as an option on the command line; 0: none */
    ParamType type;
    size_t offset;              /* of the member in the options struct */
    const char *arg;            /* placeholder in help: "FILE" */
    const char *help;           /* one line, lower case, no full stop */
    const char *def;            /* default, in command-line notation; NULL: zero */
    const char *bare;           /* what it means without a value; NULL: it needs one */
    const char *const *choices; /* PARAM_ENUM: NULL-terminated */
    uint64_t min, max;          /* PARAM_UINT, PARAM_SIZE; max 0: no limit */
    bool required;
    const char *other; /* PARAM_ENUM, first of its table: a bare word that is no choice is
                          the value of this key */
    const struct ParamTable *keys; /* PARAM_LIST: each value is a list of these KEY=VALUE,
                                      which the owner parses */
} ParamDesc;

/* A struct of options; ends with a zeroed ParamDesc. */
typedef struct ParamTable {
    size_t size; /* of the options struct */
    const ParamDesc *desc;
    /* Optional: sees the finished struct and refuses combinations. */
    bool (*check)(void *options, GError **error);
} ParamTable;

/* Makes a struct with its defaults; param_free frees it and what it owns.  NULL is
 * accepted. */
void *param_new(const ParamTable *table);
void param_free(const ParamTable *table, void *options);

/* Parses command-line notation / a JSON object into a struct of param_new(), then checks
 * it.  Unknown and repeated keys, malformed and out-of-range values and missing required
 * keys are refused with a sentence that names the key.  `base` is the folder for relative
 * PARAM_PATHs, NULL for none. */
bool param_parse(const ParamTable *table, void *options, const char *text,
                 GError **error);
bool param_from_json(const ParamTable *table, void *options, json_t *object,
                     const char *base, GError **error);

/* A new reference: the options that differ from their defaults (and the bare one).  Paths
 * come out absolute. */
json_t *param_to_json(const ParamTable *table, const void *options);

/* The pieces, for top-level options that are not in a list.  param_set(NULL) is a boolean
 * given bare.  A failure leaves the member as it was, but for what a JSON array had
 * before the bad item. */
bool param_set(const ParamDesc *desc, void *options, const char *value, GError **error);
bool param_set_json(const ParamDesc *desc, void *options, json_t *value, const char *base,
                    GError **error);
json_t *param_value_to_json(const ParamDesc *desc, const void *options);
bool param_is_default(const ParamDesc *desc, const void *options);
void param_clear(const ParamDesc *desc, void *options); /* frees what is owned */
bool param_parse_size(const char *text, uint64_t *ret, GError **error);

/* True when `typed` was probably meant to be `known`. */
bool param_similar(const char *typed, const char *known);
