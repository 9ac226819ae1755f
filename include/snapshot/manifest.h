/* A snapshot's manifest: what the other files of its folder are, and how to tell that
 * they are whole.  docs/snapshot-format.md has every key.
 *
 * A folder NAME.snap holds manifest.json, config.json, state, memory or memory.zst,
 * memory.sums, of a diff also memory.map, and in disks/ what it has of disks.  It is made
 * under another name and gets its own when it is complete; nothing in it is changed
 * afterwards.
 *
 * Manifests may come from strangers: what manifest_read() returns is checked, so that
 * sizes are bounded, and names stay in the folder.  Any thread. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "util/error.h"

#define SNAP_CONFIG      "config.json"
#define SNAP_STATE       "state"
#define SNAP_MEMORY      "memory"
#define SNAP_MEMORY_ZST  "memory.zst"
#define SNAP_MEMORY_MAP  "memory.map"
#define SNAP_MEMORY_SUMS "memory.sums"
#define SNAP_MANIFEST    "manifest.json"
#define SNAP_WORKING_SET "working-set"
#define SNAP_DISKS       "disks"

#define SNAP_RAW  "raw"
#define SNAP_ZSTD "zstd"

enum {
    MANIFEST_FORMAT = 1,
    MANIFEST_CHUNK = 4 << 20, /* bytes of guest RAM that have one hash */
    MANIFEST_MAX_FILES = 256,
    MANIFEST_MAX_DISKS = 64,
    MANIFEST_MAX_DEPTH = 256, /* of a chain of diffs */
};
#define MANIFEST_MAX_RAM (1ull << 44)

/* A disk as it was at the pause: `layer` holds it, and is not written to any more. */
typedef struct ManifestDisk {
    char *id;       /* of the VM's device: "disk0" */
    char *layer;    /* of the image; relative: in the folder; NULL: it is not kept */
    char *format;   /* "raw" or "qcow2" */
    char *layer_id; /* what the image was known by; NULL: not known */
    bool readonly;  /* the guest could not write to it: the layer is the disk itself */
} ManifestDisk;

typedef struct ManifestFile {
    char *name; /* in the folder: "state", "disks/disk0.qcow2" */
    char *sha256;
    uint64_t size;
} ManifestFile;

typedef struct Manifest {
    uint64_t format;    /* MANIFEST_FORMAT */
    char *hutch;        /* the version that made it */
    char *id;           /* a UUID of this snapshot */
    char *vm;           /* the VM's name; NULL: it had none */
    char *vm_uuid;      /* NULL: none */
    char *parent_id;    /* of a diff: the id of what it is a difference to; NULL: full */
    char *parent_path;  /* of its folder: absolute, or a name beside this folder */
    int64_t created_ns; /* CLOCK_REALTIME at the pause */
    uint64_t ram_size, memory_pages; /* bytes; pages that this folder has, not its
                                        parents */
    char *memory_encoding;           /* SNAP_RAW or SNAP_ZSTD */
    json_t *cpu_needs;               /* arch_cpu_needs()'s; NULL: not known */
    GPtrArray *files;                /* ManifestFile; never NULL */
    char *memory_sha256;             /* of the chunks' hashes, see below */
    GPtrArray *memory_chunks; /* char *: the hash of each chunk, "": all zeroes; NULL: not
                                 read (manifest_read_chunks()) */
    GPtrArray *disks;         /* ManifestDisk; never NULL */
    bool frozen;              /* file systems in the guest were frozen for the disks */
    bool foreign;             /* it came in an archive: snapshot/foreign.h */
} Manifest;

Manifest *manifest_new(void);
void manifest_free(Manifest *m); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Manifest, manifest_free)

void manifest_add_disk(Manifest *m, const char *id, const char *layer, const char *format,
                       const char *layer_id, bool readonly);
/* Hashes a file of the folder and takes it into m->files.  Everything belongs there but
 * the manifest, memory, memory.zst, memory.sums and working-set. */
bool manifest_add_file(Manifest *m, const char *folder, const char *name, GError **error);
const ManifestFile *manifest_file(const Manifest *m, const char *name); /* or NULL */

/* Reads and checks it, without memory.sums.  Errors begin with the path, and have code
 * VM_ERROR_CORRUPT for what is not a manifest. */
Manifest *manifest_read(const char *folder, GError **error);
/* As manifest_read(), from text that is not in a file yet; `what` begins the errors. */
Manifest *manifest_parse(const char *text, size_t len, const char *what, GError **error);

/* Puts manifest.json and, if m->memory_chunks is there, memory.sums into a new folder,
 * and on the disk.  What manifest_read() would refuse is not written. */
bool manifest_write(const Manifest *m, const char *folder, GError **error);
json_t *manifest_to_json(const Manifest *m); /* a new reference */

/* ---- memory ---------------------------------------------------------------------------
 *
 * Guest RAM is hashed in chunks of MANIFEST_CHUNK bytes, the last of which may be
 * shorter; chunk i begins at byte i * MANIFEST_CHUNK of RAM.  What is hashed is what this
 * folder holds alone, before any compression: in a diff the pages that are its parent's
 * count as zeroes.  A chunk of nothing but zeroes has no hash, which is written "".
 * memory_sha256 is the hash of all the chunks' hashes, 32 bytes each, with 32 zero bytes
 * for a chunk that has none. */
uint64_t manifest_n_chunks(const Manifest *m);
char *manifest_hash_chunks(const Manifest *m); /* a new string: what memory_sha256 is to
                                                  be, by m->memory_chunks */
/* Fills in m->memory_chunks from memory.sums, which it checks. */
bool manifest_read_chunks(Manifest *m, const char *folder, GError **error);

/* ---- the chain ------------------------------------------------------------------------
 */

/* A new string: the parent's folder, there or not; NULL: `m` is full. */
char *manifest_parent_folder(const Manifest *m, const char *folder);

typedef struct ManifestLink {
    char *folder;
    Manifest *manifest;
} ManifestLink;

/* The snapshot and those it builds on, oldest last: an array of ManifestLink, each of
 * which is the parent that the one before it names.  NULL also where a parent is missing
 * or another than it was, where they go in a circle, or differ in the size of RAM. */
GPtrArray *manifest_chain(const char *folder, GError **error);

/* Holds (store_hold) a snapshot and all it builds on; the holds go with the array.
 * *ret_links: how many those are. */
GArray *manifest_holds_new(void);
bool manifest_hold_chain(const char *folder, GArray *holds, unsigned *ret_links,
                         GError **error);

/* ---- verification --------------------------------------------------------------------
 */

/* Compares the folder with its hashes; the first that differs is named, with the chunk if
 * it is memory's.  Parents and disks' layers outside of the folder are not looked at.
 * `total` is bytes; `progress` may be NULL. */
bool manifest_verify(const char *folder, const Manifest *m,
                     void (*progress)(void *opaque, uint64_t done, uint64_t total),
                     void *opaque, GError **error);
/* The same for all files but memory and disks, which may be large and are known by other
 * means (snapshot/disks.h): quick. */
bool manifest_verify_files(const char *folder, const Manifest *m, GError **error);
