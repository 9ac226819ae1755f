/* What verbs.c needs of set.c. */
#pragma once

#include "src/cli/cli.h"

bool set_act(void *options, char **names, int *status, GError **error);
extern const ParamTable set_args;
extern const char set_about[], set_notes[];
