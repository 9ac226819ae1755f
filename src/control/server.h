/* A server without a machine, for tests. */
#pragma once

#include "control/control.h"

/* control_start() but for the machine, which commands then find NULL. */
bool server_start(ControlServer *s, IoLoop *loop, GError **error);

/* Main thread, before it starts: how long a client may take to begin its session when
 * others wait for its place. */
void server_set_patience(ControlServer *s, int64_t ns);
