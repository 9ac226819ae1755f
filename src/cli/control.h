/* What verbs.c needs of control.c. */
#pragma once

#include "src/cli/cli.h"

bool control_act(void *options, char **names, int *status, GError **error);
extern const ParamTable control_args;
extern const char control_about[], control_notes[];
