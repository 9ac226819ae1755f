/* libnbd, loaded when the first NBD disk is opened: linked, it would slow down the start
 * of every VM, with or without such a disk. */
#include <dlfcn.h>
#include <string.h>

#include "nbd_private.h"

#define LIBRARY "libnbd.so.0"

/* Where each function's address goes. */
static const struct {
    const char *name;
    size_t at;
} symbols[] = {
#define X(name) {"nbd_" #name, offsetof(NbdLib, name)},
    NBD_FUNCTIONS(X)
#undef X
};

static Lock load_lock = LOCK_INIT;
static NbdLib loaded; /* written once, under the lock */
static bool is_loaded;

static bool load(GError **error)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "NBD disks need the library %s, which is not on this host: install "
                    "the package libnbd0",
                    LIBRARY);
    for (size_t i = 0; i < G_N_ELEMENTS(symbols); i++) {
        void *address = dlsym(library, symbols[i].name);

        if (!address) {
            dlclose(library);
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "%s of this host has no function %s: install libnbd 1.14 or "
                        "later",
                        LIBRARY, symbols[i].name);
        }
        memcpy((char *)&loaded + symbols[i].at, &address, sizeof(address));
    }
    return true;
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
