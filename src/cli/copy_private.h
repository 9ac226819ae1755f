/* What the files of hutch cp share. */
#pragma once

#include "agent/agent.h"
#include "src/cli/image.h"

typedef struct Copy {
    const ImageArgs *args; /* quiet, progress */
    const char *vm;
    Agent *agent;
    char suffix[24]; /* of names that are not final yet: ".hutch-1234abcd" */
} Copy;

/* Runs a script in the guest with $1 and on, which end with NULL, and waits for it.  What
 * it prints goes to `out` (NULL: nowhere), 64 KiB of it.  What it says on standard error
 * becomes the error. */
bool copy_script(Copy *c, GString *out, GError **error, const char *script,
                 ...) G_GNUC_NULL_TERMINATED;

bool copy_interrupted(GError **error); /* true: a signal asks us to stop */

/* `from` is a file or folder here, `to` a path in the guest; or the other way round. */
bool copy_put(Copy *c, const char *from, const char *to, GError **error);
bool copy_get(Copy *c, const char *from, const char *to, GError **error);
