/* One QMP message: what it asks, and the reply.  Knows no socket, so that tests and the
 * fuzzer come in here. */
#pragma once

#include "control/control.h"

typedef struct Session Session;

/* Who asks, as far as the answer depends on it. */
typedef struct RequestRights {
    bool negotiated, readonly;
} RequestRights;

typedef struct Request {
    ControlCall call;
    const ControlCommand *command;
    void *args;
    json_t *id;    /* NULL: none */
    json_t *reply; /* NULL: not carried out yet */

    Session *session; /* the main thread's; NULL: it has gone */
    struct Request *next;
} Request;

/* Parses and checks a message.  Never NULL; what cannot be carried out has its reply
 * already. */
Request *request_new(const char *text, size_t len, RequestRights rights,
                     const ControlCall *context);
void request_free(Request *r);

/* Carries it out; the thread is the command's. */
void request_run(Request *r);

void request_refuse(Request *r, const char *desc); /* instead */

/* {"error": ...}, as a reply to what is no message. */
json_t *request_refusal(const char *desc);
