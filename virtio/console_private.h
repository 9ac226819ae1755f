/* Private to virtio/console*.c: the device.  All of it belongs to its I/O thread, but for
 * what says otherwise. */
#pragma once

#include "util/log.h"
#include "virtio/console.h"

/* 5.3.3 */
#define VIRTIO_CONSOLE_F_SIZE        0
#define VIRTIO_CONSOLE_F_MULTIPORT   1
#define VIRTIO_CONSOLE_F_EMERG_WRITE 2

enum { CONSOLE_NAME_MAX = 64 };

/* What the guest is to be told, in this order. */
enum { CONSOLE_TELL_ADD = 1, CONSOLE_TELL_NAME = 2, CONSOLE_TELL_OPEN = 4 };

/* All of it is the I/O thread's, but for what says otherwise. */
typedef struct Console {
    VirtioDevice v;
    ChardevOptions options; /* borrowed, while the chardev is being opened */
    Chardev *chardev;
    GError *error;
    char name[CONSOLE_NAME_MAX + 1]; /* empty: a console */
    uint32_t size;                   /* atomic: columns | rows << 16 */

    bool running;    /* queues may be used */
    bool host_open;  /* somebody is at the chardev's other end */
    bool guest_open; /* a program has the port open; always for a console; atomic */
    unsigned tell;   /* CONSOLE_TELL_ bits */
    bool spoken;     /* output since the last reset was told of */
    bool was_open;   /* in the state that was loaded, host_open */
    bool resized;    /* since then */
    size_t tx_done;  /* bytes already written of the next request on TX */
    LogLimit told;   /* a guest may reset us as often as it likes */
} Console;

/* Whether a program in the guest has the port open. */
void console_set_open(Console *c, bool open);

/* Tells the guest what is in `what` (CONSOLE_TELL_), and what waits, as far as it has
 * buffers for it. */
void console_tell(Console *c, unsigned what);

/* console_state.c; VirtioOps has what they do. */
void console_save(VirtioDevice *v, StateWriter *w);
bool console_load(VirtioDevice *v, StateReader *r, GError **error);
void console_resume(VirtioDevice *v);
