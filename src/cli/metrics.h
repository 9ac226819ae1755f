/* What verbs.c needs of metrics.c, top.c and doctor.c. */
#pragma once

#include "src/cli/cli.h"

bool metrics_act(void *options, char **names, int *status, GError **error);
extern const ParamTable metrics_args;
extern const char metrics_about[], metrics_notes[];

bool top_act(void *options, char **names, int *status, GError **error);
extern const ParamTable top_args;
extern const char top_about[], top_notes[];

bool doctor_act(void *options, char **names, int *status, GError **error);
extern const ParamTable doctor_args;
extern const char doctor_about[];
extern const ExitStatus doctor_statuses[];
