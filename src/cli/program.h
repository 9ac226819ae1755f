/* Other programs that hutch drives: qemu-img, tar. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "src/cli/image.h"

/* Gets what the program prints, piece by piece. */
typedef bool ProgramSink(void *opaque, const char *data, size_t len, GError **error);

/* Main thread.  Runs argv[0], found in PATH, until it ends; `package` is told to who
 * lacks it.  Its standard output goes to `sink`; what it says on standard error becomes
 * the error.  It is ended if the sink fails or a signal asks us to stop.  `progress` (or
 * NULL) is kept moving. */
bool program_run(const char *const *argv, const char *package, ProgramSink *sink,
                 void *opaque, Progress *progress, GError **error);
