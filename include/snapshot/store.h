/* Where snapshots and templates are, by their names.
 *
 * A name with a '/' in it is a path.  Any other is that of a folder NAME.snap in the
 * store: $HUTCH_SNAPSHOTS or else hutch/snapshots in $XDG_DATA_HOME (~/.local/share);
 * templates in $HUTCH_TEMPLATES or hutch/templates beside it; what `hutch run --warm`
 * keeps in hutch/warm of $XDG_CACHE_HOME (~/.cache).  Any thread. */
#pragma once

#include "util/error.h"

typedef enum { STORE_SNAPSHOTS, STORE_TEMPLATES, STORE_WARM } StoreKind;

#define STORE_SUFFIX ".snap"
enum { STORE_MAX_NAME = 128 };

char *store_folder(StoreKind kind); /* a new string; need not exist */

/* Whether it is a name: no '/', no '.' or '-' first, printable. */
bool store_check_name(StoreKind kind, const char *name, GError **error);

/* A new string: the folder that has that name, or would have it.  Of a path ".snap" may
 * be left out where there is no folder of that very name. */
char *store_path(StoreKind kind, const char *name, GError **error);

/* As store_path(); NULL if there is no manifest in it, VM_ERROR_NOT_FOUND with what was
 * probably meant. */
char *store_find(StoreKind kind, const char *name, GError **error);

/* The names in the store, sorted; an empty list if there is no store.  To be freed with
 * g_strfreev(). */
char **store_list(StoreKind kind, GError **error);

/* A new string: what a folder is called by people: its name if it is in the store, else
 * its path. */
char *store_name(StoreKind kind, const char *folder);

/* Makes the folder that is to hold `folder`. */
bool store_make_parent(const char *folder, GError **error);

/* ---- folders that are complete or not there -------------------------------------------
 */

/* Makes an empty folder beside `folder`, to be filled and then given its name by
 * store_commit(), which puts it on the disk first.  VM_ERROR_BUSY: there is one of that
 * name, before or by then.  A new string: its path. */
char *store_begin(const char *folder, GError **error);
bool store_commit(const char *partial, const char *folder, GError **error);

/* The same for what is to replace the folder of that name, by store_replace(). */
char *store_begin_beside(const char *folder, GError **error);

/* As store_commit(), where there is a folder of that name, which is exchanged for the new
 * one and then removed. */
bool store_replace(const char *partial, const char *folder, GError **error);

/* Removes a folder and the files in it and in folders in it; links are not followed.  It
 * is given another name first, so that it is whole or not there. */
bool store_remove(const char *folder, GError **error);

/* ---- use ------------------------------------------------------------------------------
 *
 * A snapshot is in use while somebody holds a shared lock of its manifest.json
 * (F_OFD_SETLK): VMs restored from it, whose memory it is, for their life. */

/* A file descriptor, whose close gives it back; -1 on failure, VM_ERROR_BUSY if it is
 * being removed.  Who needs a diff holds its parents as well: manifest_hold_chain(). */
int store_hold(const char *folder, GError **error);
bool store_in_use(const char *folder);

/* Takes it for oneself, to remove or exchange it; -1 with VM_ERROR_BUSY: it is in use. */
int store_seize(const char *folder, GError **error);
