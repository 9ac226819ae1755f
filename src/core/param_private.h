/* What param.c lends to param_json.c. */
#pragma once

#include "core/param.h"

/* A size in the largest unit that divides it, as param_parse_size() reads it. */
enum { PARAM_SIZE_TEXT = 24 };
void param_size_text(uint64_t v, char text[PARAM_SIZE_TEXT]);

/* `seen` has a bit for each key met so far in one list, by its position. */
enum { PARAM_MAX_KEYS = 64 };

/* The key's entry, noting it as seen; refuses unknown and repeated keys (NULL). */
const ParamDesc *param_take_key(const ParamTable *table, uint64_t *seen, const char *key,
                                GError **error);

/* Refuses missing required keys, then asks the table's own check. */
bool param_complete(const ParamTable *table, void *options, uint64_t seen,
                    GError **error);

/* True for what means the same in every folder: absolute paths, and URIs, which some
 * options take in the place of a path. */
bool param_path_is_absolute(const char *path);

/* param_parse() with a folder for relative paths. */
bool param_parse_at(const ParamTable *table, void *options, const char *text,
                    const char *base, GError **error);
bool param_set_at(const ParamDesc *desc, void *options, const char *value,
                  const char *base, GError **error);
