/* DNS messages (dns_message.h): RFCs 1035, 2308, 3596, 6891. */
#include "src/switch/dns_message.h"
#include "util/bits.h"

#include <ctype.h>
#include <stdio.h>

enum {
    POINTER = 0xc0, /* a label's two upper bits, RFC 1035, 4.1.4 */
    RECORD_HEADER = 10,
    OPT_DO = 0x8000,
    MAX_ALIASES = 16,
    SOA_NUMBERS = 20,
};

/* ---- reading ------------------------------------------------------------------------
 */

static size_t put_text(char *text, uint8_t c)
{
    if (c <= ' ' || c > '~' || c == '.' || c == '\\')
        return (size_t)sprintf(text, "\\%03u", c);
    *text = g_ascii_tolower((char)c);
    return 1;
}

bool dns_read_name(const uint8_t *bytes, size_t len, size_t *at, char text[DNS_NAME_TEXT])
{
    size_t from = *at, low = *at, wire = 1, out = 0;
    bool jumped = false;

    for (;;) {
        uint8_t label;

        if (from >= len)
            return false;
        label = bytes[from];
        if (label >= POINTER) {
            size_t to;

            if (from + 2 > len)
                return false;
            to = load_be16(bytes + from) & 0x3fff;
            /* Only ever to what stands before all that was read, so never from a
             * question's name: that can be copied as it is. */
            if (to >= low || to < DNS_HEADER)
                return false;
            if (!jumped)
                *at = from + 2;
            jumped = true;
            from = low = to;
            continue;
        }
        if (label > 63 || from + 1 + label > len)
            return false;
        if (label == 0)
            break;
        wire += label + 1u;
        if (wire > DNS_MAX_NAME)
            return false;
        if (out)
            text[out++] = '.';
        for (unsigned i = 0; i < label; i++)
            out += put_text(text + out, bytes[from + 1 + i]);
        from += 1u + label;
    }
    text[out] = 0;
    if (!jumped)
        *at = from + 1;
    return true;
}

bool dns_read_record(const DnsMessage *m, size_t *at, DnsRecord *ret)
{
    size_t from = *at;
    const uint8_t *p;

    if (!dns_read_name(m->bytes, m->len, &from, ret->name) ||
        m->len - from < RECORD_HEADER)
        return false;
    p = m->bytes + from;
    ret->type = load_be16(p);
    ret->class_ = load_be16(p + 2);
    ret->ttl = load_be32(p + 4);
    ret->data_len = load_be16(p + 8);
    ret->data = from + RECORD_HEADER;
    if (ret->data_len > m->len - ret->data)
        return false;
    if (ret->ttl > INT32_MAX) /* RFC 2181, 8 */
        ret->ttl = 0;
    *at = ret->data + ret->data_len;
    return true;
}

/* Looks for the OPT record; false: there are two, or the records are not what they say.
 */
static bool find_edns(DnsMessage *m)
{
    unsigned before = m->n_records[0] + m->n_records[1], n = before + m->n_records[2];
    size_t at = m->question_end;
    DnsRecord r;

    for (unsigned i = 0; i < MIN(n, DNS_MAX_RECORDS); i++) {
        if (!dns_read_record(m, &at, &r))
            return m->flags & DNS_TC; /* cut off where it is said to be */
        if (r.type != DNS_OPT || i < before)
            continue;
        if (m->edns || r.name[0])
            return false;
        m->edns = true;
        m->edns_size = r.class_;
        /* The TTL's bytes, which reading may have put right: RFC 6891, 6.1.3. */
        m->edns_version = m->bytes[r.data - 5];
        m->dnssec_ok = load_be16(m->bytes + r.data - 4) & OPT_DO;
    }
    return true;
}

bool dns_parse(const uint8_t *bytes, size_t len, DnsMessage *ret)
{
    size_t at = DNS_HEADER;

    memset(ret, 0, offsetof(DnsMessage, name));
    ret->name[0] = 0;
    ret->type = ret->class_ = 0;
    ret->question_end = 0;
    ret->edns = ret->dnssec_ok = ret->whole = false;
    ret->edns_version = 0;
    ret->edns_size = 0;
    if (len < DNS_HEADER)
        return false;
    ret->bytes = bytes;
    ret->len = len;
    ret->id = load_be16(bytes);
    ret->flags = load_be16(bytes + 2);
    ret->n_questions = load_be16(bytes + 4);
    for (unsigned i = 0; i < 3; i++)
        ret->n_records[i] = load_be16(bytes + 6 + 2 * i);
    if (ret->n_questions != 1 || !dns_read_name(bytes, len, &at, ret->name) ||
        len - at < 4)
        return false;
    ret->type = load_be16(bytes + at);
    ret->class_ = load_be16(bytes + at + 2);
    ret->question_end = at + 4;
    return find_edns(ret);
}

bool dns_answers(const DnsMessage *m, uint16_t id, const DnsMessage *question)
{
    return (m->flags & DNS_QR) && (m->flags & DNS_OPCODE) == 0 && m->id == id &&
           m->type == question->type && m->class_ == question->class_ &&
           strcmp(m->name, question->name) == 0;
}

/* ---- what an answer says -------------------------------------------------------------
 */

/* The alias that `name` has in the answer; false: none. */
static bool find_alias(const DnsMessage *m, char name[DNS_NAME_TEXT], uint32_t *ttl)
{
    size_t at = m->question_end;
    DnsRecord r;

    for (unsigned i = 0; i < MIN(m->n_records[0], DNS_MAX_RECORDS); i++) {
        size_t data;

        if (!dns_read_record(m, &at, &r))
            return false;
        if (r.type != DNS_CNAME || r.class_ != DNS_CLASS_IN || strcmp(r.name, name) != 0)
            continue;
        data = r.data;
        *ttl = MIN(*ttl, r.ttl);
        return dns_read_name(m->bytes, m->len, &data, name) &&
               data == r.data + r.data_len;
    }
    return false;
}

static bool address_of(const DnsMessage *m, const DnsRecord *r, Ip *ret)
{
    if (r->class_ != DNS_CLASS_IN)
        return false;
    if (r->type == DNS_A && r->data_len == 4)
        *ret = ip_from_v4_bytes(m->bytes + r->data);
    else if (r->type == DNS_AAAA && r->data_len == sizeof(ret->b))
        memcpy(ret->b, m->bytes + r->data, sizeof(ret->b));
    else
        return false;
    /* A mapped address in an AAAA record would be taken for an IPv4 one. */
    return r->type == DNS_A || !ip_is_v4(ret);
}

void dns_each_address(const DnsMessage *m,
                      void (*each)(void *opaque, const Ip *ip, uint32_t ttl),
                      void *opaque)
{
    char name[DNS_NAME_TEXT];
    uint32_t ttl = UINT32_MAX;
    size_t at = m->question_end;
    DnsRecord r;
    Ip ip;

    strcpy(name, m->name);
    for (unsigned i = 0; i < MAX_ALIASES && find_alias(m, name, &ttl); i++)
        ;
    for (unsigned i = 0; i < MIN(m->n_records[0], DNS_MAX_RECORDS); i++) {
        if (!dns_read_record(m, &at, &r))
            return;
        if (strcmp(r.name, name) == 0 && address_of(m, &r, &ip))
            each(opaque, &ip, MIN(ttl, r.ttl));
    }
}

static bool reverse_v4(const char *name, Ip *ret)
{
    uint8_t b[4];

    for (int i = 3; i >= 0; i--) {
        unsigned value = 0, digits = 0;

        for (; isdigit((unsigned char)*name) && digits < 3; digits++)
            value = value * 10 + (unsigned)(*name++ - '0');
        if (digits == 0 || value > 255 || *name++ != '.')
            return false;
        b[i] = (uint8_t)value;
    }
    *ret = ip_from_v4_bytes(b);
    return strcmp(name, "in-addr.arpa") == 0;
}

static bool reverse_v6(const char *name, Ip *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (int i = 31; i >= 0; i--) {
        int digit = g_ascii_xdigit_value(name[0]);

        if (digit < 0 || name[1] != '.')
            return false;
        ret->b[i / 2] |= (uint8_t)(i % 2 ? digit : digit << 4);
        name += 2;
    }
    return strcmp(name, "ip6.arpa") == 0;
}

bool dns_reverse_name(const char *name, Ip *ret)
{
    return reverse_v4(name, ret) || reverse_v6(name, ret);
}

/* ---- making --------------------------------------------------------------------------
 */

size_t dns_size_of(const DnsMessage *query)
{
    if (query->whole)
        return DNS_MAX_UDP;
    return query->edns ? CLAMP((size_t)query->edns_size, DNS_PLAIN_UDP, DNS_MAX_UDP)
                       : DNS_PLAIN_UDP;
}

/* The wire form of a name; 0: it has none. */
static size_t write_name(const char *name, uint8_t ret[DNS_MAX_NAME])
{
    size_t n = 0;

    while (*name) {
        size_t label = 0, at = n++;

        for (; *name && *name != '.'; label++) {
            unsigned c = (uint8_t)*name++;

            if (c == '\\' && isdigit((unsigned char)name[0]) &&
                isdigit((unsigned char)name[1]) && isdigit((unsigned char)name[2])) {
                c = (unsigned)((name[0] - '0') * 100 + (name[1] - '0') * 10 + name[2] -
                               '0');
                name += 3;
            }
            if (c > 255 || n + 1 >= DNS_MAX_NAME)
                return 0;
            ret[n++] = (uint8_t)c;
        }
        if (label == 0 || label > 63)
            return 0;
        ret[at] = (uint8_t)label;
        if (*name == '.')
            name++;
    }
    ret[n++] = 0;
    return n;
}

/* Room at the end, left for EDNS; NULL: there is none. */
static uint8_t *reply_room(DnsReply *r, size_t len)
{
    uint8_t *at = r->bytes + r->len;

    if (r->full || len > r->limit - r->len) {
        r->full = true;
        return NULL;
    }
    r->len += len;
    return at;
}

static void count(DnsReply *r, unsigned section)
{
    uint8_t *p = r->bytes + 6 + 2 * section;

    store_be16(p, load_be16(p) + 1u);
}

void dns_reply_begin(DnsReply *r, const DnsMessage *query, unsigned rcode, bool own)
{
    uint8_t *p = r->bytes;
    unsigned flags = DNS_QR | DNS_RA | (query->flags & (DNS_OPCODE | DNS_RD | DNS_CD));
    size_t question;

    r->query = query;
    r->full = false;
    r->limit = dns_size_of(query) - (query->edns ? 11 : 0);
    r->len = DNS_HEADER;
    memset(p, 0, DNS_HEADER);
    store_be16(p, query->id);
    store_be16(p + 2, flags | (own ? DNS_AA : 0) | (rcode & DNS_RCODE));
    if (!query->question_end)
        return;
    /* The first name in a message has nothing before it to point to: it is as it is. */
    question = query->question_end - DNS_HEADER;
    memcpy(p + DNS_HEADER, query->bytes + DNS_HEADER, question);
    r->len += question;
    store_be16(p + 4, 1);
    if (rcode > DNS_RCODE) /* its upper bits are EDNS's */
        r->bytes[3] &= (uint8_t)~DNS_RCODE;
}

/* A record about the name that was asked for. */
static uint8_t *put_record(DnsReply *r, unsigned type, uint32_t ttl, size_t data_len)
{
    uint8_t *p = reply_room(r, 2 + RECORD_HEADER + data_len);

    if (!p)
        return NULL;
    store_be16(p, POINTER << 8 | DNS_HEADER);
    store_be16(p + 2, type);
    store_be16(p + 4, DNS_CLASS_IN);
    store_be32(p + 6, ttl);
    store_be16(p + 10, (unsigned)data_len);
    count(r, 0);
    return p + 2 + RECORD_HEADER;
}

void dns_reply_address(DnsReply *r, const Ip *ip, uint32_t ttl)
{
    bool v4 = ip_is_v4(ip);
    size_t len = v4 ? 4 : sizeof(ip->b);
    uint8_t *data = put_record(r, v4 ? DNS_A : DNS_AAAA, ttl, len);

    if (data)
        memcpy(data, ip->b + sizeof(ip->b) - len, len);
}

void dns_reply_pointer(DnsReply *r, const char *name, uint32_t ttl)
{
    uint8_t wire[DNS_MAX_NAME], *data;
    size_t len = write_name(name, wire);

    data = len ? put_record(r, DNS_PTR, ttl, len) : NULL;
    if (data)
        memcpy(data, wire, len);
}

void dns_reply_soa(DnsReply *r, const char *domain, uint32_t ttl, bool answer)
{
    static const uint8_t mname[] = "\7gateway", rname[] = "\12hostmaster";
    uint8_t wire[DNS_MAX_NAME], *p;
    size_t len = write_name(domain, wire), data_len;
    unsigned owner;
    const uint32_t numbers[] = {1, 3600, 600, 86400, ttl};

    data_len = sizeof(mname) - 1 + sizeof(rname) - 1 + 2 * 2 + SOA_NUMBERS;
    p = len ? reply_room(r, len + RECORD_HEADER + data_len) : NULL;
    if (!p)
        return;
    memcpy(p, wire, len);
    owner = (unsigned)(POINTER << 8 | (p - r->bytes)); /* where both names go on */
    p += len;
    store_be16(p, DNS_SOA);
    store_be16(p + 2, DNS_CLASS_IN);
    store_be32(p + 4, ttl);
    store_be16(p + 8, (unsigned)data_len);
    p += RECORD_HEADER;
    memcpy(p, mname, sizeof(mname) - 1);
    p += sizeof(mname) - 1;
    store_be16(p, owner);
    memcpy(p + 2, rname, sizeof(rname) - 1);
    p += 2 + sizeof(rname) - 1;
    store_be16(p, owner);
    for (unsigned i = 0; i < G_N_ELEMENTS(numbers); i++)
        store_be32(p + 2 + 4 * i, numbers[i]);
    count(r, answer ? 0 : 1);
}

static size_t put_edns(uint8_t p[11], unsigned extended_rcode, bool dnssec_ok)
{
    memset(p, 0, 11);
    store_be16(p + 1, DNS_OPT);
    store_be16(p + 3, DNS_MAX_UDP);
    p[5] = (uint8_t)extended_rcode;
    store_be16(p + 7, dnssec_ok ? OPT_DO : 0);
    return 11;
}

void dns_reply_end(DnsReply *r)
{
    const DnsMessage *q = r->query;

    if (r->full) {
        r->len = q->question_end ? q->question_end : DNS_HEADER;
        memset(r->bytes + 6, 0, 6);
        r->bytes[2] |= DNS_TC >> 8;
    }
    if (!q->edns)
        return;
    r->len += put_edns(r->bytes + r->len, q->edns_version ? DNS_BADVERS >> 4 : 0,
                       q->dnssec_ok);
    count(r, 2);
}

size_t dns_make_query(const DnsMessage *query, uint16_t id, uint8_t ret[DNS_MAX_QUERY])
{
    size_t question = query->question_end - DNS_HEADER, len = DNS_HEADER + question;

    memset(ret, 0, DNS_HEADER);
    store_be16(ret, id);
    store_be16(ret + 2, query->flags & (DNS_RD | DNS_CD));
    store_be16(ret + 4, 1);
    memcpy(ret + DNS_HEADER, query->bytes + DNS_HEADER, question);
    if (query->edns) {
        store_be16(ret + 10, 1);
        len += put_edns(ret + len, 0, query->dnssec_ok);
    }
    return len;
}
