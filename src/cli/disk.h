/* hutch disk: the disks of a running VM. */
#pragma once

#include "src/cli/cli.h"

extern const Verb disk_verbs[]; /* ends with a NULL name */
