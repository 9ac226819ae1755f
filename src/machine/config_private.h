/* What the files of the Config share: config.c (making, setting, what follows from the
 * rest), config_options.c (which options there are) and config_json.c (its notation in
 * JSON).  Main thread. */
#pragma once

#include "machine/config.h"

extern const ParamTable config_scalars; /* the single values, of struct Config */
extern const ParamTable config_memory;  /* of GuestMemOptions */

/* Either notation of a value: the command line's text, or JSON. */
typedef struct ConfigSource {
    const char *text;
    json_t *json;
    const char *base;
} ConfigSource;

/* As config_set(), from either notation. */
bool config_set_named(Config *cfg, const ConfigOption *option, const ConfigSource *from,
                      GError **error);
