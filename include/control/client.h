/* The other end of a control socket: what verbs of the command line talk to a running VM
 * with.  A client belongs to one thread, and its calls wait. */
#pragma once

#include <jansson.h>

#include "util/error.h"

typedef struct ControlClient ControlClient;

/* Connects to the VM `vm`, a name or a socket's path (which has a '/' in it), and begins
 * a session.  NULL on failure; VM_ERROR_NOT_FOUND if no such VM runs. */
ControlClient *control_client_connect(const char *vm, GError **error);
/* To be polled; events may have been read from it before, which control_client_event()
 * with a timeout of 0 tells. */
int control_client_fd(const ControlClient *c);

/* A pidfd of the monitor it is connected to; -1 on failure. */
int control_client_pidfd(const ControlClient *c, GError **error);
void control_client_free(ControlClient *c); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ControlClient, control_client_free)

/* Carries out one command and waits for as long as it takes.  Takes `arguments`, an
 * object or NULL.  A new reference to what it returned; NULL with its error's desc. */
json_t *control_client_call(ControlClient *c, const char *command, json_t *arguments,
                            GError **error);

/* Sends a message as it is, and takes it; the whole reply, which may be an error. */
json_t *control_client_send(ControlClient *c, json_t *message, GError **error);

/* The next event, a new reference.  NULL: none within timeout_ms (-1: for ever) with
 * `error` unset, or the VM has ended (VM_ERROR_NOT_FOUND) or another failure. */
json_t *control_client_event(ControlClient *c, int timeout_ms, GError **error);
