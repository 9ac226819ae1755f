/* DNS messages: read without trust, and made (RFC 1035, 4; EDNS: RFC 6891).
 *
 * Names are text in lower case without the final dot ("" is the root); bytes that could
 * be mistaken for something else are written \DDD (RFC 1035, 5.1).  Any thread; nothing
 * allocates. */
#pragma once

#include "packet/addr.h"

enum {
    DNS_PORT = 53,
    DNS_HEADER = 12,
    DNS_MAX_NAME = 255,                   /* on the wire */
    DNS_NAME_TEXT = DNS_MAX_NAME * 4 + 1, /* all of it escaped */
    DNS_MAX_QUESTION = DNS_MAX_NAME + 4,
    DNS_PLAIN_UDP = 512,   /* RFC 1035, 4.2.1 */
    DNS_MAX_UDP = 1232,    /* fits an IPv6 packet of the smallest MTU */
    DNS_MAX_RECORDS = 256, /* those after are not looked at */
};

enum {
    DNS_A = 1,
    DNS_NS = 2,
    DNS_CNAME = 5,
    DNS_SOA = 6,
    DNS_PTR = 12,
    DNS_AAAA = 28,
    DNS_OPT = 41,
    DNS_ANY = 255,
    DNS_CLASS_IN = 1,
};

enum {
    DNS_OK,
    DNS_FORMERR,
    DNS_SERVFAIL,
    DNS_NXDOMAIN,
    DNS_NOTIMP,
    DNS_REFUSED,
    DNS_BADVERS = 16,
};

enum {
    DNS_QR = 0x8000,
    DNS_OPCODE = 0x7800,
    DNS_AA = 0x0400,
    DNS_TC = 0x0200,
    DNS_RD = 0x0100,
    DNS_RA = 0x0080,
    DNS_CD = 0x0010,
    DNS_RCODE = 0x000f,
};

/* Header, first question, and EDNS.  Points to the bytes it was made of. */
typedef struct DnsMessage {
    const uint8_t *bytes;
    size_t len;
    uint16_t id, flags;
    unsigned n_questions, n_records[3]; /* answers, authority, additional */
    char name[DNS_NAME_TEXT];
    uint16_t type, class_;
    size_t question_end; /* where the records begin */
    bool edns, dnssec_ok;
    bool whole; /* of a question: it came over TCP, and no answer is too long */
    uint8_t edns_version;
    uint16_t edns_size;
} DnsMessage;

typedef struct DnsRecord {
    char name[DNS_NAME_TEXT];
    uint16_t type, class_;
    uint32_t ttl;
    size_t data, data_len; /* offset in the message */
} DnsRecord;

/* False: it is not one, or has no question; with at least a header of it there, id and
 * flags are set all the same. */
bool dns_parse(const uint8_t *bytes, size_t len, DnsMessage *ret);

/* The name at *at, which is moved past it; compressed ones are followed backwards only
 * (RFC 1035, 4.1.4), so that each ends. */
bool dns_read_name(const uint8_t *bytes, size_t len, size_t *at,
                   char text[DNS_NAME_TEXT]);

/* The record at *at, which is moved past it. */
bool dns_read_record(const DnsMessage *m, size_t *at, DnsRecord *ret);

/* Whether a message is the answer to a question. */
bool dns_answers(const DnsMessage *m, uint16_t id, const DnsMessage *question);

/* Calls `each` for every address that answers the message's question, at the end of its
 * chain of aliases, with the smallest time to live on the way to it. */
void dns_each_address(const DnsMessage *m,
                      void (*each)(void *opaque, const Ip *ip, uint32_t ttl),
                      void *opaque);

/* "7.0.5.10.in-addr.arpa" and "...ip6.arpa" (RFC 3596, 2.5): false: it is neither, or not
 * a whole address. */
bool dns_reverse_name(const char *name, Ip *ret);

/* ---- answers of our own ------------------------------------------------------------ */

typedef struct DnsReply {
    size_t len, limit;
    bool full; /* something did not fit */
    const DnsMessage *query;
    uint8_t bytes[DNS_MAX_UDP];
} DnsReply;

/* What the asker can take: RFC 6891, 6.2.3. */
size_t dns_size_of(const DnsMessage *query);

/* `query` may be without a question.  Records: answers first, then authority. */
void dns_reply_begin(DnsReply *r, const DnsMessage *query, unsigned rcode, bool own);
void dns_reply_address(DnsReply *r, const Ip *ip, uint32_t ttl);
void dns_reply_pointer(DnsReply *r, const char *name, uint32_t ttl);
/* In the authority section, for what there is not (RFC 2308, 3), or the answer to SOA. */
void dns_reply_soa(DnsReply *r, const char *domain, uint32_t ttl, bool answer);
/* Adds EDNS if the query had it.  What did not fit makes it a truncated one. */
void dns_reply_end(DnsReply *r);

/* The query to an upstream server, of our own making from what the asker's says; returns
 * its length. */
enum { DNS_MAX_QUERY = DNS_HEADER + DNS_MAX_QUESTION + 11 };
size_t dns_make_query(const DnsMessage *query, uint16_t id, uint8_t ret[DNS_MAX_QUERY]);
