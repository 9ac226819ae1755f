/* Private to src/snapshot: the images that a disk consists of, one above the other, and
 * what they are known by. */
#pragma once

#include <jansson.h>

#include "backend/block.h"

char *layer_absolute(const char *path); /* a new string; an NBD export's name stays */

/* Any thread.  From the top: what block_chain_info() says, with absolute paths; a new
 * reference. */
json_t *layer_chain(BlockDev *dev);

const char *layer_path(const json_t *chain, size_t i);
const char *layer_format(const json_t *chain, size_t i); /* "raw", "qcow2" */

/* The same of an image by its name; `backing` is a BlockBacking.  NULL on failure.  Takes
 * no locks: who uses the image will. */
json_t *layer_chain_of(const char *path, const char *format, int backing, GError **error);

/* A new string: the image_identity() of each file, from the top, with spaces between
 * them.  `inside`: the first is in the snapshot's folder, and known without its time. */
char *layers_identity(const json_t *chain, bool inside, GError **error);
