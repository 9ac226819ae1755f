/* Checksums and segments, judged by code that is too slow to be wrong. */
#include "packet/offload.h"

#include <glib.h>
#include <netinet/in.h>
#include <string.h>

#include "packet/packet.h"

enum { FIN = 1, PSH = 8, ACK = 16, CWR = 0x80, MSS = 1000 };

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* RFC 1071, word for word: 0 if a checksum is in there and right. */
static uint16_t slow_sum(const uint8_t *p, size_t len, uint32_t begin)
{
    uint64_t sum = begin;

    for (size_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint64_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void the_sum_is_that_of_the_rfc(void)
{
    uint8_t bytes[600];
    GRand *r = g_rand_new_with_seed(1);

    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = i % 3 ? (uint8_t)g_rand_int(r) : 0xff;
    for (unsigned at = 0; at < 9; at++) {
        for (size_t len = 0; len < 580; len++) {
            size_t first = len / 4 * 2;
            uint32_t parts = checksum_add(0, bytes + at, first);
            uint16_t sum = checksum_end(
                checksum_add(parts, bytes + at + first, len - first));

            g_assert_cmphex(GUINT16_FROM_BE(sum), ==, slow_sum(bytes + at, len, 0));
        }
    }
    g_rand_free(r);
}

/* ---- segments -----------------------------------------------------------------------
 */

typedef struct Big {
    VnetHdr hdr;
    size_t net, tcp, payload, len;
    bool v6, udp;
    uint8_t data[1 << 16];
} Big;

/* A segment of `payload` bytes, with options in IP and TCP, and its last bytes beyond
 * what the headers' lengths of 16 bits can be odd about. */
static void make_big(Big *b, bool v6, bool tag, bool extension, size_t payload)
{
    uint8_t *p = b->data;

    memset(b, 0, sizeof(*b));
    b->v6 = v6;
    memcpy(p, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    p += 12;
    if (tag) {
        memcpy(p, "\x81\x00\x00\x07", 4);
        p += 4;
    }
    put16(p, v6 ? 0x86dd : 0x0800);
    p += 2;
    b->net = (size_t)(p - b->data);
    b->tcp = b->net + (v6 ? 40 : 24) + (extension ? 8 : 0);
    b->payload = b->tcp + 32;
    b->len = b->payload + payload;
    if (v6) {
        p[0] = 0x60;
        put16(p + 4, b->len - b->net - 40);
        p[6] = extension ? IPPROTO_DSTOPTS : IPPROTO_TCP;
        p[7] = 64;
        p[8] = p[24] = 0xfd;
        p[23] = 1;
        p[39] = 2;
        if (extension)
            memcpy(p + 40, "\x06\x00\x01\x04\0\0\0\0", 8);
    } else {
        p[0] = 0x46 + (extension ? 2 : 0);
        put16(p + 2, b->len - b->net);
        put16(p + 4, 0xfffe); /* the identification wraps */
        p[6] = 0x40;
        p[8] = 64;
        p[9] = IPPROTO_TCP;
        memcpy(p + 12, "\x0a\x05\x00\x07\x0a\x05\x00\x08\x01\x01\x01\x00", 12);
    }
    p = b->data + b->tcp;
    put16(p, 1000);
    put16(p + 2, 80);
    memcpy(p + 4, "\xff\xff\xff\x00\x12\x34\x56\x78", 8);
    p[12] = 8 << 4;
    p[13] = CWR | ACK | PSH | FIN;
    memcpy(p + 20, "\1\1\x08\x0a\0\0\0\1\0\0\0\2", 12);
    for (size_t i = 0; i < payload; i++)
        b->data[b->payload + i] = (uint8_t)(i * 7 + i / 256);
    b->hdr = (VnetHdr){
        .flags = VNET_NEEDS_CSUM,
        .gso_type = (v6 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4) | VNET_GSO_ECN,
        .hdr_len = 3, /* a lie, of no consequence */
        .gso_size = MSS,
        .csum_start = (uint16_t)b->tcp,
        .csum_offset = 16,
    };
}

/* Datagrams of MSS bytes, one after the other, with one header. */
static void make_uso(Big *b, bool v6, bool tag, bool extension, size_t payload)
{
    uint8_t *ip, *udp;

    make_big(b, v6, tag, extension, payload);
    ip = b->data + b->net;
    udp = b->data + b->tcp;
    b->udp = true;
    memmove(udp + 8, b->data + b->payload, payload);
    b->payload = b->tcp + 8;
    b->len = b->payload + payload;
    if (v6) {
        put16(ip + 4, b->len - b->net - 40);
        ip[extension ? 40 : 6] = IPPROTO_UDP;
    } else {
        put16(ip + 2, b->len - b->net);
        ip[9] = IPPROTO_UDP;
    }
    put16(udp + 4, b->len - b->tcp);
    put16(udp + 6, 0xdead); /* whatever is where the checksum will be */
    b->hdr.gso_type = VNET_GSO_UDP_L4;
    b->hdr.csum_offset = 6;
}

/* The sum of pseudo header and segment: 0 if right. */
static uint16_t l4_sum(const Big *b, const uint8_t *frame, size_t len)
{
    const uint8_t *ip = frame + b->net;
    size_t n = len - b->tcp;
    uint32_t sum = (b->udp ? IPPROTO_UDP : IPPROTO_TCP) + (uint32_t)n;

    for (unsigned i = b->v6 ? 8 : 12; i < (b->v6 ? 40 : 20); i += 2)
        sum += be16(ip + i);
    return slow_sum(frame + b->tcp, n, sum);
}

typedef struct Seen {
    const Big *big;
    size_t bytes;
    unsigned n, stop_after;
} Seen;

static void look_at_tcp(const Seen *s, const uint8_t *tcp, bool last)
{
    g_assert_cmphex((uint32_t)be16(tcp + 4) << 16 | be16(tcp + 6), ==,
                    0xffffff00 + (uint32_t)s->bytes);
    g_assert_cmphex(tcp[13], ==, ACK | (s->n ? 0 : CWR) | (last ? PSH | FIN : 0));
    g_assert_cmpmem(tcp + 20, 12, s->big->data + s->big->tcp + 20, 12);
}

static bool look(void *opaque, const uint8_t *frame, size_t len)
{
    Seen *s = opaque;
    const Big *b = s->big;
    const uint8_t *ip = frame + b->net, *l4 = frame + b->tcp;
    size_t here = len - b->payload, whole = b->len - b->payload;
    bool last = s->bytes + here == whole;

    g_assert_cmpuint(here, ==, MIN(whole - s->bytes, MSS));
    g_assert_cmpmem(frame, b->net, b->data, b->net);
    g_assert_cmpmem(frame + b->payload, here, b->data + b->payload + s->bytes, here);
    if (b->v6) {
        g_assert_cmpuint(be16(ip + 4), ==, len - b->net - 40);
    } else {
        g_assert_cmpuint(be16(ip + 2), ==, len - b->net);
        g_assert_cmphex(be16(ip + 4), ==, (0xfffe + s->n) & 0xffff);
        g_assert_cmphex(slow_sum(ip, b->tcp - b->net, 0), ==, 0);
    }
    g_assert_cmpmem(l4, 4, b->data + b->tcp, 4); /* ports */
    if (b->udp)
        g_assert_cmpuint(be16(l4 + 4), ==, len - b->tcp);
    else
        look_at_tcp(s, l4, last);
    g_assert_cmphex(l4_sum(b, frame, len), ==, 0);
    s->bytes += here;
    s->n++;
    return s->n != s->stop_after;
}

static void every_piece_is_a_whole_frame_with_its_own_headers(void)
{
    static const size_t payloads[] = {1001, 1999, 2000, 2001, 33333, 65000};
    g_autofree Big *b = g_new(Big, 1), *before = g_new(Big, 1);
    g_autofree uint8_t *scratch = g_malloc(VNET_SCRATCH);

    for (unsigned i = 0; i < G_N_ELEMENTS(payloads) * 16; i++) {
        size_t payload = payloads[i / 16];
        Seen seen = {.big = b};

        (i & 8 ? make_uso : make_big)(b, i & 1, i & 2, i & 4, payload);
        *before = *b;
        g_assert_true(vnet_hdr_valid(&b->hdr, b->data, b->len));
        vnet_segment(&b->hdr, b->data, b->len, scratch, look, &seen);
        g_assert_cmpuint(seen.bytes, ==, payload);
        g_assert_cmpuint(seen.n, ==, (payload + MSS - 1) / MSS);
        g_assert_cmpmem(b, sizeof(*b), before, sizeof(*b));
    }
}

static bool within(void *opaque, const uint8_t *frame, size_t len)
{
    unsigned *n = opaque;

    g_assert_cmpuint(len, >=, ETH_HEADER);
    g_assert_cmpuint(len, <=, VNET_SCRATCH);
    (*n)++;
    return true;
}

/* Linux sends up to 128 datagrams at once, of any size (UDP_SEGMENT). */
static void small_datagrams_are_cut_and_not_too_many(void)
{
    g_autofree Big *b = g_new(Big, 1);
    g_autofree uint8_t *scratch = g_malloc(VNET_SCRATCH);
    unsigned n = 0;

    make_uso(b, true, false, false, 128);
    b->hdr.gso_size = 1;
    g_assert_true(vnet_hdr_valid(&b->hdr, b->data, b->len));
    vnet_segment(&b->hdr, b->data, b->len, scratch, within, &n);
    g_assert_cmpuint(n, ==, 128);
    make_uso(b, true, false, false, 129);
    b->hdr.gso_size = 1;
    g_assert_false(vnet_hdr_valid(&b->hdr, b->data, b->len));
}

static void who_has_enough_gets_no_more(void)
{
    g_autofree Big *b = g_new(Big, 1);
    g_autofree uint8_t *scratch = g_malloc(VNET_SCRATCH);
    Seen seen = {.big = b, .stop_after = 3};

    make_big(b, false, false, false, 10000);
    vnet_segment(&b->hdr, b->data, b->len, scratch, look, &seen);
    g_assert_cmpuint(seen.n, ==, 3);
}

static bool keep(void *opaque, const uint8_t *frame, size_t len)
{
    GByteArray *kept = opaque;

    g_assert_cmpuint(kept->len, ==, 0);
    g_byte_array_append(kept, frame, (guint)len);
    return true;
}

/* As a driver leaves it: the pseudo header's sum is where the checksum will be. */
static void leave_checksum(Big *b)
{
    size_t n = b->len - b->tcp;
    uint32_t sum = IPPROTO_TCP + (uint32_t)n;

    for (unsigned i = b->v6 ? 8 : 12; i < (b->v6 ? 40 : 20); i += 2)
        sum += be16(b->data + b->net + i);
    put16(b->data + b->tcp + 16, (uint16_t)~slow_sum(NULL, 0, sum));
    b->hdr.gso_type = VNET_GSO_NONE;
}

static void a_checksum_that_was_left_is_filled_in(void)
{
    g_autofree Big *b = g_new(Big, 1);
    g_autofree uint8_t *scratch = g_malloc(VNET_SCRATCH);

    for (unsigned i = 0; i < 8; i++) {
        GByteArray *kept = g_byte_array_new();

        make_big(b, i & 1, i & 2, false, i & 4 ? 777 : 0);
        leave_checksum(b);
        vnet_segment(&b->hdr, b->data, b->len, scratch, keep, kept);
        g_assert_cmpuint(kept->len, ==, b->len);
        g_assert_cmphex(l4_sum(b, kept->data, kept->len), ==, 0);
        g_assert_cmphex(l4_sum(b, b->data, b->len), !=, 0); /* it is nobody else's */

        vnet_finish_checksum(&b->hdr, b->data, b->len);
        g_assert_cmphex(l4_sum(b, b->data, b->len), ==, 0);
        g_assert_cmphex(b->hdr.flags, ==, 0);
        g_byte_array_free(kept, TRUE);
    }
}

static void a_checksum_is_never_zero(void)
{
    uint8_t frame[ETH_HEADER + 8] = {0};
    VnetHdr hdr = {.flags = VNET_NEEDS_CSUM, .csum_start = ETH_HEADER, .csum_offset = 6};

    memset(frame + ETH_HEADER, 0xff, 2);
    vnet_finish_checksum(&hdr, frame, sizeof(frame));
    g_assert_cmphex(be16(frame + ETH_HEADER + 6), ==, 0xffff);
}

/* ---- lies ---------------------------------------------------------------------------
 */

static void headers_that_cannot_be_meant_are_refused(void)
{
    g_autofree Big *b = g_new(Big, 1);
    VnetHdr h;

    make_big(b, false, false, false, 4850); /* 0x132a bytes of IP */
#define REFUSED(change)                                                                  \
    do {                                                                                 \
        h = b->hdr;                                                                      \
        change;                                                                          \
        g_assert_false(vnet_hdr_valid(&h, b->data, b->len));                             \
    } while (0)
    REFUSED(h.csum_start = 13);
    REFUSED(h.csum_start = (uint16_t)(b->len - 17));
    REFUSED(h.csum_start = 0xffff; h.csum_offset = 0xffff);
    REFUSED(h.csum_offset = 6);
    REFUSED(h.gso_size = 0);
    REFUSED(h.gso_size = 31);
    REFUSED(h.flags = 0);
    REFUSED(h.gso_type = VNET_GSO_TCPV6);
    REFUSED(h.gso_type = 3);
    REFUSED(h.gso_type = VNET_GSO_ECN);
    REFUSED(h.gso_type = VNET_GSO_UDP_L4);
    REFUSED(h.csum_start--);
    h = b->hdr;
    g_assert_false(vnet_hdr_valid(&h, b->data, 13));
    g_assert_false(vnet_hdr_valid(&h, b->data, b->payload - 1));
    g_assert_false(vnet_hdr_valid(&h, b->data, b->len - 1));

#define LIES(at, value)                                                                  \
    do {                                                                                 \
        uint8_t was = b->data[at];                                                       \
        g_assert_true(vnet_hdr_valid(&b->hdr, b->data, b->len));                         \
        b->data[at] = (value);                                                           \
        g_assert_false(vnet_hdr_valid(&b->hdr, b->data, b->len));                        \
        b->data[at] = was;                                                               \
    } while (0)
    LIES(b->net, 0x44); /* IP header of 16 bytes */
    LIES(b->net, 0x66); /* no IPv4 */
    LIES(b->net + 9, IPPROTO_UDP);
    LIES(b->net + 6, 0x20);    /* a fragment */
    LIES(b->net + 2, 0xff);    /* longer than the frame */
    LIES(b->net + 2, 0);       /* ends before TCP does */
    LIES(b->tcp + 12, 4 << 4); /* TCP header of 16 bytes */
    make_uso(b, false, false, false, 4850);
    REFUSED(h.gso_type |= VNET_GSO_ECN);
    REFUSED(h.gso_type = VNET_GSO_TCPV4);
    REFUSED(h.csum_offset = 16);
    REFUSED(h.gso_size = 0);
    REFUSED(h.gso_size = 37); /* 132 datagrams */
    REFUSED(h.flags = 0);
    LIES(b->net + 9, IPPROTO_TCP);
    LIES(b->net + 6, 0x20);
    LIES(b->net - 1, 0xdd); /* neither IPv4 nor IPv6 */
    LIES(b->net + 2, 0);
    make_big(b, true, false, true, 5000);
    LIES(b->net + 6, IPPROTO_FRAGMENT);
    LIES(b->net + 40, IPPROTO_NONE);
    LIES(b->net + 41, 255); /* options beyond the frame */
}

/* Frames with bytes turned over, in memory that ends where they end: what is believed
 * can be cut, and into a bounded number of pieces. */
static void no_lie_reaches_beyond_the_frame(void)
{
    g_autofree Big *b = g_new(Big, 1);
    g_autofree uint8_t *scratch = g_malloc(VNET_SCRATCH);
    GRand *r = g_rand_new_with_seed(6);
    unsigned believed = 0;

    for (unsigned i = 0; i < 20000; i++) {
        g_autofree uint8_t *exact = NULL;
        size_t len;
        unsigned n = 0;

        (i & 8 ? make_uso : make_big)(b, i & 1, i & 2, i & 4,
                                      (size_t)g_rand_int_range(r, 0, 3000));
        for (int k = g_rand_int_range(r, 0, 3); k; k--)
            b->data[g_rand_int_range(r, 12, (int)b->payload)] = (uint8_t)g_rand_int(r);
        for (int k = g_rand_int_range(r, 0, 2); k; k--)
            ((uint8_t *)&b->hdr)[g_rand_int_range(r, 0, sizeof(b->hdr))] = (uint8_t)
                g_rand_int(r);
        len = i % 5 ? b->len : (size_t)g_rand_int_range(r, 0, (int)b->len + 1);
        exact = g_malloc(len ? len : 1);
        memcpy(exact, b->data, len);
        if (!vnet_hdr_valid(&b->hdr, exact, len))
            continue;
        believed++;
        vnet_segment(&b->hdr, exact, len, scratch, within, &n);
        g_assert_cmpuint(n, >=, 1);
        g_assert_cmpuint(n, <=, b->udp ? MAX(128, 1 + len / 32) : 1 + len / 32);
        vnet_finish_checksum(&b->hdr, exact, len);
    }
    g_assert_cmpuint(believed, >, 2000);
    g_rand_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/offload/the_sum_is_that_of_the_rfc", the_sum_is_that_of_the_rfc);
    g_test_add_func("/offload/every_piece_is_a_whole_frame_with_its_own_headers",
                    every_piece_is_a_whole_frame_with_its_own_headers);
    g_test_add_func("/offload/small_datagrams_are_cut_and_not_too_many",
                    small_datagrams_are_cut_and_not_too_many);
    g_test_add_func("/offload/who_has_enough_gets_no_more", who_has_enough_gets_no_more);
    g_test_add_func("/offload/a_checksum_that_was_left_is_filled_in",
                    a_checksum_that_was_left_is_filled_in);
    g_test_add_func("/offload/a_checksum_is_never_zero", a_checksum_is_never_zero);
    g_test_add_func("/offload/headers_that_cannot_be_meant_are_refused",
                    headers_that_cannot_be_meant_are_refused);
    g_test_add_func("/offload/no_lie_reaches_beyond_the_frame",
                    no_lie_reaches_beyond_the_frame);
    return g_test_run();
}
