/* DNS messages as others may write them, and as we do. */
#include "src/switch/dns_message.h"

#include <glib.h>

/* A message under construction. */
static uint8_t buf[4096];
static size_t len;

static void put(const void *bytes, size_t n)
{
    g_assert_cmpuint(len + n, <=, sizeof(buf));
    memcpy(buf + len, bytes, n);
    len += n;
}

static void u16(unsigned v)
{
    uint8_t b[] = {(uint8_t)(v >> 8), (uint8_t)v};

    put(b, 2);
}

static void name(const char *text)
{
    g_auto(GStrv) labels = g_strsplit(text, ".", -1);

    for (char **l = labels; *l && **l; l++) {
        uint8_t n = (uint8_t)strlen(*l);

        put(&n, 1);
        put(*l, n);
    }
    put("", 1);
}

static void header(unsigned flags, unsigned answers, unsigned additional)
{
    len = 0;
    u16(0x1234);
    u16(flags);
    u16(1);
    u16(answers);
    u16(0);
    u16(additional);
}

static void question(const char *text, unsigned type)
{
    name(text);
    u16(type);
    u16(DNS_CLASS_IN);
}

static void record(const char *owner, unsigned type, unsigned ttl, const void *data,
                   size_t n)
{
    name(owner);
    u16(type);
    u16(DNS_CLASS_IN);
    u16(ttl >> 16);
    u16(ttl & 0xffff);
    u16((unsigned)n);
    put(data, n);
}

static void alias(const char *owner, unsigned ttl, const char *to)
{
    size_t at;

    record(owner, DNS_CNAME, ttl, "", 0);
    at = len;
    name(to);
    buf[at - 1] = (uint8_t)(len - at);
}

/* ---- what is read --------------------------------------------------------------------
 */

static void a_question_is_read_in_lower_case(void)
{
    DnsMessage m;

    header(DNS_RD, 0, 1);
    question("Www.Example.ORG", DNS_AAAA);
    put("\0\0\x29\x10\0\0\0\x80\0\0\0", 11); /* EDNS, 4096, DO */
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_cmpstr(m.name, ==, "www.example.org");
    g_assert_cmpuint(m.type, ==, DNS_AAAA);
    g_assert_cmpuint(m.id, ==, 0x1234);
    g_assert_true(m.edns && m.dnssec_ok);
    g_assert_cmpuint(m.edns_size, ==, 4096);
    g_assert_cmpuint(dns_size_of(&m), ==, DNS_MAX_UDP);
}

static void bytes_that_are_no_letters_cannot_pass_for_dots(void)
{
    DnsMessage m;

    header(0, 0, 0);
    put("\11a.b\\c\0 \xff!\3org\0", 15);
    u16(DNS_A);
    u16(DNS_CLASS_IN);
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_cmpstr(m.name, ==, "a\\046b\\092c\\000\\032\\255!.org");
}

static void every_shorter_message_is_refused(void)
{
    DnsMessage m;

    header(0, 1, 0);
    question("example.org", DNS_A);
    record("example.org", DNS_A, 60, "\1\2\3\4", 4);
    g_assert_true(dns_parse(buf, len, &m));
    for (size_t n = 0; n < len; n++)
        g_assert_false(dns_parse(buf, n, &m));
}

/* The name's bytes in the question, all that there is after the header. */
static const struct {
    const char *what;
    const char *bytes;
    size_t n;
} bad_names[] = {
    {"points to itself", "\xc0\x0c\0\1\0\1", 6},
    {"points forward", "\xc0\x12\0\1\0\1\1a\0", 9},
    {"points into the header", "\xc0\2\0\1\0\1", 6},
    {"points to its own beginning", "\1a\xc0\x0c\0\1\0\1", 8},
    {"label of a type that is none", "\x40\0\1\0\1", 5},
    {"label of the other type", "\x80\0\1\0\1", 5},
    {"label goes past the end",
     "\x3f"
     "abc",
     4},
    {"has no end", "\1a\1b\1c", 6},
    {"pointer is cut off", "\1a\xc0", 3},
    {"type is cut off", "\1a\0\0\1", 5},
};

static void names_that_would_not_end_are_refused(void)
{
    DnsMessage m;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad_names); i++) {
        header(0, 0, 0);
        put(bad_names[i].bytes, bad_names[i].n);
        if (dns_parse(buf, len, &m))
            g_error("it %s", bad_names[i].what);
    }
}

static void names_of_more_than_255_bytes_are_refused(void)
{
    char text[64 * 5];
    DnsMessage m;

    memset(text, 'a', sizeof(text));
    for (unsigned i = 0; i < 4; i++)
        text[64 * i + 63] = '.';
    text[64 * 3 + 61] = 0; /* three labels of 63, and one of 61: 255 with lengths */
    header(0, 0, 0);
    question(text, DNS_A);
    g_assert_true(dns_parse(buf, len, &m));
    text[64 * 3 + 61] = 'a';
    text[64 * 3 + 62] = 0;
    header(0, 0, 0);
    question(text, DNS_A);
    g_assert_false(dns_parse(buf, len, &m));
}

/* In a record, pointers lead backwards: each has less to point to, so that a chain of
 * them ends; two that point to each other do not get there. */
static void pointers_in_records_only_lead_back(void)
{
    DnsMessage m;
    DnsRecord r;
    size_t at, first;

    header(DNS_QR, 2, 0);
    question("example.org", DNS_A);
    first = len;
    put("\3www\xc0\x0c", 6);
    put("\0\1\0\1\0\0\0\1\0\4\1\2\3\4", 14);
    put("\xc0", 1);
    put(&(uint8_t){(uint8_t)first}, 1);
    put("\0\1\0\1\0\0\0\1\0\4\1\2\3\4", 14);
    g_assert_true(dns_parse(buf, len, &m));
    at = m.question_end;
    g_assert_true(dns_read_record(&m, &at, &r));
    g_assert_true(dns_read_record(&m, &at, &r));
    g_assert_cmpstr(r.name, ==, "www.example.org");
    buf[first + 4] = 0xc0; /* the first one's name goes on at the second's, and so on */
    buf[first + 5] = (uint8_t)(first + 20);
    g_assert_false(dns_parse(buf, len, &m));
}

static void two_opt_records_are_refused(void)
{
    DnsMessage m;

    header(0, 0, 2);
    question("a.org", DNS_A);
    put("\0\0\x29\x10\0\0\0\0\0\0\0", 11);
    g_assert_false(dns_parse(buf, len, &m));
    put("\0\0\x29\x10\0\0\0\0\0\0\0", 11);
    g_assert_false(dns_parse(buf, len, &m));
}

static void an_answer_has_to_be_to_the_question(void)
{
    DnsMessage q, m;
    static uint8_t query[512];
    size_t n;

    header(DNS_RD, 0, 0);
    question("www.example.org", DNS_A);
    memcpy(query, buf, n = len);
    g_assert_true(dns_parse(query, n, &q));

    header(DNS_QR | DNS_RD, 0, 0);
    question("WWW.example.org", DNS_A);
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_true(dns_answers(&m, 0x1234, &q));
    g_assert_false(dns_answers(&m, 0x1235, &q));
    buf[2] &= 0x7f; /* a question */
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_false(dns_answers(&m, 0x1234, &q));

    header(DNS_QR, 0, 0);
    question("ww.example.org", DNS_A);
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_false(dns_answers(&m, 0x1234, &q));
    header(DNS_QR, 0, 0);
    question("www.example.org", DNS_AAAA);
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_false(dns_answers(&m, 0x1234, &q));
}

/* ---- addresses -----------------------------------------------------------------------
 */

static GString *seen;

static void see(void *opaque, const Ip *ip, uint32_t ttl)
{
    char text[IP_TEXT];

    g_string_append_printf(seen, "%s/%u ", ip_text(ip, text), ttl);
}

static void expect_addresses(const char *expect)
{
    DnsMessage m;

    g_assert_true(dns_parse(buf, len, &m));
    seen = g_string_new("");
    dns_each_address(&m, see, NULL);
    g_assert_cmpstr(seen->str, ==, expect);
    g_string_free(seen, TRUE);
}

static void aliases_are_followed_with_the_smallest_time(void)
{
    header(DNS_QR, 4, 0);
    question("www.example.org", DNS_A);
    record("edge.example.net", DNS_A, 300, "\xc0\0\2\1", 4); /* in no order */
    alias("cdn.example.net", 20, "edge.example.net");
    alias("www.example.org", 60, "cdn.example.net");
    record("edge.example.net", DNS_A, 10, "\xc0\0\2\2", 4);
    expect_addresses("192.0.2.1/20 192.0.2.2/10 ");
}

static void records_about_other_names_are_not_heard(void)
{
    header(DNS_QR, 3, 0);
    question("www.example.org", DNS_A);
    record("bank.example.com", DNS_A, 300, "\6\6\6\6", 4);
    record("www.example.org", DNS_A, 300, "\xc0\0\2\1", 4);
    record("org", DNS_A, 300, "\6\6\6\7", 4);
    expect_addresses("192.0.2.1/300 ");
}

static void aliases_in_a_circle_end(void)
{
    header(DNS_QR, 3, 0);
    question("a.org", DNS_A);
    alias("a.org", 60, "b.org");
    alias("b.org", 60, "a.org");
    record("c.org", DNS_A, 60, "\1\2\3\4", 4);
    expect_addresses("");
}

static void odd_addresses_are_not_heard(void)
{
    header(DNS_QR, 4, 0);
    question("a.org", DNS_A);
    record("a.org", DNS_A, 60, "\1\2\3", 3);
    record("a.org", DNS_AAAA, 60, "\0\0\0\0\0\0\0\0\0\0\xff\xff\1\2\3\4",
           16);                                        /* mapped */
    record("a.org", DNS_A, 0x80000000, "\1\2\3\4", 4); /* RFC 2181, 8: none at all */
    record("a.org", DNS_AAAA, 5, "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    expect_addresses("1.2.3.4/0 2001:db8::1/5 ");
}

static const struct {
    const char *name, *address; /* NULL: none */
} reverse[] = {
    {"7.0.5.10.in-addr.arpa", "10.5.0.7"},
    {"255.255.255.255.in-addr.arpa", "255.255.255.255"},
    {"256.0.5.10.in-addr.arpa", NULL},
    {"0.5.10.in-addr.arpa", NULL},
    {"1.7.0.5.10.in-addr.arpa", NULL},
    {"7.0.5.10.in-addr.arpa.org", NULL},
    {".0.5.10.in-addr.arpa", NULL},
    {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.0.0.d.f.ip6.arpa",
     "fd00:5::1"},
    {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.0.0.d.f.ip6.arpa", NULL},
    {"g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.0.0.d.f.ip6.arpa", NULL},
    {"", NULL},
};

static void reverse_names_are_whole_addresses(void)
{
    char text[IP_TEXT];
    Ip ip;

    for (unsigned i = 0; i < G_N_ELEMENTS(reverse); i++) {
        bool is = dns_reverse_name(reverse[i].name, &ip);

        g_assert_cmpstr(is ? ip_text(&ip, text) : NULL, ==, reverse[i].address);
    }
}

/* ---- what is made --------------------------------------------------------------------
 */

static void an_answer_of_ours_reads_as_it_was_meant(void)
{
    static uint8_t query[512];
    Ip v4, v6;
    DnsMessage q, m;
    DnsReply r;
    size_t n;

    ip_parse("10.5.0.7", &v4, NULL);
    ip_parse("fd00:5::7", &v6, NULL);
    header(DNS_RD, 0, 1);
    question("web.lan.internal", DNS_ANY);
    put("\0\0\x29\x10\0\0\0\0\0\0\0", 11);
    memcpy(query, buf, n = len);
    g_assert_true(dns_parse(query, n, &q));
    dns_reply_begin(&r, &q, DNS_OK, true);
    dns_reply_address(&r, &v4, 30);
    dns_reply_address(&r, &v6, 30);
    dns_reply_pointer(&r, "web.lan.internal", 30);
    dns_reply_soa(&r, "lan.internal", 5, false);
    dns_reply_end(&r);
    memcpy(buf, r.bytes, len = r.len);
    g_assert_true(dns_parse(buf, len, &m));
    g_assert_true(dns_answers(&m, 0x1234, &q));
    g_assert_cmpuint(m.flags, ==, DNS_QR | DNS_AA | DNS_RD | DNS_RA);
    g_assert_true(m.edns);
    g_assert_cmpuint(m.n_records[0], ==, 3);
    g_assert_cmpuint(m.n_records[1], ==, 1);
    expect_addresses("10.5.0.7/30 fd00:5::7/30 ");
}

static void what_does_not_fit_is_said_to_be_cut_off(void)
{
    static uint8_t query[512];
    DnsMessage q, m;
    DnsReply r;
    Ip ip = ip_from_v4(0x0a050007);
    size_t n;

    header(DNS_RD, 0, 0);
    question("web.lan.internal", DNS_A);
    memcpy(query, buf, n = len);
    g_assert_true(dns_parse(query, n, &q));
    dns_reply_begin(&r, &q, DNS_OK, true);
    for (unsigned i = 0; i < 40; i++)
        dns_reply_address(&r, &ip, 30);
    dns_reply_end(&r);
    g_assert_cmpuint(r.len, ==, n);
    g_assert_true(dns_parse(r.bytes, r.len, &m));
    g_assert_true(m.flags & DNS_TC);
    g_assert_cmpuint(m.n_records[0], ==, 0);
}

static void a_query_of_ours_has_the_askers_question_only(void)
{
    static uint8_t query[512];
    uint8_t made[DNS_MAX_QUERY];
    DnsMessage q, m;
    size_t n;

    header(DNS_RD | DNS_AA | 0x40, 0, 1);
    question("www.example.org", DNS_A);
    put("\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08"
        "12345678",
        23); /* a cookie */
    memcpy(query, buf, n = len);
    g_assert_true(dns_parse(query, n, &q));
    n = dns_make_query(&q, 0xbeef, made);
    g_assert_true(dns_parse(made, n, &m));
    g_assert_cmpuint(m.id, ==, 0xbeef);
    g_assert_cmpuint(m.flags, ==, DNS_RD);
    g_assert_true(m.dnssec_ok);
    g_assert_cmpuint(n, ==, q.question_end + 11);
    g_assert_cmpuint(m.edns_size, ==, DNS_MAX_UDP);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(fn) g_test_add_func("/dns_message/" #fn, fn)
    TEST(a_question_is_read_in_lower_case);
    TEST(bytes_that_are_no_letters_cannot_pass_for_dots);
    TEST(every_shorter_message_is_refused);
    TEST(names_that_would_not_end_are_refused);
    TEST(names_of_more_than_255_bytes_are_refused);
    TEST(pointers_in_records_only_lead_back);
    TEST(two_opt_records_are_refused);
    TEST(an_answer_has_to_be_to_the_question);
    TEST(aliases_are_followed_with_the_smallest_time);
    TEST(records_about_other_names_are_not_heard);
    TEST(aliases_in_a_circle_end);
    TEST(odd_addresses_are_not_heard);
    TEST(reverse_names_are_whole_addresses);
    TEST(an_answer_of_ours_reads_as_it_was_meant);
    TEST(what_does_not_fit_is_said_to_be_cut_off);
    TEST(a_query_of_ours_has_the_askers_question_only);
    return g_test_run();
}
