/* virtio-console as the machine configures it. */
#pragma once

#include "backend/chardev.h"
#include "virtio/virtio.h"

typedef struct ConsoleOptions {
    VirtioCommonOptions common;
    ChardevOptions chardev;
    char *port; /* key "name": a named port instead of a console; NULL: a console */
} ConsoleOptions;
