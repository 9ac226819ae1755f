/* Questions that others answer: the network's upstream servers, or those of the host's
 * resolv.conf.
 *
 * Each question goes out from a socket of its own, so from a port that the kernel has
 * chosen at random, connected, with a random id; what comes back has to be from there,
 * with that id and the same question, or it is as if it had not come.  After too many of
 * such the socket is exchanged.  The same question of several askers is asked once (else
 * each more would be one more chance for who guesses).  An answer that is cut off is
 * asked for again over TCP.  What is not answered is asked of the next server, twice
 * round.
 *
 * All is bounded: questions under way, those of a port, those over TCP.  The switch's
 * thread. */
#pragma once

#include "src/switch/dns_message.h"
#include "util/ioloop.h"

enum { DNS_MAX_PENDING = 256, DNS_MAX_PENDING_OF_PORT = 64 };

/* Who asked, as its answer needs to know. */
typedef struct DnsAsker {
    unsigned port; /* the switch's */
    Mac mac;
    Ip ip, server; /* the address that it asked */
    uint16_t ask_port, vlan;
    uint64_t stream; /* its connection; 0: it asked over UDP */
} DnsAsker;

/* `query` is what was asked, with the asker's id; `answer` what came for it, with another
 * id, or NULL: nothing did in time. */
typedef void DnsAnswered(void *opaque, const DnsAsker *asker, const DnsMessage *query,
                         const DnsMessage *answer);

typedef struct DnsForward DnsForward;

DnsForward *dns_forward_new(IoLoop *loop, DnsAnswered *answered, void *opaque);
void dns_forward_free(DnsForward *f); /* what is under way is forgotten; NULL is fine */

/* As config.upstream has them; none: those of the host.  On an error all is as it was. */
bool dns_forward_servers(DnsForward *f, char **servers, GError **error);

/* False: there is no server, or too much is under way. */
bool dns_forward_ask(DnsForward *f, const DnsMessage *query, const DnsAsker *asker);

/* What is under way ends, unanswered. */
void dns_forward_stop(DnsForward *f);

void dns_forward_port_gone(DnsForward *f, unsigned port);
