/* Asking upstream servers (dns_forward.h).  A question has a place in a table from when
 * it was asked until it is answered; the first asker's place has the socket, and the
 * others wait for it. */
#include "src/switch/dns_forward.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "src/switch/dns_servers.h"
#include "util/bits.h"
#include "util/fd.h"

enum {
    ROUNDS = 2,
    TRY_MS = 2000,
    TCP_MS = 4000,
    MAX_TCP = 16, /* at once: each has a buffer of 64 KiB */
    MAX_BAD = 64, /* answers that are none, on one socket */
    READ_BATCH = 16,
    TCP_BUFFER = 2 + 65535,
};

typedef struct Pending {
    DnsForward *f;
    bool used;
    bool tcp, connected, no_tcp; /* no_tcp: it was tried and did not work */
    int leader; /* whose answer it waits for; its own index: it has the socket */
    DnsAsker asker;
    uint16_t id; /* upstream's */
    unsigned tries, bad;
    int fd;
    IoWatch watch;
    IoTimer timer;
    uint8_t *buffer; /* over TCP: length, then the message */
    size_t done;     /* bytes of it */
    size_t query_len;
    uint8_t query[DNS_MAX_QUERY]; /* with the asker's id */
    uint8_t out[2 + DNS_MAX_QUERY];
    DnsMessage question; /* of query */
} Pending;

struct DnsForward {
    IoLoop *loop;
    DnsAnswered *answered;
    void *opaque;
    DnsServers servers;
    unsigned n_tcp;
    unsigned of_port[2048];
    uint8_t message[65535];
    Pending pending[DNS_MAX_PENDING]; /* pages that are not used are not there */
};

static void ask_next(Pending *p);

DnsForward *dns_forward_new(IoLoop *loop, DnsAnswered *answered, void *opaque)
{
    DnsForward *f = g_new0(DnsForward, 1);

    f->loop = loop;
    f->answered = answered;
    f->opaque = opaque;
    return f;
}

static void hang_up(Pending *p)
{
    if (p->watch.loop)
        ioloop_unwatch(&p->watch);
    ioloop_timer_cancel(&p->timer);
    fd_close(&p->fd);
    if (p->tcp)
        p->f->n_tcp--;
    p->tcp = p->connected = false;
    g_clear_pointer(&p->buffer, g_free);
    p->bad = 0;
}

static unsigned *count_of(DnsForward *f, unsigned port)
{
    return &f->of_port[MIN(port, G_N_ELEMENTS(f->of_port) - 1)];
}

static void forget(Pending *p)
{
    hang_up(p);
    p->used = false;
    (*count_of(p->f, p->asker.port))--;
}

void dns_forward_free(DnsForward *f)
{
    if (!f)
        return;
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++)
        if (f->pending[i].used)
            hang_up(&f->pending[i]);
    g_free(f);
}

bool dns_forward_servers(DnsForward *f, char **servers, GError **error)
{
    return dns_servers_set(&f->servers, servers, error);
}

/* ---- answers -------------------------------------------------------------------------
 */

/* Tells all who wait for it; answer NULL: there is none. */
static void finish(Pending *leader, const DnsMessage *answer)
{
    DnsForward *f = leader->f;
    int index = (int)(leader - f->pending);

    hang_up(leader);
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++) {
        Pending *p = &f->pending[i];

        if (!p->used || p->leader != index)
            continue;
        f->answered(f->opaque, &p->asker, &p->question, answer);
        forget(p);
    }
}

static void timed_out(void *opaque)
{
    Pending *p = opaque;

    p->no_tcp = p->tcp;
    ask_next(p);
}

static void set_timer(Pending *p, int ms)
{
    ioloop_timer(p->f->loop, &p->timer, clock_ns() + ms * 1000000ll, timed_out, p);
}

/* ---- TCP (RFC 7766) -------------------------------------------------------------------
 */

static void tcp_failed(Pending *p)
{
    p->no_tcp = true;
    ask_next(p);
}

static void tcp_event(void *opaque, uint32_t events)
{
    Pending *p = opaque;
    size_t want = p->done < 2 ? 2 : 2 + (size_t)(p->buffer[0] << 8 | p->buffer[1]);
    DnsMessage m;
    ssize_t n;

    if (!p->connected) {
        /* A fresh socket's buffer takes so little at once, or something is wrong. */
        n = send(p->fd, p->out, 2 + p->query_len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n != (ssize_t)(2 + p->query_len)) {
            tcp_failed(p);
            return;
        }
        p->connected = true;
        ioloop_watch_events(&p->watch, EPOLLIN);
        return;
    }
    n = recv(p->fd, p->buffer + p->done, want - p->done, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        tcp_failed(p);
        return;
    }
    p->done += (size_t)n;
    if (p->done < want || p->done == 2)
        return;
    if (dns_parse(p->buffer + 2, p->done - 2, &m) &&
        dns_answers(&m, p->id, &p->question)) {
        /* finish() lets go of the buffer first. */
        memcpy(p->f->message, p->buffer + 2, p->done - 2);
        m.bytes = p->f->message;
        finish(p, &m);
    } else {
        tcp_failed(p);
    }
}

static void fresh_id(Pending *p)
{
    if (getrandom(&p->id, sizeof(p->id), 0) != sizeof(p->id))
        p->id = (uint16_t)g_random_int();
    dns_make_query(&p->question, p->id, p->out + 2);
    store_be16(p->out, (uint16_t)p->query_len);
}

/* False: it cannot be tried. */
static bool ask_by_tcp(Pending *p)
{
    DnsForward *f = p->f;
    const DnsServer *s = &f->servers.server[(p->tries - 1) % MAX(f->servers.n, 1)];

    if (f->n_tcp == MAX_TCP || !f->servers.n)
        return false;
    hang_up(p);
    p->fd = socket(s->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || (connect(p->fd, (const struct sockaddr *)&s->sa, s->len) < 0 &&
                      errno != EINPROGRESS))
        return false;
    p->tcp = true;
    f->n_tcp++;
    p->done = 0;
    p->buffer = g_malloc(TCP_BUFFER);
    fresh_id(p);
    set_timer(p, TCP_MS);
    return ioloop_watch(f->loop, &p->watch, p->fd, EPOLLOUT, tcp_event, p, NULL);
}

/* ---- UDP ------------------------------------------------------------------------------
 */

/* Another server may know better. */
static bool is_refusal(const DnsMessage *m)
{
    unsigned rcode = m->flags & DNS_RCODE;

    return rcode == DNS_SERVFAIL || rcode == DNS_REFUSED || rcode == DNS_NOTIMP;
}

static void take_answer(Pending *p, const DnsMessage *m)
{
    if ((m->flags & DNS_TC) && !p->no_tcp && ask_by_tcp(p))
        return;
    if (is_refusal(m) && p->tries < p->f->servers.n)
        ask_next(p);
    else
        finish(p, m);
}

static void udp_event(void *opaque, uint32_t events)
{
    Pending *p = opaque;
    DnsForward *f = p->f;
    DnsMessage m;

    for (unsigned i = 0; i < READ_BATCH; i++) {
        ssize_t n = recv(p->fd, f->message, sizeof(f->message), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) { /* "connection refused": nobody is there */
            ask_next(p);
            return;
        }
        if (dns_parse(f->message, (size_t)n, &m) &&
            dns_answers(&m, p->id, &p->question)) {
            take_answer(p, &m);
            return;
        }
        if (++p->bad == MAX_BAD) { /* somebody guesses: let him guess again */
            ask_next(p);
            return;
        }
    }
}

static bool ask_by_udp(Pending *p, const DnsServer *s)
{
    p->fd = socket(s->sa.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (const struct sockaddr *)&s->sa, s->len) < 0)
        return false;
    fresh_id(p);
    if (send(p->fd, p->out + 2, p->query_len, MSG_NOSIGNAL) < 0)
        return false;
    set_timer(p, TRY_MS);
    return ioloop_watch(p->f->loop, &p->watch, p->fd, EPOLLIN, udp_event, p, NULL);
}

/* The next server, or the end. */
static void ask_next(Pending *p)
{
    const DnsServers *s = &p->f->servers;

    while (p->tries < ROUNDS * s->n) {
        hang_up(p);
        if (ask_by_udp(p, &s->server[p->tries++ % s->n]))
            return;
    }
    finish(p, NULL);
}

/* ---- questions ------------------------------------------------------------------------
 */

static bool same_question(const DnsMessage *a, const DnsMessage *b)
{
    const unsigned flags = DNS_RD | DNS_CD;

    return a->type == b->type && a->class_ == b->class_ && a->edns == b->edns &&
           a->dnssec_ok == b->dnssec_ok && (a->flags & flags) == (b->flags & flags) &&
           strcmp(a->name, b->name) == 0;
}

static Pending *find_leader(DnsForward *f, const DnsMessage *question)
{
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++) {
        Pending *p = &f->pending[i];

        if (p->used && p->leader == (int)i && same_question(&p->question, question))
            return p;
    }
    return NULL;
}

static Pending *find_free(DnsForward *f)
{
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++)
        if (!f->pending[i].used)
            return &f->pending[i];
    return NULL;
}

bool dns_forward_ask(DnsForward *f, const DnsMessage *query, const DnsAsker *asker)
{
    Pending *leader, *p = find_free(f);
    DnsMessage *q;

    dns_servers_refresh(&f->servers);
    if (!p || !f->servers.n || *count_of(f, asker->port) >= DNS_MAX_PENDING_OF_PORT)
        return false;
    leader = find_leader(f, query);
    p->f = f;
    p->used = true;
    p->no_tcp = false;
    p->fd = -1;
    p->asker = *asker;
    p->tries = 0;
    (*count_of(f, asker->port))++;
    q = &p->question;
    *q = *query;
    p->query_len = dns_make_query(query, query->id, p->query);
    q->bytes = p->query;
    q->len = p->query_len;
    p->leader = (int)((leader ? leader : p) - f->pending);
    if (!leader)
        ask_next(p);
    return true;
}

void dns_forward_stop(DnsForward *f)
{
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++)
        if (f->pending[i].used && f->pending[i].leader == (int)i)
            finish(&f->pending[i], NULL);
}

/* Its questions go on without an asker, as others may wait for the same; their answers
 * are for nobody, which whoever sends them finds. */
void dns_forward_port_gone(DnsForward *f, unsigned port)
{
    for (unsigned i = 0; i < DNS_MAX_PENDING; i++) {
        Pending *p = &f->pending[i];

        if (p->used && p->asker.port == port && p->leader != (int)i)
            forget(p);
    }
}
