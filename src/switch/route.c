/* Connections to the switches of other networks (route.h).
 *
 * The first message in each direction is JSON: {"hutch-route": 1, "network": NAME, "to":
 * NAME, "subnet": PREFIX, "subnet6": PREFIX}, the second of them the answer, or {"error":
 * SENTENCE}.  All after that are packets: a VnetHdr, and a frame whose Ethernet addresses
 * mean nothing. */
#include "src/switch/route.h"

#include <sys/socket.h>

#include "network/place.h"
#include "src/switch/route_link.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum {
    ROUTE_VERSION = 1,
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

static void set_prefix(json_t *hello, const char *key, const IpPrefix *p)
{
    char text[IP_TEXT + 4];

    if (p->bits)
        json_object_set_new(hello, key, json_string(ip_prefix_text(p, text)));
}

static void send_json(RouteLink *link, json_t *message)
{
    g_autofree char *text = json_dumps(message, JSON_COMPACT);
    struct iovec iov = {text, strlen(text)};

    route_link_send(link, &iov, 1);
    json_decref(message);
}

static void say_hello(Routes *all, RouteLink *link, const char *to)
{
    json_t *hello = json_pack("{si ss ss}", "hutch-route", ROUTE_VERSION, "network",
                              all->sw->name, "to", to);

    set_prefix(hello, "subnet", &all->subnets.v4);
    set_prefix(hello, "subnet6", &all->subnets.v6);
    send_json(link, hello);
}

/* What the other says of itself; false: not a thing that we could do with. */
static bool get_prefix(const Routes *all, json_t *hello, const char *key, bool v6,
                       IpPrefix *ret)
{
    const char *text = json_string_value(json_object_get(hello, key));
    const IpPrefix *own = v6 ? &all->subnets.v6 : &all->subnets.v4;
    IpPrefix p = {0};

    if (text &&
        (!ip_prefix_parse(text, &p, NULL) || ip_is_v4(&p.ip) == v6 ||
         p.bits <= (v6 ? 0 : IP_V4_BITS) || (own->bits && ip_prefixes_overlap(&p, own))))
        return false;
    *ret = p;
    return true;
}

static json_t *parse_hello(const uint8_t *bytes, size_t len)
{
    return len <= MAX_HELLO ? json_loadb((const char *)bytes, len, 0, NULL) : NULL;
}

/* Takes what a hello says of the network at the other end; else `ret_why` is the reason.
 */
static bool take_hello(Route *r, json_t *hello, const char **ret_why)
{
    const char *to = json_string_value(json_object_get(hello, "to"));
    IpPrefix v4, v6;

    if (json_integer_value(json_object_get(hello, "hutch-route")) != ROUTE_VERSION ||
        !to || !g_str_equal(to, r->all->sw->name))
        *ret_why = "it speaks another version of the protocol";
    else if (!get_prefix(r->all, hello, "subnet", false, &v4) ||
             !get_prefix(r->all, hello, "subnet6", true, &v6))
        *ret_why = "its subnet overlaps with that of this network";
    else {
        r->v4 = v4;
        r->v6 = v6;
        return true;
    }
    return false;
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
    const char *why = "its answer makes no sense", *said;
    json_t *hello;

    if (r->up) {
        take_packet(r, bytes, len);
        return true;
    }
    hello = parse_hello(bytes, len);
    said = json_string_value(json_object_get(hello, "error"));
    r->up = !said && take_hello(r, hello, &why);
    if (!r->up) {
        if (log_limit(&r->limit))
            log_info("network %s: no route to %s: %s", r->all->sw->name, r->network,
                     said ? said : why);
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

static void refuse(RouteLink *link, const char *why)
{
    send_json(link, json_pack("{ss}", "error", why));
}

/* Who has connected says who it is.  The link goes over to its route, or is hung up with
 * the reason. */
static bool on_stranger(void *opaque, uint8_t *bytes, size_t len)
{
    Stranger *s = opaque;
    Routes *all = s->all;
    json_t *hello = parse_hello(bytes, len);
    const char *name = json_string_value(json_object_get(hello, "network"));
    const char *why = NULL;
    Route *r = name ? find(all, name) : NULL;

    if (!r)
        why = "that network has no route back";
    else if (r->link && r->dialed && strcmp(all->sw->name, r->network) < 0)
        why = "there is a connection already";
    else if (take_hello(r, hello, &why)) {
        hang_up(r);
        r->link = g_steal_pointer(&s->link);
        r->up = true;
        route_link_set_opaque(r->link, &route_ops, r);
        say_hello(all, r->link, r->network);
    }
    if (why)
        refuse(s->link, why);
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

json_t *routes_json(Routes *all)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < all->list->len; i++) {
        const Route *r = all->list->pdata[i];
        json_t *o = json_pack("{ss sb sI sI sI}", "network", r->network, "up", r->up,
                              "sent", (json_int_t)r->sent, "received",
                              (json_int_t)r->received, "dropped", (json_int_t)r->dropped);

        set_prefix(o, "subnet", &r->v4);
        set_prefix(o, "subnet6", &r->v6);
        json_array_append_new(list, o);
    }
    return list;
}
