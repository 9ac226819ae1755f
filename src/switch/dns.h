/* The DNS server of a network, at its gateway's addresses: names of its VMs, and the rest
 * from upstream, unless the network is isolated.  The switch's thread. */
#pragma once

#include "src/switch/gateway.h"
#include "src/switch/names.h"

typedef struct Dns Dns;

Dns *dns_new(Switch *sw, Gateway *gw, Names *names, GError **error);
void dns_free(Dns *dns); /* NULL is fine */
bool dns_reconfigure(Dns *dns, GError **error);

/* True: it was a question to the gateway, and is dealt with. */
bool dns_input(Dns *dns, Port *from, const Frame *f);

void dns_port_removed(Dns *dns, Port *port);

/* What this DNS itself knows about a question, for tests: an answer of the network's own
 * (true), or one that is to be had from upstream. */
typedef struct DnsReply DnsReply;
typedef struct DnsMessage DnsMessage;
bool dns_answer_own(Dns *dns, const DnsMessage *query, unsigned port, DnsReply *ret);
