/* Which network libslirp plays: what the options of `--net user`, or a switch's network,
 * make of its configuration, and the ports of the host that are forwarded to guests.
 *
 * The guest's network is QEMU's: 10.0.2.0/24 with the host at .2, DNS at .3 and the guest
 * at .15; fec0::/64 likewise.  A forward with an empty host address listens on all of the
 * host's, as QEMU's does. */
#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <string.h>

#include "src/net/netdev_private.h"
#include "src/net/slirp_private.h"

bool slirp_check(const NetDevOptions *o, GError **error)
{
    const size_t max_name = 32; /* what libslirp keeps */

    if (o->ifname)
        return fail(error, VM_ERROR_INVALID,
                    "ifname= goes with tap; user mode has no interface on the host");
    if (o->hostname &&
        (!o->hostname[0] || strlen(o->hostname) > max_name ||
         strspn(o->hostname, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
                             "UVWXYZ0123456789-.") != strlen(o->hostname)))
        return fail(error, VM_ERROR_INVALID,
                    "hostname=%s is no name for a host: give 1 to %zu letters, digits, "
                    "'-' and '.'",
                    o->hostname, max_name);
    for (char **text = o->hostfwd; text && *text; text++) {
        HostFwd fwd;

        if (!hostfwd_parse(*text, &fwd, error))
            return false;
    }
    return true;
}

static bool fail_forward(int err, const char *text, const HostFwd *fwd, GError **error)
{
    const char *proto = fwd->udp ? "udp" : "tcp";

    if (err == EADDRINUSE)
        return fail(error, VM_ERROR_BUSY,
                    "hostfwd=%s: %s port %u of the host is in use: give another, or find "
                    "its owner with 'ss -l%cnp sport = %u'",
                    text, proto, fwd->host_port, proto[0], fwd->host_port);
    if (err == EACCES || err == EPERM)
        return fail(
            error, VM_ERROR_UNSUPPORTED,
            "hostfwd=%s: no permission to listen on %s port %u: give one from 1024 "
            "up",
            text, proto, fwd->host_port);
    if (err == EADDRNOTAVAIL)
        return fail(
            error, VM_ERROR_INVALID,
            "hostfwd=%s: the host has no such address: give one that 'ip address' "
            "shows, or none for all",
            text);
    errno = err;
    return fail_errno(error, "hostfwd=%s: listen on %s port %u", text, proto,
                      fwd->host_port);
}

bool slirp_forward_text(Slirp *slirp, const char *text, HostFwd *ret, GError **error)
{
    if (!hostfwd_parse(text, ret, error))
        return false;
    return slirp_add_hostfwd(slirp, ret->udp, (struct in_addr){htonl(ret->host_addr)},
                             ret->host_port, (struct in_addr){htonl(ret->guest_addr)},
                             ret->guest_port) == 0 ||
           fail_forward(errno, text, ret, error);
}

static void use_subnet(SlirpConfig *cfg, const NetDevSubnet *s)
{
    cfg->in_enabled = s->v4.bits;
    cfg->in6_enabled = s->v6.bits;
    if (s->v4.bits) {
        cfg->vnetwork.s_addr = htonl(ip_to_v4(&s->v4.ip));
        cfg->vnetmask.s_addr = htonl(UINT32_MAX << (128 - s->v4.bits));
        cfg->vhost.s_addr = htonl(ip_to_v4(&s->host4));
        cfg->vdhcp_start = cfg->vnameserver = cfg->vhost;
    }
    if (s->v6.bits) {
        memcpy(&cfg->vprefix_addr6, s->v6.ip.b, sizeof(s->v6.ip.b));
        cfg->vprefix_len = s->v6.bits;
        memcpy(&cfg->vhost6, s->host6.b, sizeof(s->host6.b));
        cfg->vnameserver6 = cfg->vhost6;
    }
    cfg->disable_dns = cfg->disable_dhcp = true;
    cfg->if_mtu = cfg->if_mru = MIN(s->mtu, SLIRP_MTU);
}

void slirp_configure(SlirpConfig *ret, const NetDevOptions *o)
{
    *ret = (SlirpConfig){
        .version = 4,
        .restricted = o->restrict_,
        .in_enabled = true,
        .vnetwork.s_addr = htonl(0x0a000200),
        .vnetmask.s_addr = htonl(0xffffff00),
        .vhost.s_addr = htonl(0x0a000202),
        .vdhcp_start.s_addr = htonl(0x0a00020f),
        .vnameserver.s_addr = htonl(0x0a000203),
        .in6_enabled = o->ipv6,
        .vprefix_len = 64,
        .vhostname = o->hostname,
        .if_mtu = SLIRP_MTU,
        .if_mru = SLIRP_MTU,
    };

    inet_pton(AF_INET6, "fec0::", &ret->vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &ret->vhost6);
    inet_pton(AF_INET6, "fec0::3", &ret->vnameserver6);
    if (o->subnet)
        use_subnet(ret, o->subnet);
}

static socklen_t socket_address(const Ip *ip, bool v4, uint16_t port,
                                struct sockaddr_storage *ret)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

    memset(ret, 0, sizeof(*ret));
    if (v4) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        in->sin_addr.s_addr = ip_is_unspecified(ip) ? 0 : htonl(ip_to_v4(ip));
        return sizeof(*in);
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    memcpy(&in6->sin6_addr, ip->b, sizeof(ip->b));
    return sizeof(*in6);
}

static int forward_flags(const NetDevForward *fwd)
{
    return (fwd->udp ? SLIRP_HOSTFWD_UDP : 0) |
           (ip_is_v4(&fwd->guest) ? 0 : SLIRP_HOSTFWD_V6ONLY);
}

bool slirp_forward(Slirp *slirp, const NetDevForward *fwd, GError **error)
{
    bool v4 = ip_is_v4(&fwd->guest);
    struct sockaddr_storage host, guest;
    socklen_t host_len = socket_address(&fwd->host, v4, fwd->host_port, &host);
    socklen_t guest_len = socket_address(&fwd->guest, v4, fwd->guest_port, &guest);

    return slirp_add_hostxfwd(slirp, (struct sockaddr *)&host, host_len,
                              (struct sockaddr *)&guest, guest_len,
                              forward_flags(fwd)) == 0 ||
           fail_errno(error, "listen on %s port %u", fwd->udp ? "udp" : "tcp",
                      fwd->host_port);
}

void slirp_unforward(Slirp *slirp, const NetDevForward *fwd)
{
    struct sockaddr_storage host;
    socklen_t len = socket_address(&fwd->host, ip_is_v4(&fwd->guest), fwd->host_port,
                                   &host);

    slirp_remove_hostxfwd(slirp, (struct sockaddr *)&host, len, forward_flags(fwd));
}
