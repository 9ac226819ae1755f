/* The program passt as a child of ours: one end of a socket pair is its only client.  It
 * ends by itself when that hangs up, however we end.
 *
 * A PasstChild belongs to one loop. */
#pragma once

#include "src/net/netdev_private.h"
#include "util/log.h"

typedef struct PasstChild PasstChild;

typedef enum { PASST_STREAM, PASST_VHOST_USER } PasstMode; /* what its socket carries */

/* Finds the program, and makes its command line of the options; starts nothing. */
PasstChild *passt_child_new(const NetDevOptions *options, PasstMode mode, const char *id,
                            IoLoop *loop, GError **error);
void passt_child_free(PasstChild *c); /* NULL is fine; ends it */

/* Starts it, and returns a connected socket, blocking; -1 on failure. */
int passt_child_start(PasstChild *c, GError **error);

/* Ends it; its socket is closed already. */
void passt_child_stop(PasstChild *c);

/* Waits until it serves its socket, for a second at most: an error is its own last
 * sentence. */
bool passt_child_wait(PasstChild *c, int socket, const uint8_t mac[6], GError **error);

/* It serves its socket: what it says from now on is logged.  passt_child_wait() says so.
 */
void passt_child_serves(PasstChild *c);

/* When it may be started next, on CLOCK_MONOTONIC: one that ends again and again is
 * started some times a minute only. */
int64_t passt_child_next_start(const PasstChild *c);

/* What it said last, "" if nothing. */
const char *passt_child_last_words(PasstChild *c);
