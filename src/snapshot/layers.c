/* See layers.h. */
#include "src/snapshot/layers.h"

#include <string.h>

#include "backend/blockjob.h"
#include "backend/image.h"
#include "util/json.h"

char *layer_absolute(const char *path)
{
    return strstr(path, "://") ? g_strdup(path) : g_canonicalize_filename(path, NULL);
}

/* An image may keep the guest's data in another file. */
static char *data_file(const json_t *image)
{
    const json_t *format = json_object_get(image, "format-specific");
    const char *name = json_get_text(json_object_get(format, "data"), "data-file");
    g_autofree char *folder = g_path_get_dirname(json_get_text(image, "filename"));

    return *name ? g_canonicalize_filename(name, folder) : NULL;
}

json_t *layer_chain(BlockDev *dev)
{
    json_t *chain = block_chain_info(dev), *image;
    size_t i;

    json_array_foreach(chain, i, image)
    {
        const char *path = json_get_text(image, "filename");
        g_autofree char *absolute = layer_absolute(path);

        json_object_set_new(image, "filename", json_string(absolute));
    }
    return chain;
}

const char *layer_path(const json_t *chain, size_t i)
{
    return json_get_text(json_array_get(chain, i), "filename");
}

const char *layer_format(const json_t *chain, size_t i)
{
    return json_get_text(json_array_get(chain, i), "format");
}

char *layers_identity(const json_t *chain, bool inside, GError **error)
{
    g_autoptr(GString) all = g_string_new(NULL);

    for (size_t i = 0; i < json_array_size(chain); i++) {
        g_autofree char *one = image_identity(layer_path(chain, i), i || !inside, error);
        g_autofree char *data = one ? data_file(json_array_get(chain, i)) : NULL;
        g_autofree char *two = data ? image_identity(data, true, error) : NULL;

        if (!one || (data && !two))
            return NULL;
        g_string_append_printf(all, "%s%s%s", i ? " " : "", one, two ? two : "");
    }
    return g_strdup(all->str);
}

json_t *layer_chain_of(const char *path, const char *format, int backing, GError **error)
{
    BlockOptions o = {.path = (char *)path,
                      .format = BLOCK_FORMAT_RAW,
                      .readonly = true,
                      .cache = BLOCK_CACHE_WRITEBACK,
                      .backing = backing};
    g_autoptr(BlockImage) top = NULL;
    json_t *chain;

    if (g_str_equal(format, block_format_names[BLOCK_FORMAT_QCOW2]))
        o.format = BLOCK_FORMAT_QCOW2;
    top = image_open(&o, 0, error);
    if (!top)
        return NULL;
    chain = json_array();
    for (BlockImage *img = top; img; img = image_backing(img)) {
        g_autofree char *absolute = layer_absolute(image_path(img));
        json_t *info = image_info(img);

        json_object_set_new(info, "filename", json_string(absolute));
        json_array_append_new(chain, info);
    }
    return chain;
}
