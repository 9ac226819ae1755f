/* What the server says first. */
#pragma once

#include <jansson.h>

json_t *greeting_new(void);
json_t *greeting_version(void); /* the version in it */
