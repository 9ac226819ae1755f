/* Captures; contract in capture.h.  What is captured is put into a buffer, which the loop
 * empties when the client takes it; what does not fit any more is lost. */
#include "src/switch/capture.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "packet/bpf.h"
#include "src/switch/control.h"
#include "util/fd.h"

enum { SNAPLEN = 262144 /* tcpdump's */, LINKTYPE_ETHERNET = 1 };

/* In the byte order of this machine, by which readers know it. */
typedef struct PcapFile {
    uint32_t magic; /* this one: times are in nanoseconds */
    uint16_t major, minor;
    uint32_t zone, accuracy, snaplen, link_type;
} PcapFile;

typedef struct PcapRecord {
    uint32_t s, ns, here, len;
} PcapRecord;

typedef struct Capture {
    struct Capture *next;
    Captures *all;
    int fd;
    IoWatch watch;
    char *vm, *nic, *text; /* NULL: all; any; no filter */
    int port;              /* -1: not by number */
    BpfFilter *filter;     /* NULL: all frames */
    uint32_t snaplen;
    uint64_t left; /* frames until it is over */
    uint64_t frames, lost;
    size_t at, end; /* of what waits in buf */
    uint8_t buf[CAPTURE_BUFFER];
} Capture;

struct Captures {
    Switch *sw;
    Capture *first;
    unsigned n;
};

static void capture_free(Capture *c)
{
    ioloop_unwatch(&c->watch);
    fd_close(&c->fd);
    bpf_filter_free(c->filter);
    g_free(c->vm);
    g_free(c->nic);
    g_free(c->text);
    g_free(c);
}

/* The client left, or has all that it asked for. */
static void capture_end(Capture *c)
{
    Captures *all = c->all;
    Switch *sw = all->sw;
    Capture **at = &all->first;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    capture_free(c);
    if (--all->n == 0) {
        sw->captures = NULL;
        g_free(all);
        if (sw->users_changed)
            sw->users_changed(sw);
    }
}

void captures_free(Switch *sw)
{
    while (sw->captures)
        capture_end(sw->captures->first);
}

/* ---- bytes to the client ------------------------------------------------------------
 */

static bool is_over(const Capture *c)
{
    return !c->left && c->at == c->end;
}

static void want_room(Capture *c)
{
    ioloop_watch_events(&c->watch, EPOLLRDHUP | (c->at < c->end ? EPOLLOUT : 0u));
}

/* False: the client is gone. */
static bool write_out(Capture *c)
{
    while (c->at < c->end) {
        ssize_t n = send(c->fd, c->buf + c->at, c->end - c->at, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->at += (size_t)n;
    }
    c->at = c->end = 0;
    return true;
}

static void on_event(void *opaque, uint32_t events)
{
    Capture *c = opaque;

    if ((events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) || !write_out(c) || is_over(c))
        capture_end(c);
    else
        want_room(c);
}

static uint8_t *room_for(Capture *c, size_t len)
{
    uint8_t *at;

    if (c->end + len > sizeof(c->buf) && c->at) {
        memmove(c->buf, c->buf + c->at, c->end - c->at);
        c->end -= c->at;
        c->at = 0;
    }
    if (c->end + len > sizeof(c->buf))
        return NULL;
    at = c->buf + c->end;
    c->end += len;
    return at;
}

/* ---- frames -------------------------------------------------------------------------
 */

static bool wants(const Capture *c, const Port *port, Direction direction)
{
    if (c->port >= 0)
        return port && port->id == (unsigned)c->port;
    if (!c->vm)
        return !port || direction == FROM_VM;
    return port && !g_strcmp0(port->vm, c->vm) &&
           (!c->nic || !g_strcmp0(port->nic, c->nic));
}

/* Whether the frame has its tag where it was captured: at trunks, and in the network as a
 * whole. */
static bool has_tag(const Capture *c, const Port *port, uint16_t vlan)
{
    if (!vlan)
        return false;
    return !port || (c->port < 0 && !c->vm) ||
           (port->trunk && port->trunk[vlan / 8] & (1 << vlan % 8));
}

static void put_frame(Capture *c, const Port *port, const Frame *f)
{
    static const size_t macs = 2 * sizeof(Mac);
    const size_t tag = has_tag(c, port, f->vlan) ? ETH_TAG : 0, len = f->len + tag;
    const size_t here = MIN(len, c->snaplen);
    VnetHdr hdr = f->hdr;
    struct timespec now;
    PcapRecord record;
    uint8_t *at = room_for(c, sizeof(record) + len);

    if (!at) {
        c->lost++;
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    record = (PcapRecord){(uint32_t)now.tv_sec, (uint32_t)now.tv_nsec, (uint32_t)here,
                          (uint32_t)len};
    memcpy(at, &record, sizeof(record));
    at += sizeof(record);
    memcpy(at + tag, f->data, f->len);
    vnet_finish_checksum(&hdr, at + tag, f->len);
    if (tag) {
        const uint8_t bytes[ETH_TAG] = {0x81, 0, (uint8_t)(f->vlan >> 8),
                                        (uint8_t)f->vlan};

        memmove(at, at + tag, macs);
        memcpy(at + macs, bytes, tag);
    }
    c->end -= len - here;
    c->frames++;
    c->left--;
}

void capture_frame(Switch *sw, Port *port, Direction direction, const Frame *f)
{
    for (Capture *c = sw->captures->first; c; c = c->next) {
        const bool idle = c->at == c->end;

        if (!c->left || !wants(c, port, direction) ||
            (c->filter && !bpf_filter_match(c->filter, f->data, f->len)))
            continue;
        put_frame(c, port, f);
        if (idle)
            want_room(c);
    }
}

/* ---- begin and end ------------------------------------------------------------------
 */

static bool get_number(json_t *arguments, const char *key, json_int_t max,
                       json_int_t *value, GError **error)
{
    json_t *given = json_object_get(arguments, key);

    if (!given)
        return true;
    if (!json_is_integer(given) || json_integer_value(given) < 0 ||
        json_integer_value(given) > max)
        return fail(error, VM_ERROR_INVALID,
                    "%s is a whole number from 0 to %" JSON_INTEGER_FORMAT, key, max);
    *value = json_integer_value(given);
    return true;
}

static bool get_text(json_t *arguments, const char *key, char **ret, GError **error)
{
    json_t *given = json_object_get(arguments, key);

    if (given && !json_is_null(given) && !json_is_string(given))
        return fail(error, VM_ERROR_INVALID, "%s is a text", key);
    *ret = g_strdup(json_string_value(given));
    return true;
}

static bool set_up(Capture *c, Switch *sw, json_t *arguments, GError **error)
{
    json_int_t snaplen = SNAPLEN, count = 0, port = -1;

    if (!get_text(arguments, "vm", &c->vm, error) ||
        !get_text(arguments, "nic", &c->nic, error) ||
        !get_text(arguments, "filter", &c->text, error) ||
        !get_number(arguments, "port", SWITCH_MAX_PORTS - 1, &port, error) ||
        !get_number(arguments, "snaplen", SNAPLEN, &snaplen, error) ||
        !get_number(arguments, "count", INT64_MAX, &count, error))
        return false;
    c->port = (int)port;
    c->snaplen = snaplen ? (uint32_t)snaplen : SNAPLEN;
    c->left = count ? (uint64_t)count : UINT64_MAX;
    if (command_names_port(arguments) && !command_port(sw, arguments, error))
        return false;
    if (!c->text || !*c->text)
        return true;
    c->filter = bpf_filter_new(c->text, error);
    return c->filter;
}

static void put_beginning(Capture *c)
{
    static const char reply[] = "{\"return\": {}}\n";
    const PcapFile file = {.magic = 0xa1b23c4d,
                           .major = 2,
                           .minor = 4,
                           .snaplen = c->snaplen,
                           .link_type = LINKTYPE_ETHERNET};

    memcpy(room_for(c, strlen(reply)), reply, strlen(reply));
    memcpy(room_for(c, sizeof(file)), &file, sizeof(file));
}

bool capture_start(Switch *sw, int fd, json_t *arguments, GError **error)
{
    Captures *all = sw->captures;
    Capture *c;

    if (all && all->n >= CAPTURES_MAX)
        return fail(error, VM_ERROR_BUSY,
                    "network %s has %d captures already: end one of them", sw->name,
                    CAPTURES_MAX);
    c = g_malloc(sizeof(*c)); /* pages of the buffer come when they are used */
    memset(c, 0, offsetof(Capture, buf));
    c->fd = -1;
    if (!set_up(c, sw, arguments, error) ||
        !ioloop_watch(sw->loop, &c->watch, fd, EPOLLRDHUP | EPOLLOUT, on_event, c,
                      error)) {
        capture_free(c);
        return false;
    }
    c->fd = fd;
    put_beginning(c);
    if (!all) {
        all = sw->captures = g_new0(Captures, 1);
        all->sw = sw;
    }
    c->all = all;
    c->next = all->first;
    all->first = c;
    all->n++;
    return true;
}

json_t *captures_json(Switch *sw)
{
    json_t *list = json_array();

    for (const Capture *c = sw->captures ? sw->captures->first : NULL; c; c = c->next) {
        json_t *one = json_pack("{s:s*, s:s*, s:s*, s:I, s:I}", "vm", c->vm, "nic",
                                c->nic, "filter", c->text, "frames",
                                (json_int_t)c->frames, "lost", (json_int_t)c->lost);

        if (one && c->port >= 0)
            json_object_set_new(one, "port", json_integer(c->port));
        if (one)
            json_array_append_new(list, one);
    }
    return list;
}
