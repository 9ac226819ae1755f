/* virtio-console as the machine configures it. */
#pragma once

#include "backend/chardev.h"
#include "virtio/virtio.h"

typedef struct ConsoleOptions {
    VirtioCommonOptions common;
    ChardevOptions chardev;
    char *port; /* key "name": a named port instead of a console; NULL: a console */
} ConsoleOptions;

/* Any thread; NULL: v is no console.  It stays the device's. */
const Chardev *virtio_console_chardev(const VirtioDevice *v);
/* Any thread: whether a program in the guest has the port open; a console always is. */
bool virtio_console_is_open(const VirtioDevice *v);
