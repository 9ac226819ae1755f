/* The helper program of a shared folder: virtiofsd, of QEMU (up to 7.2) or in Rust,
 * started and ended by us.  It holds one end of a socket that never had a name anybody
 * else could have used, and ends with us, however we end.
 *
 * A Virtiofsd belongs to one loop: what is not said to be otherwise is called on it.  The
 * kernel ends the child when the thread that started it ends. */
#pragma once

#include "backend/vhost_user.h"
#include "util/error.h"
#include "util/ioloop.h"

typedef struct Virtiofsd Virtiofsd;

/* Where it is looked for when it is not in PATH; ends with NULL. */
extern const char *const virtiofsd_folders[];

/* Main thread, or the loop.  Finds the program and looks at the folder; starts nothing.
 * `id` begins the lines about it in our log. */
Virtiofsd *virtiofsd_new(const char *folder, bool readonly, const char *id, IoLoop *loop,
                         GError **error);
void virtiofsd_free(Virtiofsd *d); /* NULL is fine; ends the child */

/* Starts the child, ending the one before it, and returns a connected socket (-1 on
 * failure).  Does not wait until the child is ready, nor can it tell whether it will be:
 * if it does not, the socket hangs up. */
int virtiofsd_start(Virtiofsd *d, GError **error);

/* Ends the child, if there is one; its socket should be closed before, which makes it end
 * by itself. */
void virtiofsd_stop(Virtiofsd *d);

/* When it may be started next, on CLOCK_MONOTONIC: a program that ends again and again is
 * not started more than some times a minute. */
int64_t virtiofsd_next_start(const Virtiofsd *d);

/* What the child said last on its standard error, "" if nothing. */
const char *virtiofsd_last_words(Virtiofsd *d);

/* All of that as what a vhost-user device is told of its back end; helper: a Virtiofsd.
 */
extern const VhostHelperOps virtiofsd_helper_ops;
