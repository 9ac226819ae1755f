/* virtio-console (virtio 1.2, 5.3): one port between the guest and a chardev.
 *
 * Without a name the port is a console (hvcN) with two queues.  With one it is a port
 * that programs in the guest find by that name, which takes the multiport protocol of
 * 5.3.6.2 and two queues more for it.
 *
 * Nothing is kept back from the rings.  Output that the chardev has no room for is given
 * back to the ring with a note of how much of it is done; input is taken from the chardev
 * only as far as the guest has offered buffers for it; and what is to be told to the
 * guest is a set of bits. */
#include <string.h>

#include "console_private.h"
#include "util/bits.h"
#include "util/iov.h"
#include "util/log.h"
#include "virtio/devices.h"

/* 5.3.2 */
enum { RX, TX, CONTROL_RX, CONTROL_TX, QUEUES };

/* 5.3.4 */
typedef struct ConsoleConfig {
    uint16_t cols, rows;
    uint32_t max_nr_ports;
    uint32_t emerg_wr;
} ConsoleConfig;

/* 5.3.6.2 */
typedef struct Control {
    uint32_t id;
    uint16_t event, value;
} Control;
enum {
    DEVICE_READY = 0,
    DEVICE_ADD = 1,
    PORT_READY = 3,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};

enum { PORT = 0, FLUSH_MS = 1000 };

static Virtqueue *queue(Console *c, unsigned i)
{
    return &c->v.queues[i].vq;
}

void console_set_open(Console *c, bool open)
{
    __atomic_store_n(&c->guest_open, open, __ATOMIC_RELAXED);
}

/* ---- output ----------------------------------------------------------------------- */

/* Writes the request from byte tx_done on; false if the chardev is full before its end.
 * The guest may have changed it since it was given back: then it gets what it wrote. */
static bool write_request(Console *c, const VqReq *req)
{
    size_t at = 0;

    for (unsigned i = 0; i < req->n_read; i++) {
        const struct iovec *piece = &vq_readable(req)[i];
        size_t done = c->tx_done > at ? c->tx_done - at : 0;

        at += piece->iov_len;
        if (done >= piece->iov_len)
            continue;
        c->tx_done += chardev_write(c->chardev, (char *)piece->iov_base + done,
                                    piece->iov_len - done);
        if (c->tx_done < at)
            return false;
    }
    c->tx_done = 0;
    return true;
}

static void tell_of_output(Console *c)
{
    if (c->spoken || *c->name)
        return;
    c->spoken = true;
    if (c->v.env->event && log_limit(&c->told))
        c->v.env->event(c->v.env->opaque, "X_HUTCH_USER_OUTPUT", NULL);
}

static void send_output(Console *c)
{
    Virtqueue *vq = queue(c, TX);
    VqReq req;

    while (vq_pop(vq, &req)) {
        tell_of_output(c);
        if (!write_request(c, &req)) {
            vq_unpop(vq, &req); /* until drained() */
            break;
        }
        vq_push(vq, &req, 0);
    }
    vq_notify(vq);
}

static void on_drained(void *opaque)
{
    Console *c = opaque;

    if (c->running)
        virtio_queue_kick(&c->v, TX);
}

/* ---- input ------------------------------------------------------------------------ */

/* What the guest's next buffer holds; of new buffers we hear by a kick. */
static size_t on_room(void *opaque)
{
    Console *c = opaque;
    size_t room;
    VqReq req;

    if (!c->running || !c->guest_open || !vq_pop(queue(c, RX), &req))
        return 0;
    room = iov_len(vq_writable(&req), req.n_write);
    vq_unpop(queue(c, RX), &req);
    if (!room)
        virtio_broken(&c->v, "a buffer for input has no room");
    return room;
}

static void on_input(void *opaque, const uint8_t *buf, size_t len)
{
    Console *c = opaque;
    Virtqueue *vq = queue(c, RX);
    size_t done = 0;
    VqReq req;

    while (done < len && vq_pop(vq, &req)) {
        size_t n = iov_from_buf(vq_writable(&req), req.n_write, 0, buf + done,
                                len - done);

        if (!n) /* changed since on_room(); to go on could take for ever */
            virtio_broken(&c->v, "a buffer for input has no room");
        vq_push(vq, &req, (uint32_t)n);
        done += n;
    }
    vq_notify(vq);
}

/* ---- control messages (5.3.6.2) -------------------------------------------------------
 */

/* The message for the lowest bit of c->tell. */
static size_t compose(Console *c, uint8_t msg[sizeof(Control) + CONSOLE_NAME_MAX])
{
    Control m = {.id = PORT};
    size_t name_len = 0;

    if (c->tell & CONSOLE_TELL_ADD) {
        m.event = DEVICE_ADD;
    } else if (c->tell & CONSOLE_TELL_NAME) {
        m.event = PORT_NAME;
        m.value = 1;
        name_len = strlen(c->name);
    } else {
        m.event = PORT_OPEN;
        m.value = c->host_open;
    }
    memcpy(msg, &m, sizeof(m));
    memcpy(msg + sizeof(m), c->name, name_len);
    return sizeof(m) + name_len;
}

void console_tell(Console *c, unsigned what)
{
    Virtqueue *vq = queue(c, CONTROL_RX);
    uint8_t msg[sizeof(Control) + CONSOLE_NAME_MAX];
    VqReq req;

    c->tell |= what;
    while (c->tell && vq_pop(vq, &req)) {
        size_t len = compose(c, msg);

        len = iov_from_buf(vq_writable(&req), req.n_write, 0, msg, len);
        vq_push(vq, &req, (uint32_t)len);
        c->tell &= c->tell - 1;
    }
    vq_notify(vq);
}

static void obey(Console *c, const Control *m)
{
    if (m->event == DEVICE_READY && m->value)
        console_tell(c, CONSOLE_TELL_ADD);
    if (m->id != PORT)
        return;
    if (m->event == PORT_READY && m->value)
        console_tell(c, CONSOLE_TELL_NAME | CONSOLE_TELL_OPEN);
    if (m->event == PORT_OPEN) {
        console_set_open(c, m->value);
        chardev_accept_input(c->chardev);
    }
}

static void receive_control(Console *c)
{
    Virtqueue *vq = queue(c, CONTROL_TX);
    VqReq req;

    while (vq_pop(vq, &req)) {
        Control m;
        size_t n = iov_to_buf(vq_readable(&req), req.n_read, 0, &m, sizeof(m));

        vq_push(vq, &req, 0);
        if (n == sizeof(m)) /* else it says nothing */
            obey(c, &m);
    }
    vq_notify(vq);
}

static void on_event(void *opaque, ChardevEvent event)
{
    Console *c = opaque;

    if (event == CHARDEV_BREAK)
        return;
    c->host_open = event == CHARDEV_OPENED;
    if (c->running && virtio_has_feature(&c->v, VIRTIO_CONSOLE_F_MULTIPORT))
        console_tell(c, CONSOLE_TELL_OPEN);
}

/* ---- configuration ---------------------------------------------------------------- */

static void look_at_size(Console *c)
{
    uint16_t cols, rows;

    if (chardev_size(c->chardev, &cols, &rows))
        __atomic_store_n(&c->size, cols | (uint32_t)rows << 16, __ATOMIC_RELAXED);
}

static void on_resized(void *opaque)
{
    Console *c = opaque;

    look_at_size(c);
    virtio_config_changed(&c->v);
}

static void console_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    Console *c = (Console *)v;
    uint32_t size = __atomic_load_n(&c->size, __ATOMIC_RELAXED);
    ConsoleConfig config = {.cols = size & 0xffff, .rows = size >> 16, .max_nr_ports = 1};

    memcpy(buf, (uint8_t *)&config + offset, len);
}

/* 5.3.4: a character by emerg_wr, before there is a driver. */
static void console_config_write(VirtioDevice *v, uint32_t offset, const void *buf,
                                 uint32_t len)
{
    Console *c = (Console *)v;

    if (offset == offsetof(ConsoleConfig, emerg_wr) && len)
        chardev_write(c->chardev, buf, 1);
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void console_handle(VirtioDevice *v, Virtqueue *vq)
{
    Console *c = (Console *)v;

    c->running = true; /* also after a pause: every queue is handled once then */
    switch (vq->index) {
    case RX:
        chardev_accept_input(c->chardev);
        break;
    case TX:
        send_output(c);
        break;
    case CONTROL_RX:
        console_tell(c, 0);
        break;
    case CONTROL_TX:
        receive_control(c);
        break;
    }
}

static bool console_activate(VirtioDevice *v, GError **error)
{
    Console *c = (Console *)v;

    console_set_open(c, !virtio_has_feature(v, VIRTIO_CONSOLE_F_MULTIPORT));
    return true;
}

static void console_quiesce(VirtioDevice *v)
{
    Console *c = (Console *)v;

    c->running = false;
}

static void console_reset(VirtioDevice *v)
{
    Console *c = (Console *)v;

    console_set_open(c, false);
    c->tell = 0;
    c->tx_done = 0;
    c->spoken = false;
}

static const ChardevHandlers handlers = {.room = on_room,
                                         .input = on_input,
                                         .drained = on_drained,
                                         .event = on_event,
                                         .resized = on_resized};

static void open_chardev(void *opaque)
{
    Console *c = opaque;

    c->chardev = chardev_open(&c->options, c->v.id, c->v.loop, &c->error);
    if (!c->chardev)
        return;
    look_at_size(c);
    chardev_set_handlers(c->chardev, &handlers, c);
}

static void close_chardev(void *opaque)
{
    Console *c = opaque;

    chardev_close(c->chardev, FLUSH_MS);
}

static bool console_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    Console *c = (Console *)v;
    const ConsoleOptions *options = opaque;

    if (options)
        c->options = options->chardev;
    if (options && options->port)
        g_strlcpy(c->name, options->port, sizeof(c->name));
    v->n_queues = *c->name ? QUEUES : CONTROL_RX;
    ioloop_call(v->loop, open_chardev, c);
    c->options = (ChardevOptions){0};
    if (!c->chardev) {
        g_propagate_error(error, c->error);
        return false;
    }
    v->offered = BIT64(VIRTIO_CONSOLE_F_EMERG_WRITE);
    if (*c->name)
        v->offered |= BIT64(VIRTIO_CONSOLE_F_MULTIPORT);
    else if (__atomic_load_n(&c->size, __ATOMIC_RELAXED))
        v->offered |= BIT64(VIRTIO_CONSOLE_F_SIZE);
    return true;
}

static void console_release(VirtioDevice *v)
{
    Console *c = (Console *)v;

    if (c->chardev)
        ioloop_call(v->loop, close_chardev, c);
}

/* ---- options ---------------------------------------------------------------------- */

static bool check(void *opaque, GError **error)
{
    const ConsoleOptions *o = opaque;

    if (o->port && (!*o->port || strlen(o->port) > CONSOLE_NAME_MAX))
        return fail(error, VM_ERROR_INVALID, "name: a port's name has 1 to %u bytes",
                    CONSOLE_NAME_MAX);
    return chardev_options_check(&o->chardev, error);
}

static const ParamTable console_params = {
    .size = sizeof(ConsoleOptions),
    .check = check,
    .desc =
        (const ParamDesc[]){
            CHARDEV_PARAMS(ConsoleOptions, chardev),
            {.key = "name",
             .type = PARAM_STRING,
             .offset = offsetof(ConsoleOptions, port),
             .arg = "NAME",
             .help = "instead of a console, a port that the guest finds by this name"},
            VIRTIO_PARAMS(ConsoleOptions, common),
            {0}},
};

const VirtioOps virtio_console_ops = {
    .name = "console",
    .id = 3,
    .pci_class = 0x078000, /* another communications controller */
    .option = "console",
    .help = "virtio console (hvc0 and on), or a named port",
    .params = &console_params,
    .size = sizeof(Console),
    .queue_size = 64,
    .config_size = sizeof(ConsoleConfig),
    .realize = console_realize,
    .release = console_release,
    .config_read = console_config_read,
    .config_write = console_config_write,
    .activate = console_activate,
    .handle = console_handle,
    .quiesce = console_quiesce,
    .resume = console_resume,
    .reset = console_reset,
    .save = console_save,
    .load = console_load,
    .kept_features = BIT64(VIRTIO_CONSOLE_F_SIZE),
};

const Chardev *virtio_console_chardev(const VirtioDevice *v)
{
    return v->ops == &virtio_console_ops ? ((const Console *)v)->chardev : NULL;
}

bool virtio_console_is_open(const VirtioDevice *v)
{
    const Console *c = (const Console *)v;

    return !*c->name || __atomic_load_n(&c->guest_open, __ATOMIC_RELAXED);
}
