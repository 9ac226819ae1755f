/* Private to metrics_server.c and its test. */
#pragma once

#include <stdint.h>

/* How long a connection may last, nanoseconds; a test makes it shorter, before it starts
 * a server. */
extern int64_t metrics_client_ns;
