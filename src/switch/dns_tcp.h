/* Questions to the gateway over TCP: RFC 7766.  Messages have their length before them;
 * several may be asked at once, and are answered as answers come.  A connection that is
 * used no more is closed after ten seconds.  The switch's thread. */
#pragma once

#include "src/switch/dns_forward.h"
#include "src/switch/gateway.h"

typedef struct DnsTcp DnsTcp;

/* A message of at least DNS_HEADER bytes, which dns_tcp_answer() is called for, once, now
 * or later.  False: no more of that asker; its connection ends. */
typedef bool DnsAsked(void *opaque, const DnsAsker *asker, const uint8_t *message,
                      size_t len);

DnsTcp *dns_tcp_new(Switch *sw, Gateway *gw, DnsAsked *asked, void *opaque);
void dns_tcp_free(DnsTcp *d); /* NULL is fine */

/* A TCP packet to the gateway's DNS_PORT. */
void dns_tcp_input(DnsTcp *d, Port *from, const Frame *f);
/* An asker that has gone away is not an error. */
void dns_tcp_answer(DnsTcp *d, const DnsAsker *asker, const void *message, size_t len);
void dns_tcp_port_removed(DnsTcp *d, const Port *port);
