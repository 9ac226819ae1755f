/* libnbd, loaded when the first NBD disk is opened: linked, it would slow down the start
 * of every VM, with or without such a disk. */
#include <string.h>

#include "nbd_private.h"
#include "util/library.h"

static const Library library = {"libnbd.so.0", "NBD disks", "libnbd0", "libnbd 1.14"};

static const LibrarySymbol symbols[] = {
#define X(name) {"nbd_" #name, offsetof(NbdLib, name)},
    NBD_FUNCTIONS(X)
#undef X
};

static Lock load_lock = LOCK_INIT;
static NbdLib loaded; /* written once, under the lock */
static bool is_loaded;

static bool load(GError **error)
{
    return library_load(&library, symbols, G_N_ELEMENTS(symbols), &loaded, error);
}

const NbdLib *nbd_lib(GError **error)
{
    LOCK_GUARD(&load_lock);
    if (!is_loaded)
        is_loaded = load(error);
    return is_loaded ? &loaded : NULL;
}

const char *nbd_lib_error(const NbdLib *lib)
{
    const char *text = lib->get_error(), *colon;

    if (!text)
        return "unknown error";
    colon = g_str_has_prefix(text, "nbd_") ? strstr(text, ": ") : NULL;
    return colon ? colon + 2 : text;
}
