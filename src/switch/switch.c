/* The way of a frame through the switch; contract in switch.h, which has the steps. */
#include "src/switch/switch.h"

#include "src/switch/capture.h"
#include "src/switch/control.h"
#include "src/switch/fdb.h"
#include "src/switch/gateway.h"
#include "src/switch/guard.h"
#include "src/switch/hold.h"
#include "src/switch/impair.h"
#include "src/switch/join.h"
#include "src/switch/port_vm.h"
#include "src/switch/rules.h"
#include "src/switch/shape.h"
#include "src/switch/storm.h"
#include "src/switch/uplink.h"
#include "src/switch/vlan.h"
#include "util/log.h"

static void count_drop(Port *port, Direction direction, uint64_t *why)
{
    counter_add(&port->count[direction].dropped, 1);
    if (why)
        counter_add(why, 1);
}

/* ---- to a port --------------------------------------------------------------------- */

/* The last step: its tag, and to whoever is there. */
static void emit(Port *to, Frame *f)
{
    const bool tagged = vlan_is_tagged(to, f->vlan);
    const size_t len = f->len;
    bool sent;

    if (to->sw->captures)
        capture_frame(to->sw, to, TO_VM, f);
    if (tagged)
        vlan_push(f);
    sent = to->ops->send(to, f);
    if (tagged)
        vlan_pop(f);
    if (!sent) {
        count_drop(to, TO_VM, NULL);
        return;
    }
    counter_add(&to->count[TO_VM].frames, 1);
    counter_add(&to->count[TO_VM].bytes, len);
    if (!to->flush) {
        to->flush = true;
        to->next_flush = to->sw->to_flush;
        to->sw->to_flush = to;
    }
}

static void deliver_as(Port *to, Frame *f, bool ask_rules)
{
    if (!to->link || to->unplugged || to->gone) {
        count_drop(to, TO_VM, NULL);
        return;
    }
    if (ask_rules && !rules_pass(to, TO_VM, f)) {
        count_drop(to, TO_VM, &to->count[TO_VM].denied);
        return;
    }
    if (to->shape[TO_VM] && !shape_admit(to->shape[TO_VM], f, to->sw->now_ns)) {
        count_drop(to, TO_VM, &to->count[TO_VM].limited);
        return;
    }
    if (!to->impair[TO_VM] || impair_pass(to->impair[TO_VM], f))
        emit(to, f);
}

static void deliver(Port *to, Frame *f)
{
    deliver_as(to, f, true);
}

/* ---- to where it belongs ----------------------------------------------------------- */

/* Only the VM itself can be at its port: a frame for a station that nobody knows is not
 * for it, and no business of its. */
static bool has_others(const Port *port)
{
    return mac_is_zero(&port->mac) || !port->instance || port->trusted ||
           port->sw->config->spoof;
}

/* Copies of what is in the frame's memory are made by the ports; what a port changes of
 * it (its tag) it puts back. */
static void flood(Switch *sw, Port *from, Frame *f)
{
    const bool group = mac_is_group(&f->p.dst);

    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *to = sw->port[i];

        if (to && to != from && !to->gone && vlan_is_member(to, f->vlan) &&
            (group || has_others(to)))
            deliver(to, f);
    }
}

static void forward(Switch *sw, Port *from, Frame *f)
{
    Port *to = mac_is_group(&f->p.dst) ? NULL : fdb_find(sw, &f->p.dst, f->vlan);

    if (to == from && from)
        return; /* its own side of the wire has it already */
    if (!to) {
        if (from && !storm_admit(from)) {
            count_drop(from, FROM_VM, &from->count[FROM_VM].limited);
            return;
        }
        flood(sw, from, f);
        return;
    }
    if (!vlan_is_member(to, f->vlan))
        return;
    deliver(to, f);
    if (from)
        hold_source(from, to);
}

/* ---- from a port ------------------------------------------------------------------- */

/* What a user of clones looks for; of each port its first. */
static void note_spoofed(Port *from, const Frame *f)
{
    static LogLimit limit;
    char sent[MAC_TEXT], own[MAC_TEXT];

    if (from->count[FROM_VM].spoofed == 0 && from->instance &&
        !mac_equal(&f->p.src, &from->mac) && log_limit(&limit))
        log_warn(
            "%s: sends as %s, which is dropped, for its MAC address is %s; a clone's "
            "guest has its own from the guest agent, or after a reset",
            port_text(from), mac_text(&f->p.src, sent), mac_text(&from->mac, own));
    count_drop(from, FROM_VM, &from->count[FROM_VM].spoofed);
}

/* After impair: rates, who it says it is, rules, and on. */
static void receive_rest(Port *from, Frame *f)
{
    Switch *sw = from->sw;
    PortCount *count = &from->count[FROM_VM];

    if (from->shape[FROM_VM] && !shape_admit(from->shape[FROM_VM], f, sw->now_ns)) {
        count_drop(from, FROM_VM, &count->limited);
        return;
    }
    if (!guard_check(from, f)) {
        note_spoofed(from, f);
        return;
    }
    if (!rules_pass(from, FROM_VM, f)) {
        count_drop(from, FROM_VM, &count->denied);
        return;
    }
    fdb_learn(sw, from, &f->p.src, f->vlan);
    if (!gateway_input(sw->gateway, from, f))
        forward(sw, from, f);
}

static bool too_long(const Switch *sw, const Frame *f)
{
    return f->hdr.gso_type == VNET_GSO_NONE && f->len > sw->config->mtu + ETH_HEADER;
}

/* Whether it is a frame at all, and may come in here; nothing has been believed so far.
 */
static bool accept_frame(Port *from, Frame *f)
{
    return from->link && !from->unplugged && !from->gone && f->len >= ETH_MIN_FRAME &&
           f->len <= PACKET_MAX && vnet_hdr_valid(&f->hdr, f->data, f->len) &&
           vlan_receive(from, f) && !too_long(from->sw, f) && frame_parse(f) &&
           !mac_is_group(&f->p.src) && !mac_is_zero(&f->p.src);
}

void switch_receive(Port *from, Frame *f)
{
    counter_add(&from->count[FROM_VM].frames, 1);
    counter_add(&from->count[FROM_VM].bytes, f->len);
    if (!accept_frame(from, f)) {
        count_drop(from, FROM_VM, NULL);
        return;
    }
    if (from->sw->captures)
        capture_frame(from->sw, from, FROM_VM, f);
    if (!from->impair[FROM_VM] || impair_pass(from->impair[FROM_VM], f))
        receive_rest(from, f);
}

void switch_resume(Port *port, Direction direction, Frame *f)
{
    if (!packet_parse(f->data, f->len, &f->p) || port->gone) /* it may be corrupt now */
        return;
    if (direction == FROM_VM)
        receive_rest(port, f);
    else
        emit(port, f);
}

void switch_send_from(Port *from, Frame *f)
{
    f->vlan = from->vlan;
    if (!packet_parse(f->data, f->len, &f->p))
        return;
    fdb_learn(from->sw, from, &f->p.src, f->vlan);
    forward(from->sw, from, f);
}

/* ---- from the network itself ------------------------------------------------------- */

static bool look_at_own(Switch *sw, Frame *f)
{
    if (!packet_parse(f->data, f->len, &f->p))
        return false;
    if (sw->captures)
        capture_frame(sw, NULL, FROM_VM, f);
    return true;
}

void switch_send(Switch *sw, Frame *f)
{
    if (look_at_own(sw, f))
        forward(sw, NULL, f);
}

void switch_send_to(Port *to, Frame *f)
{
    if (look_at_own(to->sw, f))
        deliver(to, f);
}

void switch_answer(Port *to, Frame *f)
{
    if (look_at_own(to->sw, f))
        deliver_as(to, f, false);
}

void switch_flush(Switch *sw)
{
    while (sw->to_flush) {
        Port *port = sw->to_flush;

        sw->to_flush = port->next_flush;
        port->flush = false;
        port->ops->flush(port);
    }
}

void switch_turn(Switch *sw)
{
    sw->now_ns = clock_ns();
}

/* ---- all of it --------------------------------------------------------------------- */

static bool make_parts(Switch *sw, GError **error)
{
    sw->buffer = g_malloc(FRAME_ROOM + PACKET_MAX + ETH_TAG);
    sw->scratch = g_malloc(VNET_SCRATCH);
    sw->fdb = fdb_new();
    return (sw->loop = ioloop_new(error)) && (sw->gateway = gateway_new(sw, error)) &&
           uplink_configure(sw, error) && rules_load(sw, error);
}

Switch *switch_new(const char *name, NetworkConfig *config, GError **error)
{
    Switch *sw = g_new0(Switch, 1);

    sw->name = name;
    sw->config = config;
    network_subnets(config, &sw->subnets);
    switch_turn(sw);
    sw->started_ns = sw->now_ns;
    if (make_parts(sw, error))
        return sw;
    switch_free(sw);
    return NULL;
}

static void use_config(Switch *sw, NetworkConfig *config)
{
    sw->config = config;
    network_subnets(config, &sw->subnets);
}

bool switch_reconfigure(Switch *sw, GError **error)
{
    NetworkConfig *config = network_load(sw->name, error), *old = sw->config;

    if (!config)
        return false;
    use_config(sw, config);
    if (!gateway_reconfigure(sw->gateway, error) || !uplink_configure(sw, error) ||
        !rules_load(sw, error)) {
        use_config(sw, old);
        gateway_reconfigure(sw->gateway, NULL);
        uplink_configure(sw, NULL);
        param_free(&network_params, config);
        return false;
    }
    param_free(&network_params, old);
    return true;
}

void switch_free(Switch *sw)
{
    if (!sw)
        return;
    sw->ending = true;
    sw->users_changed = NULL;
    join_free(sw->join);
    clients_free(sw->clients);
    port_vm_close_waiting(sw);
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++)
        if (sw->port[i])
            port_free(sw->port[i]);
    gateway_free(sw->gateway);
    captures_free(sw);
    rules_log_free(sw->log);
    firewall_unref(sw->rules);
    ioloop_timer_cancel(&sw->hold_timer);
    ioloop_timer_cancel(&sw->rest_timer);
    fdb_free(sw->fdb);
    ioloop_free(sw->loop);
    g_free(sw->buffer);
    g_free(sw->scratch);
    g_free(sw->stream_buffer);
    param_free(&network_params, sw->config);
    g_free(sw);
}
