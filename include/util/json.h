/* What jansson lacks. */
#pragma once

#include <jansson.h>

/* The text under `key`; "" if `object` is none or has none there.  Lives as long as the
 * object. */
static inline const char *json_get_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}
