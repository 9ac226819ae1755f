/* The notation of host forwards: "tcp|udp:ADDR:PORT-ADDR:PORT", host side first, as QEMU
 * writes it.  An empty host address means all of the host's, an empty guest address the
 * one that DHCP hands out first. */
#include <arpa/inet.h>
#include <string.h>

#include "src/net/netdev_private.h"

static bool parse_port(const char *text, uint16_t *ret)
{
    guint64 port;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &port, NULL))
        return false;
    *ret = (uint16_t)port;
    return true;
}

/* "ADDR:PORT", in place. */
static bool parse_side(const char *whole, const char *side, char *text,
                       uint32_t *ret_addr, uint16_t *ret_port, GError **error)
{
    char *colon = strrchr(text, ':');
    struct in_addr addr = {0};

    if (!colon)
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd=%s: the %s side '%s' is not ADDR:PORT", whole, side, text);
    *colon = 0;
    if (!parse_port(colon + 1, ret_port))
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd=%s: %s port '%s' is not a number from 1 to 65535", whole,
                    side, colon + 1);
    if (*text && inet_pton(AF_INET, text, &addr) != 1)
        return fail(
            error, VM_ERROR_INVALID,
            "hostfwd=%s: %s address '%s' is not an IPv4 address such as 127.0.0.1", whole,
            side, text);
    *ret_addr = ntohl(addr.s_addr);
    return true;
}

bool hostfwd_parse(const char *text, HostFwd *ret, GError **error)
{
    g_autofree char *copy = g_strdup(text);
    char *host = strchr(copy, ':'), *guest;
    HostFwd fwd = {0};

    if (host)
        *host++ = 0;
    guest = host ? strchr(host, '-') : NULL;
    if (!guest)
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd=%s is not PROTOCOL:ADDR:PORT-ADDR:PORT, such as "
                    "tcp:127.0.0.1:2222-:22",
                    text);
    *guest++ = 0;
    fwd.udp = g_str_equal(copy, "udp");
    if (!fwd.udp && !g_str_equal(copy, "tcp"))
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd=%s: protocol '%s' is not tcp or udp", text, copy);
    if (!parse_side(text, "host", host, &fwd.host_addr, &fwd.host_port, error) ||
        !parse_side(text, "guest", guest, &fwd.guest_addr, &fwd.guest_port, error))
        return false;
    *ret = fwd;
    return true;
}
