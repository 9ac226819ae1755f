/* Verbs that talk to the agent in a guest: exec, cp, put, get, agent. */
#pragma once

#include "agent/agent.h"
#include "src/cli/cli.h"

/* How long the agent may take for one answer. */
enum { CLI_AGENT_MS = 10 * 1000 };

extern const Verb agent_verbs[]; /* ends with a NULL name */

extern const ParamTable exec_args, copy_args;
extern const char exec_about[], exec_notes[], copy_about[];
extern const ExitStatus exec_statuses[];
bool exec_act(void *options, char **names, int *status, GError **error);
bool cp_act(void *options, char **names, int *status, GError **error);
bool put_act(void *options, char **names, int *status, GError **error);
bool get_act(void *options, char **names, int *status, GError **error);
