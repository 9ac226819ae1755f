/* hutch template: what clones are made from. */
#pragma once

#include "src/cli/cli.h"

extern const Verb template_verbs[]; /* ends with a NULL name */

/* Saves the VM that runs under a name into the folder, by its monitor; its guest is held
 * only for a moment. */
bool template_save_vm(const char *vm, const char *folder, GError **error);
