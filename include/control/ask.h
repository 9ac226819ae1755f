/* The same question to many VMs at once: what verbs about a whole fleet use.  Nobody is
 * waited for longer than the others, and a monitor that hangs costs the time limit once,
 * however many do. */
#pragma once

#include <jansson.h>

#include "util/error.h"

typedef struct ControlAnswer {
    const char *vm; /* a name, or a socket's path with a '/' in it; the caller's */
    json_t *value; /* what the command returned; NULL: nothing, for the reason in error */
    GError *error; /* VM_ERROR_NOT_FOUND: there is no such VM; VM_ERROR_BUSY: it does not
                      answer */
} ControlAnswer;

/* Any thread.  Carries out `command`, which takes no arguments and whose answer comes
 * soon, in each of the VMs, whose `vm` is set; fills in the rest. */
void control_ask(ControlAnswer *answers, unsigned n, const char *command, int limit_ms);

/* Frees values and errors; the array stays the caller's. */
void control_answers_clear(ControlAnswer *answers, unsigned n);
