/* Libraries at run time; contract in util/library.h. */
#include "util/library.h"

#include <dlfcn.h>
#include <string.h>

bool library_load(const Library *library, const LibrarySymbol *symbols, size_t n,
                  void *functions, GError **error)
{
    void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);

    if (!handle)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "%s need the library %s, which is not on this host: install the "
                    "package %s",
                    library->user, library->file, library->package);
    for (size_t i = 0; i < n; i++) {
        void *address = dlsym(handle, symbols[i].name);

        if (!address) {
            dlclose(handle);
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "%s of this host has no function %s: install %s or later",
                        library->file, symbols[i].name, library->version);
        }
        memcpy((char *)functions + symbols[i].at, &address, sizeof(address));
    }
    return true;
}
