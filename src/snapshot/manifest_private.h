/* What the files about manifests share. */
#pragma once

#include "snapshot/manifest.h"

/* Makes a file of the folder, and puts it on the disk. */
bool manifest_store(const char *folder, const char *name, const char *text,
                    GError **error);
bool manifest_write_chunks(const Manifest *m, const char *folder, GError **error);
