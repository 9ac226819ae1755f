/* Connections to the switches of other networks (route.h).  Each begins with a hello in
 * both directions (route_hello.h), or {"error": SENTENCE} as an answer.  All after that
 * are packets: a VnetHdr, and a frame whose Ethernet addresses mean nothing. */
#include "src/switch/route.h"

#include <sys/socket.h>

#include "network/place.h"
#include "src/switch/route_hello.h"
#include "src/switch/route_link.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum {
    MAX_STRANGERS = 16, /* have connected and not yet said who they are */
    MAX_HELLO = 4096,
    BACKLOG = 64,
};

static const int64_t again_ns =
    1000000000; /* between two tries of a route that is down */

typedef struct Route {
    Routes *all;
    char *network;
    IpPrefix v4, v6;
    RouteLink *link; /* NULL: down */
    bool dialed;     /* by us */
    bool up;         /* both have said who they are */
    int64_t tried_ns;
    uint64_t sent, received, dropped;
    LogLimit limit;
} Route;

/* Somebody who has connected. */
typedef struct Stranger {
    Routes *all;
    RouteLink *link;
} Stranger;

struct Routes {
    Switch *sw;
    const RouteOps *ops;
    void *opaque;
    NetworkSubnets subnets; /* as the others were told */
    GPtrArray *list;        /* of Route */
    GPtrArray *strangers;   /* of Stranger */
    UnixListener listener;
    IoWatch watch; /* of it */
};

static void dial(Route *r);

/* ---- the table -----------------------------------------------------------------------
 */

static void hang_up(Route *r)
{
    route_link_free(r->link);
    r->link = NULL;
    r->up = r->dialed = false;
}

static void route_free(void *opaque)
{
    Route *r = opaque;

    hang_up(r);
    g_free(r->network);
    g_free(r);
}

static void stranger_free(void *opaque)
{
    Stranger *s = opaque;

    route_link_free(s->link);
    g_free(s);
}

Routes *routes_new(Switch *sw, const RouteOps *ops, void *opaque)
{
    Routes *all = g_new0(Routes, 1);

    all->sw = sw;
    all->ops = ops;
    all->opaque = opaque;
    all->list = g_ptr_array_new_with_free_func(route_free);
    all->strangers = g_ptr_array_new_with_free_func(stranger_free);
    all->listener.fd = -1;
    return all;
}

static void stop_listening(Routes *all)
{
    ioloop_unwatch(&all->watch);
    unix_unlisten(&all->listener);
    all->listener = (UnixListener){.fd = -1};
}

void routes_free(Routes *all)
{
    if (!all)
        return;
    stop_listening(all);
    g_ptr_array_unref(all->strangers);
    g_ptr_array_unref(all->list);
    g_free(all);
}

static Route *find(Routes *all, const char *network)
{
    for (unsigned i = 0; i < all->list->len; i++) {
        Route *r = all->list->pdata[i];

        if (g_str_equal(r->network, network))
            return r;
    }
    return NULL;
}

static bool leads_to(const Route *r, const Ip *ip)
{
    const IpPrefix *subnet = ip_is_v4(ip) ? &r->v4 : &r->v6;

    return subnet->bits && ip_within(ip, subnet);
}

/* ---- who is who ----------------------------------------------------------------------
 */

static void send_json(RouteLink *link, json_t *message)
{
    g_autofree char *text = json_dumps(message, JSON_COMPACT);
    struct iovec iov = {text, strlen(text)};

    route_link_send(link, &iov, 1);
    json_decref(message);
}

static void say_hello(Routes *all, RouteLink *link, const char *to)
{
    send_json(link, route_hello_new(all->sw->name, to, &all->subnets));
}

static json_t *parse_hello(const uint8_t *bytes, size_t len)
{
    return len <= MAX_HELLO ? json_loadb((const char *)bytes, len, 0, NULL) : NULL;
}

static bool overlap(const IpPrefix *a, const IpPrefix *b)
{
    return a->bits && b->bits && ip_prefixes_overlap(a, b);
}

/* Takes what a hello says of the network at the other end. */
static bool take_hello(Route *r, json_t *hello, GError **error)
{
    const Routes *all = r->all;
    IpPrefix v4, v6;

    if (!route_hello_take(hello, r->network, all->sw->name, &all->subnets, &v4, &v6,
                          error))
        return false;
    for (unsigned i = 0; i < all->list->len; i++) {
        const Route *other = all->list->pdata[i];

        if (other != r && other->up &&
            (overlap(&v4, &other->v4) || overlap(&v6, &other->v6)))
            return fail(error, VM_ERROR_BUSY, "its subnet overlaps that of %s",
                        other->network);
    }
    r->v4 = v4;
    r->v6 = v6;
    return true;
}

static void log_refusal(Route *r, const char *why)
{
    if (log_limit(&r->limit))
        log_warn("network %s: no route to %s: %s", r->all->sw->name, r->network, why);
}

/* ---- packets -------------------------------------------------------------------------
 */

static void take_packet(Route *r, uint8_t *bytes, size_t len)
{
    Frame f = {0};

    if (len < sizeof(f.hdr) + ETH_HEADER) {
        r->dropped++;
        return;
    }
    memcpy(&f.hdr, bytes, sizeof(f.hdr));
    f.data = bytes +
             sizeof(f.hdr); /* the header's bytes, and more, are the room before */
    f.len = len - sizeof(f.hdr);
    if (!vnet_hdr_valid(&f.hdr, f.data, f.len) || !frame_parse(&f) ||
        (f.p.kind != PACKET_IPV4 && f.p.kind != PACKET_IPV6) || !leads_to(r, &f.p.from)) {
        r->dropped++;
        return;
    }
    r->received++;
    r->all->ops->input(r->all->opaque, &f);
}

static bool on_message(void *opaque, uint8_t *bytes, size_t len)
{
    Route *r = opaque;
    g_autoptr(GError) why = NULL;
    const char *said;
    json_t *hello;

    if (r->up) {
        take_packet(r, bytes, len);
        return true;
    }
    hello = parse_hello(bytes, len);
    said = json_string_value(json_object_get(hello, "error"));
    r->up = !said && take_hello(r, hello, &why);
    if (!r->up) {
        log_refusal(r, said ? said : why->message);
        hang_up(r);
    }
    json_decref(hello);
    return r->link;
}

static void on_gone(void *opaque)
{
    hang_up(opaque);
}

static void on_idle(void *opaque)
{
    Route *r = opaque;

    switch_flush(r->all->sw);
}

static const RouteLinkOps route_ops = {on_message, on_gone, on_idle};

/* ---- connecting ----------------------------------------------------------------------
 */

static void dial(Route *r)
{
    Switch *sw = r->all->sw;
    g_autofree char *path = network_place(r->network, NETWORK_ROUTE, NULL);
    int fd;

    r->tried_ns = sw->now_ns;
    fd = path ? unix_connect_now(path, NULL) : -1;
    if (fd < 0)
        return; /* it does not run; when it does, it connects to us */
    r->link = route_link_new(sw->loop, fd, &route_ops, r, NULL);
    if (!r->link)
        return;
    r->dialed = true;
    say_hello(r->all, r->link, r->network);
}

/* Whether the one who has connected is that route; `ret` is the one that it says it is.
 */
static bool is_welcome(Routes *all, json_t *hello, Route **ret, GError **error)
{
    const char *name = json_string_value(json_object_get(hello, "network"));
    Route *r = name ? find(all, name) : NULL;

    *ret = r;
    if (!r)
        return fail(error, VM_ERROR_NOT_FOUND, "that network has no route back");
    if (r->link && r->dialed && strcmp(all->sw->name, r->network) < 0)
        return fail(error, VM_ERROR_BUSY, "there is a connection already");
    if (take_hello(r, hello, error))
        return true;
    log_refusal(r, (*error)->message);
    return false;
}

/* Who has connected says who it is.  The link goes over to its route, or is hung up with
 * the reason. */
static bool on_stranger(void *opaque, uint8_t *bytes, size_t len)
{
    Stranger *s = opaque;
    Routes *all = s->all;
    json_t *hello = parse_hello(bytes, len);
    g_autoptr(GError) why = NULL;
    Route *r;

    if (is_welcome(all, hello, &r, &why)) {
        hang_up(r);
        r->link = g_steal_pointer(&s->link);
        r->up = true;
        route_link_set_opaque(r->link, &route_ops, r);
        say_hello(all, r->link, r->network);
    } else {
        send_json(s->link, json_pack("{ss}", "error", why->message));
    }
    json_decref(hello);
    g_ptr_array_remove_fast(all->strangers, s);
    return !why; /* its route reads what comes next, in the same turn */
}

static void on_stranger_gone(void *opaque)
{
    Stranger *s = opaque;

    g_ptr_array_remove_fast(s->all->strangers, s);
}

static void on_stranger_idle(void *opaque)
{
}

static const RouteLinkOps stranger_ops = {on_stranger, on_stranger_gone,
                                          on_stranger_idle};

static void on_connect(void *opaque, uint32_t events)
{
    Routes *all = opaque;
    int fd = accept4(all->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    Stranger *s;

    if (fd < 0)
        return;
    if (all->strangers->len == MAX_STRANGERS) /* who was first has said nothing so far */
        g_ptr_array_remove_index(all->strangers, 0);
    s = g_new0(Stranger, 1);
    s->all = all;
    s->link = route_link_new(all->sw->loop, fd, &stranger_ops, s, NULL);
    if (s->link)
        g_ptr_array_add(all->strangers, s);
    else
        g_free(s);
}

static bool listen_for_others(Routes *all, GError **error)
{
    g_autofree char *path = network_place(all->sw->name, NETWORK_ROUTE, error);

    if (!path || !unix_listen(&all->listener, path, BACKLOG, error) ||
        !ioloop_watch(all->sw->loop, &all->watch, all->listener.fd, EPOLLIN, on_connect,
                      all, error)) {
        stop_listening(all);
        return false;
    }
    return true;
}

/* ---- the config ----------------------------------------------------------------------
 */

/* As its config has it, for as long as it has not said so itself. */
static void look_up(Route *r)
{
    NetworkConfig *config = network_load(r->network, NULL);
    NetworkSubnets s;

    if (!config)
        return;
    network_subnets(config, &s);
    r->v4 = s.v4;
    r->v6 = s.v6;
    param_free(&network_params, config);
}

static void add(Routes *all, const char *network)
{
    Route *r = g_new0(Route, 1);

    r->all = all;
    r->network = g_strdup(network);
    look_up(r);
    g_ptr_array_add(all->list, r);
}

bool routes_set(Routes *all, GError **error)
{
    char *none[] = {NULL};
    const NetworkConfig *config = all->sw->config;
    bool may = config->mode != NETWORK_ISOLATED && config->routes;
    char **names = may ? config->routes : none;
    const NetworkSubnets *s = &all->sw->subnets;
    bool moved = memcmp(s, &all->subnets, sizeof(*s)) != 0;

    if (*names && all->listener.fd < 0 && !listen_for_others(all, error))
        return false;
    if (!*names)
        stop_listening(all);
    all->subnets = *s;
    for (unsigned i = all->list->len; i-- > 0;) {
        Route *r = all->list->pdata[i];

        if (!g_strv_contains((const char *const *)names, r->network))
            g_ptr_array_remove_index(all->list, i);
        else if (moved)
            hang_up(r);
    }
    for (; *names; names++)
        if (!find(all, *names) && !g_str_equal(*names, all->sw->name))
            add(all, *names);
    for (unsigned i = 0; i < all->list->len; i++) {
        Route *r = all->list->pdata[i];

        if (!r->link)
            dial(r);
    }
    return true;
}

/* ---- use -----------------------------------------------------------------------------
 */

RouteFate routes_send(Routes *all, const Frame *f, const Ip *to)
{
    struct iovec iov[] = {{(void *)&f->hdr, sizeof(f->hdr)}, {f->data, f->len}};

    for (unsigned i = 0; i < all->list->len; i++) {
        Route *r = all->list->pdata[i];

        if (!leads_to(r, to))
            continue;
        if (!r->link && all->sw->now_ns - r->tried_ns > again_ns)
            dial(r);
        if (!r->up)
            return ROUTE_DOWN;
        if (route_link_send(r->link, iov, 2))
            r->sent++;
        else
            r->dropped++;
        return ROUTE_SENT;
    }
    return ROUTE_NONE;
}

bool routes_is_network(Routes *all, const char *network, const Ip *ip)
{
    Route *r = find(all, network);

    return r && leads_to(r, ip);
}

unsigned routes_list(const Routes *all, bool v6, IpPrefix *ret, unsigned max)
{
    unsigned n = 0;

    for (unsigned i = 0; i < all->list->len && n < max; i++) {
        const Route *r = all->list->pdata[i];
        const IpPrefix *subnet = v6 ? &r->v6 : &r->v4;

        if (subnet->bits)
            ret[n++] = *subnet;
    }
    return n;
}

json_t *routes_json(Routes *all)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < all->list->len; i++) {
        const Route *r = all->list->pdata[i];
        json_t *o = json_pack("{ss sb sI sI sI}", "network", r->network, "up", r->up,
                              "sent", (json_int_t)r->sent, "received",
                              (json_int_t)r->received, "dropped", (json_int_t)r->dropped);

        route_set_prefix(o, "subnet", &r->v4);
        route_set_prefix(o, "subnet6", &r->v6);
        json_array_append_new(list, o);
    }
    return list;
}
