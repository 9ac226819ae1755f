/* Pages from a server. */
#pragma once

#include "page_source.h"
#include "snapshot/remote.h"

/* A connection of its own.  One that is lost is made anew by the next read. */
PageSource *remote_source(RemoteSnapshot *r, GError **error);
