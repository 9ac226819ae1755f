/* Libraries that are loaded when they are first needed: linked, each would slow down the
 * start of every VM. */
#pragma once

#include "util/error.h"

typedef struct Library {
    const char *file;    /* "libpcap.so.0.8" */
    const char *user;    /* who needs it, plural: "pcap filters" */
    const char *package; /* that has it: "libpcap0.8" */
    const char *version; /* from which on it has all of them: "libpcap 1.9" */
} Library;

typedef struct LibrarySymbol {
    const char *name;
    size_t at; /* of its pointer in the struct of functions */
} LibrarySymbol;

/* Loads it for good, and puts the functions' addresses into `functions`.  Any thread, but
 * one at a time for each struct.  VM_ERROR_UNSUPPORTED if this host does not have it, or
 * an older one. */
bool library_load(const Library *library, const LibrarySymbol *symbols, size_t n,
                  void *functions, GError **error);
