/* A server without a machine, for tests. */
#pragma once

#include "control/control.h"

/* control_start() but for the machine, which commands then find NULL. */
bool server_start(ControlServer *s, IoLoop *loop, GError **error);
