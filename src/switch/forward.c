/* Forwards (forward.h).  While its VM has no address a forward holds its port by a socket
 * that is bound and does not listen: who connects is refused, and nobody else gets the
 * port.  With an address libslirp listens there. */
#include "src/switch/forward.h"

#include <errno.h>
#include <sys/socket.h>

#include "util/fd.h"
#include "util/log.h"

typedef struct Forward {
    char *text; /* as in the config */
    NetworkForward to;
    int hold_fd;
    bool live;
    NetDevForward at; /* while live */
} Forward;

struct Forwards {
    Switch *sw;
    Gateway *gw;
    NetDev *nd;
    GPtrArray *list; /* of Forward */
};

static void forward_free(void *opaque)
{
    Forward *f = opaque;

    fd_close(&f->hold_fd);
    network_forward_clear(&f->to);
    g_free(f->text);
    g_free(f);
}

Forwards *forwards_new(Switch *sw, Gateway *gw)
{
    Forwards *fw = g_new0(Forwards, 1);

    fw->sw = sw;
    fw->gw = gw;
    fw->list = g_ptr_array_new_with_free_func(forward_free);
    return fw;
}

static void stop(Forwards *fw, Forward *f)
{
    if (f->live)
        netdev_unforward(fw->nd, &f->at);
    f->live = false;
}

void forwards_free(Forwards *fw)
{
    if (!fw)
        return;
    for (unsigned i = 0; i < fw->list->len; i++)
        stop(fw, fw->list->pdata[i]);
    g_ptr_array_unref(fw->list);
    g_free(fw);
}

/* ---- ports ---------------------------------------------------------------------------
 */

/* A host side without an address is of the family that the network has first. */
static bool is_v6(const Forwards *fw, const Forward *f)
{
    return ip_is_unspecified(&f->to.address) ? !fw->sw->subnets.v4.bits
                                             : !ip_is_v4(&f->to.address);
}

static socklen_t host_side(const Forward *f, bool v6, struct sockaddr_storage *ret)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

    memset(ret, 0, sizeof(*ret));
    if (v6) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(f->to.port);
        memcpy(&in6->sin6_addr, f->to.address.b, sizeof(f->to.address.b));
        return sizeof(*in6);
    }
    in->sin_family = AF_INET;
    in->sin_port = htons(f->to.port);
    if (!ip_is_unspecified(&f->to.address))
        in->sin_addr.s_addr = htonl(ip_to_v4(&f->to.address));
    return sizeof(*in);
}

static bool fail_port(const Forward *f, GError **error)
{
    const char *proto = f->to.udp ? "udp" : "tcp";

    switch (errno) {
    case EADDRINUSE:
        return fail(error, VM_ERROR_BUSY,
                    "forward=%s: %s port %u of the host is in use: give another, or find "
                    "its owner with 'ss -l%cnp sport = %u'",
                    f->text, proto, f->to.port, proto[0], f->to.port);
    case EACCES:
    case EPERM:
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "forward=%s: no permission to listen on %s port %u: give one from "
                    "1024 up",
                    f->text, proto, f->to.port);
    case EADDRNOTAVAIL:
        return fail(error, VM_ERROR_INVALID,
                    "forward=%s: the host has no such address: give one that 'ip "
                    "address' shows, or none for all",
                    f->text);
    default:
        return fail_errno(error, "forward=%s: listen on %s port %u", f->text, proto,
                          f->to.port);
    }
}

static bool hold(const Forwards *fw, Forward *f, GError **error)
{
    bool v6 = is_v6(fw, f);
    struct sockaddr_storage sa;
    socklen_t len = host_side(f, v6, &sa);
    int type = (f->to.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, on = 1;
    autofd fd = socket(v6 ? AF_INET6 : AF_INET, type, 0);

    /* Connections that ended a moment ago are no owners; for UDP it would mean to share.
     */
    if (fd >= 0 && !f->to.udp)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd >= 0 && v6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0)
        return fail_port(f, error);
    f->hold_fd = fd_steal(&fd);
    return true;
}

/* ---- following the VM ----------------------------------------------------------------
 */

static void follow(Forwards *fw, Forward *f)
{
    NetDevForward at = {.udp = f->to.udp,
                        .host = f->to.address,
                        .host_port = f->to.port,
                        .guest_port = f->to.vm_port};
    bool known = gateway_address_of(fw->gw, f->to.vm, is_v6(fw, f), &at.guest);
    g_autoptr(GError) error = NULL;

    if (f->live && known && ip_equal(&f->at.guest, &at.guest))
        return;
    stop(fw, f);
    if (known) {
        fd_close(&f->hold_fd);
        f->live = netdev_forward(fw->nd, &at, &error);
        f->at = at;
    }
    if (!f->live && f->hold_fd < 0)
        hold(fw, f, error ? NULL : &error);
    if (error)
        log_warn("network %s: forward=%s is off: %s", fw->sw->name, f->text,
                 error->message);
}

void forwards_follow(Forwards *fw)
{
    for (unsigned i = 0; i < fw->list->len; i++)
        follow(fw, fw->list->pdata[i]);
}

/* ---- the list ------------------------------------------------------------------------
 */

static Forward *find_text(Forwards *fw, const char *text)
{
    for (unsigned i = 0; i < fw->list->len; i++) {
        Forward *f = fw->list->pdata[i];

        if (f->text && g_str_equal(f->text, text))
            return f;
    }
    return NULL;
}

/* Whether the list has that port of the host already, leading elsewhere. */
static bool have_port(const Forwards *fw, const NetworkForward *to)
{
    for (unsigned i = 0; i < fw->list->len; i++) {
        const NetworkForward *f = &((Forward *)fw->list->pdata[i])->to;

        if (f->udp == to->udp && f->port == to->port &&
            ip_equal(&f->address, &to->address))
            return true;
    }
    return false;
}

/* Those of the config that are new, each with its port. */
static bool make_new(Forwards *fw, GPtrArray *new, GError **error)
{
    for (char **text = fw->sw->config->forwards; text && *text; text++) {
        Forward *f;

        if (find_text(fw, *text))
            continue;
        f = g_new0(Forward, 1);
        f->hold_fd = -1;
        f->text = g_strdup(*text);
        g_ptr_array_add(new, f);
        if (!network_forward_parse(*text, &f->to, error) ||
            (!have_port(fw, &f->to) && !hold(fw, f, error)))
            return false;
    }
    return true;
}

static void drop_old(Forwards *fw)
{
    char *none[] = {NULL};
    char **texts = fw->nd && fw->sw->config->forwards ? fw->sw->config->forwards : none;

    for (unsigned i = fw->list->len; i-- > 0;) {
        Forward *f = fw->list->pdata[i];

        if (g_strv_contains((const char *const *)texts, f->text))
            continue;
        stop(fw, f);
        g_ptr_array_remove_index(fw->list, i);
    }
}

bool forwards_set(Forwards *fw, NetDev *nd, GError **error)
{
    g_autoptr(GPtrArray) new = g_ptr_array_new_with_free_func(forward_free);

    if (nd && !make_new(fw, new, error))
        return false;
    if (nd != fw->nd) { /* what listened has gone, or is about to */
        for (unsigned i = 0; fw->nd && i < fw->list->len; i++)
            stop(fw, fw->list->pdata[i]);
        fw->nd = nd;
    }
    drop_old(fw);
    g_ptr_array_extend_and_steal(fw->list, g_steal_pointer(&new));
    if (nd)
        forwards_follow(fw);
    return true;
}

json_t *forwards_json(const Forwards *fw)
{
    json_t *list = json_array();
    char text[IP_TEXT];

    for (unsigned i = 0; i < fw->list->len; i++) {
        const Forward *f = fw->list->pdata[i];
        json_t *o = json_pack(
            "{ss ss si ss si}", "proto", f->to.udp ? "udp" : "tcp", "address",
            ip_is_unspecified(&f->to.address) ? "" : ip_text(&f->to.address, text),
            "port", f->to.port, "vm", f->to.vm, "vm-port", f->to.vm_port);

        if (f->live)
            json_object_set_new(o, "to", json_string(ip_text(&f->at.guest, text)));
        json_array_append_new(list, o);
    }
    return list;
}
