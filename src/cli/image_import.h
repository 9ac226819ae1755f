/* What the files of `hutch image import` share. */
#pragma once

#include "src/cli/image.h"
#include "src/cli/program.h"

typedef struct ImportArgs {
    ImageArgs common;
    char *format, *name;
} ImportArgs;

const char *
import_format_of(const char *path); /* qemu-img's word, by the name; or NULL */

/* Makes `to`, in a BlockFormat, from a disk of another hypervisor.  `alone`: it comes
 * from strangers, and must not refer to any other file. */
bool import_disk(const ImportArgs *args, const char *path, const char *format,
                 const char *to, int to_format, bool alone, GError **error);

/* image_appliance.c: a VM; `folder` is NULL with --name. */
bool import_appliance(const ImportArgs *args, const char *path, bool is_ova,
                      const char *folder, GError **error);

/* ---- ovf.c: what an OVF says of a VM (DMTF DSP0243) ------------------------------- */

typedef struct OvfFile {
    char *id, *href, *compression;
} OvfFile;

typedef struct OvfDisk {
    char *id, *file;   /* an OvfFile's id, or NULL: an empty disk */
    char *parent;      /* NULL: none */
    uint64_t capacity; /* bytes */
} OvfDisk;

typedef struct OvfNic {
    char *mac, *network; /* NULL: not said */
} OvfNic;

typedef struct Ovf {
    char *name; /* NULL: none */
    unsigned systems;
    uint64_t cpus, memory; /* 0: not said */
    bool efi;
    GArray *files, *disks; /* OvfFile, OvfDisk */
    GArray *attached;      /* char *: ids of disks, in their order */
    GArray *nics;          /* OvfNic */
    GPtrArray *left_out;   /* char *: what hutch does not do */
} Ovf;

/* The text is hostile. */
Ovf *ovf_parse(const char *text, size_t len, GError **error);
void ovf_free(Ovf *ovf); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Ovf, ovf_free)

const OvfDisk *ovf_disk(const Ovf *ovf, const char *id);
const OvfFile *ovf_file(const Ovf *ovf, const char *id);

/* ---- image_appliance.c, image_appliance_config.c: a VM being imported -------------- */

typedef struct Appliance {
    const ImportArgs *args;
    const char *path; /* of the OVA or OVF */
    bool is_ova;
    char *folder;   /* the OVF's, if it is no OVA */
    char *manifest; /* its text; NULL: there is none */
    Ovf *ovf;
    char *result, *partial; /* the new folder, and its name until it is complete */
    json_t *disks;          /* for the config */
} Appliance;

uint64_t appliance_cpus(const Appliance *a);
uint64_t appliance_memory(const Appliance *a); /* bytes */
/* Writes config.json into a->partial, and reads it as `hutch run --config` would. */
bool appliance_write_config(const Appliance *a, GError **error);
void appliance_tell_what_is_missing(const Appliance *a);
