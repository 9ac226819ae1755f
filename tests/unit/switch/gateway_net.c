/* See gateway_net.h. */
#include "tests/unit/switch/gateway_net.h"

#include <glib/gstdio.h>

Net net;
const Mac net_broadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
bool net_taken;

static const PortOps ops = {.kind = "vm"};

/* ---- played by the test: the rest of the switch ---------------------------------------
 */

static void note(Port *to, const Frame *f)
{
    NetSent *sent = &net.sent[net.n_sent % NET_SENT_MAX];

    g_assert_cmpuint(f->len, <=, sizeof(sent->data));
    net.n_sent++;
    sent->to = to;
    sent->len = f->len;
    memcpy(sent->data, f->data, f->len);
    g_assert_true(packet_parse(sent->data, sent->len, &sent->p));
    g_assert_false(sent->p.malformed);
}

void switch_send(Switch *sw, Frame *f)
{
    note(NULL, f);
}

void switch_send_to(Port *to, Frame *f)
{
    note(to, f);
}

void switch_answer(Port *to, Frame *f)
{
    note(to, f);
}

void switch_flush(Switch *sw)
{
}

void switch_turn(Switch *sw)
{
    sw->now_ns = clock_ns();
}

void port_set_mac(Port *port, const Mac *mac)
{
    port->mac = *mac;
}

Port *port_find(Switch *sw, const char *vm, const char *nic)
{
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && g_strcmp0(sw->port[i]->vm, vm) == 0 &&
            (!nic || g_strcmp0(sw->port[i]->nic, nic) == 0))
            return sw->port[i];
    return NULL;
}

Port *port_by_mac(Switch *sw, const Mac *mac)
{
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && mac_equal(&sw->port[i]->mac, mac))
            return sw->port[i];
    return NULL;
}

/* ---- the network ----------------------------------------------------------------------
 */

static NetworkConfig *parse(const char *options)
{
    NetworkConfig *config = param_new(&network_params);
    GError *error = NULL;

    param_parse(&network_params, config, options, &error);
    g_assert_no_error(error);
    return config;
}

static void start(void)
{
    GError *error = NULL;

    net.sw.loop = ioloop_new(&error);
    g_assert_no_error(error);
    network_subnets(net.sw.config, &net.sw.subnets);
    net.sw.gateway = gateway_new(&net.sw, &error);
    g_assert_no_error(error);
}

void net_begin(const char *options)
{
    GError *error = NULL;

    memset(&net, 0, sizeof(net));
    net.folder = g_dir_make_tmp("hutch-gateway-XXXXXX", &error);
    g_assert_no_error(error);
    g_setenv("HUTCH_NETWORKS", net.folder, TRUE);
    net.run = g_dir_make_tmp("hutch-run-XXXXXX", &error);
    g_assert_no_error(error);
    g_setenv("XDG_RUNTIME_DIR", net.run, TRUE);
    net.sw.name = "lan";
    net.sw.now_ns = clock_ns();
    net.sw.config = parse(options);
    network_create("lan", net.sw.config, &error);
    g_assert_no_error(error);
    start();
}

static void stop(void)
{
    for (unsigned i = 0; i < net.sw.n_ports; i++)
        if (net.sw.port[i])
            net_unplug(net.sw.port[i]);
    net.sw.n_ports = 0;
    gateway_free(net.sw.gateway);
    net.sw.gateway = NULL;
    ioloop_free(net.sw.loop);
}

static void remove_run(const char *below)
{
    g_autofree char *path = g_strconcat(net.run, below, NULL);

    g_rmdir(path);
}

void net_end(void)
{
    g_autofree char *lock = g_build_filename(net.folder, ".lock", NULL);
    GError *error = NULL;

    stop();
    param_free(&network_params, net.sw.config);
    g_auto(GStrv) all = network_list(NULL);
    for (char **name = all; *name; name++) {
        network_remove(*name, &error);
        g_assert_no_error(error);
    }
    remove_run("/hutch-net/lan");
    remove_run("/hutch-net");
    remove_run("");
    g_free(net.run);
    g_unlink(lock);
    g_rmdir(net.folder);
    g_free(net.folder);
}

void net_restart(void)
{
    stop();
    start();
    net_clear();
}

void net_renew(void)
{
    stop();
    g_assert_true(network_write("lan", "leases.json", NULL, NULL));
    net.sw.now_ns = clock_ns();
    start();
    net_clear();
}

void net_other(const char *name, const char *options)
{
    NetworkConfig *config = parse(options);
    g_autofree char *run = g_build_filename(net.run, "hutch-net", "lan", NULL);
    GError *error = NULL;

    g_assert_cmpint(g_mkdir_with_parents(run, 0700), ==, 0); /* for the route's socket */
    network_create(name, config, &error);
    g_assert_no_error(error);
    param_free(&network_params, config);
}

void net_set(const char *options)
{
    GError *error = NULL;

    param_free(&network_params, net.sw.config);
    net.sw.config = parse(options);
    network_subnets(net.sw.config, &net.sw.subnets);
    gateway_reconfigure(net.sw.gateway, &error);
    g_assert_no_error(error);
}

/* ---- ports ----------------------------------------------------------------------------
 */

Mac net_mac(uint8_t last)
{
    return (Mac){{2, 0, 0, 0, 0, last}};
}

bool guard_has(const Guard *guard, const Ip *ip)
{
    Ip all[64];
    unsigned n = guard_list(guard, all, G_N_ELEMENTS(all));

    while (n && !ip_equal(&all[n - 1], ip))
        n--;
    return n;
}

Ip net_ip(const char *text)
{
    Ip ip;

    g_assert_true(ip_parse(text, &ip, NULL));
    return ip;
}

Port *net_port(const char *vm, uint8_t mac, const char *ip)
{
    Port *port = g_new0(Port, 1);
    GError *error = NULL;

    port->ops = &ops;
    port->sw = &net.sw;
    port->link = true;
    port->vm = g_strdup(vm);
    port->nic = g_strdup(vm ? "net0" : NULL);
    port->mac = mac ? net_mac(mac) : (Mac){{0}};
    while (net.sw.port[port->id])
        port->id++;
    net.sw.port[port->id] = port;
    net.sw.n_ports = MAX(net.sw.n_ports, port->id + 1);
    port->guard = guard_new(port);
    if (ip) {
        Ip by_hand = net_ip(ip);

        guard_add(port->guard, &by_hand, &error);
        g_assert_no_error(error);
    }
    gateway_port_added(net.sw.gateway, port);
    return port;
}

void net_unplug(Port *port)
{
    gateway_port_removed(net.sw.gateway, port);
    net.sw.port[port->id] = NULL;
    guard_free(port->guard);
    g_free(port->vm);
    g_free(port->nic);
    g_free(port);
}

bool net_input(Port *port, Builder *b)
{
    uint8_t room[FRAME_ROOM + BUILD_MAX];
    Frame f = {.data = room + FRAME_ROOM};

    g_assert_true(build_end(b));
    f.len = b->len;
    memcpy(f.data, b->data, b->len);
    g_assert_true(packet_parse(f.data, f.len, &f.p));
    net_taken = false;
    if (!guard_check(port, &f))
        return false;
    net_taken = gateway_input(net.sw.gateway, port, &f);
    return true;
}

void net_clear(void)
{
    net.n_sent = 0;
}

bool net_has(const Port *port, const Ip *ip)
{
    Ip all[64];
    unsigned n = guard_list(port->guard, all, G_N_ELEMENTS(all));

    while (n && !ip_equal(&all[n - 1], ip))
        n--;
    return n;
}

void net_last(void)
{
    g_assert_cmpuint(net.n_sent, >, 0);
    net.sent[0] = net.sent[(net.n_sent - 1) % NET_SENT_MAX];
    net.n_sent = 1;
}
