/* What rules had to say of packets; see rules.h. */
#include <stdlib.h>

#include "src/switch/rules.h"

/* A port may fill in NOTE_BURST at once, and then one each NOTE_NS. */
enum { NOTE_NS = 50000000, NOTE_BURST = 20 };

typedef struct Note {
    int64_t time_us; /* since 1970 */
    unsigned port;
    char *vm, *nic; /* as they were then; NULL: not known */
    Direction direction;
    bool allow;
    char *text, *packet;
} Note;

struct RulesLog {
    uint64_t next; /* number of the next one; note n lies at n % RULES_LOG */
    Note note[RULES_LOG];
};

static void note_clear(Note *note)
{
    g_free(note->vm);
    g_free(note->nic);
    g_free(note->text);
    g_free(note->packet);
    *note = (Note){0};
}

void rules_log_free(RulesLog *log)
{
    for (unsigned i = 0; log && i < RULES_LOG; i++)
        note_clear(&log->note[i]);
    g_free(log);
}

/* ---- a packet in words ------------------------------------------------------------- */

static void put_end(GString *text, const Packet *p, const Ip *ip, uint16_t number)
{
    char buffer[IP_TEXT];
    const bool has_port = p->transport &&
                          (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP);

    ip_text(ip, buffer);
    if (has_port && !ip_is_v4(ip))
        g_string_append_printf(text, "[%s]:%u", buffer, number);
    else if (has_port)
        g_string_append_printf(text, "%s:%u", buffer, number);
    else
        g_string_append(text, buffer);
}

static void put_flags(GString *text, uint8_t flags)
{
    static const struct {
        uint8_t bit;
        const char *name;
    } names[] = {{PACKET_TCP_SYN, "syn"},
                 {PACKET_TCP_FIN, "fin"},
                 {PACKET_TCP_RST, "rst"},
                 {PACKET_TCP_ACK, "ack"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        if (flags & names[i].bit)
            g_string_append_printf(text, " %s", names[i].name);
}

static void put_proto(GString *text, const Packet *p)
{
    switch (p->proto) {
    case IPPROTO_TCP:
        g_string_append(text, "tcp ");
        break;
    case IPPROTO_UDP:
        g_string_append(text, "udp ");
        break;
    case IPPROTO_ICMP:
        g_string_append(text, "icmp ");
        break;
    case IPPROTO_ICMPV6:
        g_string_append(text, "icmp6 ");
        break;
    default:
        g_string_append_printf(text, "proto %u ", p->proto);
    }
}

/* "tcp 10.5.0.7:40000 > 10.5.0.8:22 syn"; a new string. */
static char *describe(const Packet *p)
{
    GString *text = g_string_new(NULL);

    if (p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6)
        put_proto(text, p);
    else if (p->kind == PACKET_ARP)
        g_string_append(text, "arp ");
    else
        g_string_append_printf(text, "type 0x%04x%s", p->ether_type,
                               p->malformed ? ", malformed" : "");
    if (p->kind == PACKET_OTHER)
        return g_string_free(text, FALSE);
    put_end(text, p, &p->from, p->from_port);
    g_string_append(text, " > ");
    put_end(text, p, &p->to, p->to_port);
    if (p->transport && p->proto == IPPROTO_TCP)
        put_flags(text, p->tcp_flags);
    if (p->transport && (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6))
        g_string_append_printf(text, " type %u code %u", p->icmp_type, p->icmp_code);
    if (p->fragment)
        g_string_append_printf(text, " fragment at %u", p->offset);
    return g_string_free(text, FALSE);
}

/* ---- notes ------------------------------------------------------------------------- */

static bool may_note(Port *port)
{
    const int64_t now = port->sw->now_ns, full = now - NOTE_BURST * (int64_t)NOTE_NS;

    port->note_ns = MAX(port->note_ns, full);
    if (port->note_ns + NOTE_NS > now)
        return false;
    port->note_ns += NOTE_NS;
    return true;
}

void rules_note(Port *port, Direction direction, const FwVerdict *verdict,
                const Packet *p)
{
    Switch *sw = port->sw;
    Note *note;

    if (!may_note(port))
        return;
    if (!sw->log)
        sw->log = g_new0(RulesLog, 1);
    note = &sw->log->note[sw->log->next++ % RULES_LOG];
    note_clear(note);
    *note = (Note){.time_us = g_get_real_time(),
                   .port = port->id,
                   .vm = g_strdup(port->vm),
                   .nic = g_strdup(port->nic),
                   .direction = direction,
                   .allow = verdict->allow,
                   .text = fw_verdict_text(verdict),
                   .packet = describe(p)};
}

static json_t *note_json(const Note *note)
{
    json_t *json = json_pack("{s:f, s:s, s:b, s:s, s:s}", "time", note->time_us / 1e6,
                             "direction", note->direction == TO_VM ? "in" : "out",
                             "allow", note->allow, "text", note->text, "packet",
                             note->packet);

    if (note->vm)
        json_object_set_new(json, "vm", json_string(note->vm));
    else
        json_object_set_new(json, "port", json_integer(note->port));
    if (note->nic)
        json_object_set_new(json, "nic", json_string(note->nic));
    return json;
}

json_t *rules_log_json(Switch *sw, const Port *port, uint64_t since)
{
    const RulesLog *log = sw->log;
    const uint64_t next = log ? log->next : 0;
    uint64_t first = next > RULES_LOG ? next - RULES_LOG : 0;
    json_t *entries = json_array();

    for (uint64_t n = MAX(first, since); n < next; n++) {
        const Note *note = &log->note[n % RULES_LOG];

        if (!port || (note->port == port->id && g_strcmp0(note->vm, port->vm) == 0))
            json_array_append_new(entries, note_json(note));
    }
    return json_pack("{s:I, s:o}", "next", (json_int_t)next, "entries", entries);
}
