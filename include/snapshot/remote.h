/* A snapshot that another process serves, on this host or another (snapshot/serve.h):
 * unix:PATH or tcp:ADDRESS:PORT.  What comes from there is checked as any file is; it is
 * neither encrypted nor signed, so a network that is not trusted needs a tunnel. */
#pragma once

#include <stdint.h>

#include "core/guestmem.h"

typedef struct RemoteSnapshot RemoteSnapshot;

bool remote_is_address(const char *name); /* and not a snapshot's name or path */

/* Any thread, seconds at most.  Fetches manifest, config and state into a folder of its
 * own, where it looks like a full snapshot without memory.  Disks are not served: their
 * paths have to lead to them here. */
RemoteSnapshot *remote_open(const char *address, GError **error);
void remote_close(RemoteSnapshot *r); /* NULL is fine; removes the folder */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RemoteSnapshot, remote_close)

const char *remote_folder(const RemoteSnapshot *r);
uint64_t remote_ram_size(const RemoteSnapshot *r); /* bytes */

/* Main thread, RAM untouched: all of it comes now. */
bool remote_copy(RemoteSnapshot *r, GuestMem *gm, GError **error);
