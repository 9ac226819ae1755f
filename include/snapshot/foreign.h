/* Snapshots from elsewhere: those that 'hutch snapshot import' made, whose manifest says
 * so, and those that a server gives.  Their config names files, sockets, interfaces and
 * networks of this host, which nobody here has chosen.  The rule: none of these is opened
 * unless it was said anew (--disk, --net, --console, --serial ...), or the user trusts
 * the whole of it (--trust).  What the guest cannot see anyway is left out.
 *
 * A template and a merged snapshot of a foreign one are foreign.  What a VM saves that
 * runs is not: then its config is what was allowed.  Main thread. */
#pragma once

#include "machine/config.h"
#include "snapshot/manifest.h"

/* Of a Config that was just read from a foreign snapshot: marks what reaches out of the
 * VM, which whoever replaces it unmarks, and leaves out its kernel and initrd (so the
 * guest cannot be reset), control sockets and metrics. */
void foreign_mark(Config *cfg);

/* Whether nothing that is marked is left, but disks that are in the snapshot's folder.
 * `paths` are files by disks' ids, as snapshot_disks_restore() has them; may be NULL.
 * The error names the devices and both ways out. */
bool foreign_allowed(const Config *cfg, const Manifest *m, const json_t *paths,
                     GError **error);

/* foreign_mark() and foreign_allowed() in one, for who only asks. */
bool foreign_allowed_as_is(Config *cfg, const Manifest *m, GError **error);
