/* A console at a unix socket, and its guest: what the tests of consoles share.  One at a
 * time; `folder` is the test's to make and to remove. */
#pragma once

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio/console.h"
#include "virtio/devices.h"
#include "vq_guest.h"

enum { RX, TX, CONTROL_RX, CONTROL_TX };
enum { READY = 0, ADD = 1, PORT_READY = 3, OPEN = 6, NAME = 7 };
enum { RING = 64 * 1024 };

typedef struct Message {
    uint32_t id;
    uint16_t event, value;
    char text[64];
} Message;

static VqGuest g;
static char *folder;
static ConsoleOptions *options;

/* `more` is of its options, after the socket's: ",name=x". */
static void start(unsigned mode, const char *more)
{
    g_autofree char *text = g_strdup_printf("socket=%s/s%s", folder, more);
    GError *error = NULL;

    options = param_new(virtio_console_ops.params);
    param_parse(virtio_console_ops.params, options, text, &error);
    g_assert_no_error(error);
    vqg_open(&g, &virtio_console_ops, &(VqgSetup){.mode = mode, .options = options});
    vqg_settle(&g);
}

static void end(void)
{
    vqg_finish(&g);
    param_free(virtio_console_ops.params, options);
}

static int dial(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", folder);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    vqg_settle(&g);
    return fd;
}
