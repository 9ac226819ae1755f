/* Upstream servers (dns_servers.h). */
#include "src/switch/dns_servers.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>

#include "network/config.h"
#include "util/ioloop.h"

#define RESOLV_CONF "/etc/resolv.conf"

enum { LOOK_NS = 1000000000, MAX_FILE = 64 * 1024, DNS_PORT_DEFAULT = 53 };

/* "ADDR", in either family, with the scope that link-local ones have: "fe80::1%eth0". */
static bool parse_address(const char *text, uint16_t port, DnsServer *ret)
{
    g_autofree char *copy = g_strdup(text);
    char *scope = strchr(copy, '%');
    struct sockaddr_in *v4 = (struct sockaddr_in *)&ret->sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ret->sa;

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        ret->len = sizeof(*v4);
        return true;
    }
    if (scope)
        *scope++ = 0;
    if (inet_pton(AF_INET6, copy, &v6->sin6_addr) != 1)
        return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    v6->sin6_scope_id = scope ? if_nametoindex(scope) : 0;
    ret->len = sizeof(*v6);
    return true;
}

static void server_of(const Ip *ip, uint16_t port, DnsServer *ret)
{
    char text[IP_TEXT];

    parse_address(ip_text(ip, text), port, ret);
}

bool dns_servers_set(DnsServers *s, char **texts, GError **error)
{
    DnsServers new = {0};
    uint16_t port;
    Ip ip;

    for (char **text = texts; text && *text && new.n < DNS_MAX_SERVERS; text++) {
        if (!network_upstream_parse(*text, &ip, &port, error))
            return false;
        server_of(&ip, port, &new.server[new.n++]);
    }
    new.given = new.n > 0;
    *s = new;
    return true;
}

void dns_servers_read(DnsServers *s, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    s->n = 0;
    for (char **line = lines; *line && s->n < DNS_MAX_SERVERS; line++) {
        g_auto(GStrv) words = NULL;

        g_strdelimit(*line, "\t\r", ' ');
        words = g_strsplit(g_strstrip(*line), " ", 2);
        if (words[0] && words[1] && g_str_equal(words[0], "nameserver") &&
            parse_address(g_strstrip(words[1]), DNS_PORT_DEFAULT, &s->server[s->n]))
            s->n++;
    }
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

void dns_servers_refresh(DnsServers *s)
{
    int64_t now_ns = clock_ns();
    g_autofree char *text = NULL;
    struct stat st = {0};

    if (s->given || (s->looked_ns && now_ns - s->looked_ns < LOOK_NS))
        return;
    s->looked_ns = now_ns;
    if (stat(RESOLV_CONF, &st) < 0 || same_file(&st, &s->seen) || st.st_size > MAX_FILE ||
        !g_file_get_contents(RESOLV_CONF, &text, NULL, NULL))
        return; /* what was read before is the best there is */
    s->seen = st;
    dns_servers_read(s, text);
}
