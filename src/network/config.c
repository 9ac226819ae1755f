/* The options of a network, and what of them makes no sense; see network/config.h. */
#include "network/config.h"

#include <string.h>

const char *const network_mode_names[] = {"isolated", "nat", "routed", NULL};

enum { MAX_VM_NAME = 64, MAX_DOMAIN = 180, MAX_LABEL = 63, MAX_NAME = 31 };

/* ---- names ----------------------------------------------------------------------------
 */

static bool is_name(const char *text, size_t max)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return len && !text[len] && len <= max && *text != '-';
}

bool network_check_name(const char *name, GError **error)
{
    /* What stands there in --net means something else already. */
    static const char *const taken[] = {"user",   "tap",   "stream", "network",
                                        "bridge", "passt", "none",   "macvtap",
                                        "vhost",  "auto",  "all",    NULL};

    if (!is_name(name, MAX_NAME))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be a network's name: small letters, digits and '-', no "
                    "'-' first, and %d characters at most",
                    name, MAX_NAME);
    if (g_strv_contains(taken, name))
        return fail(error, VM_ERROR_INVALID,
                    "a network cannot be named '%s', which --net takes for something "
                    "else; choose another name",
                    name);
    return true;
}

/* RFC 1123, 2.1; VMs' names are to fit before it (RFC 1035, 2.3.4). */
static bool check_domain(const char *domain, GError **error)
{
    g_auto(GStrv) labels = g_strsplit(domain, ".", -1);
    bool ok = strlen(domain) <= MAX_DOMAIN;

    for (char **l = labels; *l && ok; l++) {
        size_t len = strlen(*l);

        ok = len && len <= MAX_LABEL && **l != '-' && (*l)[len - 1] != '-';
        for (const char *c = *l; *c && ok; c++)
            ok = g_ascii_isalnum(*c) || *c == '-';
    }
    return ok || fail(error, VM_ERROR_INVALID,
                      "domain: '%s' is not a domain name: labels of letters, digits and "
                      "'-' with dots between them, %d bytes at most",
                      domain, MAX_DOMAIN);
}

char *network_domain(const char *name, const NetworkConfig *config)
{
    return config->domain ? g_ascii_strdown(config->domain, -1)
                          : g_strconcat(name, ".internal", NULL);
}

static bool check_vm(const char *vm, const char *of, GError **error)
{
    if (*vm && strlen(vm) <= MAX_VM_NAME && !strchr(vm, '/') && *vm != '.' && *vm != '-')
        return true;
    return fail(error, VM_ERROR_INVALID, "'%s': '%s' cannot be a VM's name", of, vm);
}

/* ---- subnets --------------------------------------------------------------------------
 */

static bool is_auto(const char *subnet)
{
    return subnet && g_str_equal(subnet, "auto");
}

/* What is not for hosts to have: RFC 6890. */
static bool is_special(const IpPrefix *p)
{
    static const char *const special[] = {"0.0.0.0/8",   "127.0.0.0/8", "169.254.0.0/16",
                                          "224.0.0.0/3", "::/8",        "fe80::/10",
                                          "ff00::/8"};
    IpPrefix other;

    for (unsigned i = 0; i < G_N_ELEMENTS(special); i++)
        if (ip_prefix_parse(special[i], &other, NULL) &&
            ip_is_v4(&other.ip) == ip_is_v4(&p->ip) && ip_prefixes_overlap(&other, p))
            return true;
    return false;
}

static bool check_subnet(const char *key, const char *text, bool v6, GError **error)
{
    IpPrefix p;

    if (!text || is_auto(text))
        return true;
    if (!ip_prefix_parse(text, &p, error)) {
        g_prefix_error(error, "%s: ", key);
        return false;
    }
    if (ip_is_v4(&p.ip) == v6)
        return fail(error, VM_ERROR_INVALID, "%s: '%s' is of IPv%d; %s is for that", key,
                    text, v6 ? 4 : 6, v6 ? "subnet" : "subnet6");
    if (is_special(&p))
        return fail(error, VM_ERROR_INVALID,
                    "%s: no host can have an address of '%s', which is reserved; use one "
                    "such as %s",
                    key, text, v6 ? "fd00:5::/64" : "10.5.0.0/24");
    if (v6 && p.bits != 64)
        return fail(error, VM_ERROR_INVALID,
                    "%s: '%s' is not a /64, which hosts need to form their addresses",
                    key, text);
    if (!v6 && (p.bits < IP_V4_BITS + 8 || p.bits > IP_V4_BITS + 29))
        return fail(error, VM_ERROR_INVALID,
                    "%s: '%s' has too %s addresses: from /8 to /29 is possible", key,
                    text, p.bits < IP_V4_BITS + 8 ? "many" : "few");
    return true;
}

static void parse_subnet(const char *text, IpPrefix *ret, Ip *ret_gateway)
{
    if (text && ip_prefix_parse(text, ret, NULL))
        *ret_gateway = ip_plus(&ret->ip, 1);
}

void network_subnets(const NetworkConfig *config, NetworkSubnets *ret)
{
    *ret = (NetworkSubnets){0};
    parse_subnet(config->subnet, &ret->v4, &ret->gateway4);
    parse_subnet(config->subnet6, &ret->v6, &ret->gateway6);
}

/* ---- leases ---------------------------------------------------------------------------
 */

bool network_lease_parse(const char *text, char **ret_vm, Ip *ret, GError **error)
{
    const char *equals = strrchr(text, '=');
    g_autofree char *vm = equals ? g_strndup(text, (gsize)(equals - text)) : NULL;
    Ip ip;

    if (!equals)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is not VM=ADDRESS, such as web=10.5.0.7", text);
    if (!check_vm(vm, text, error))
        return false;
    if (!ip_parse(equals + 1, &ip, error)) {
        g_prefix_error(error, "'%s': ", text);
        return false;
    }
    *ret_vm = g_steal_pointer(&vm);
    *ret = ip;
    return true;
}

static bool check_lease(const char *text, const Ip *ip, const NetworkSubnets *in,
                        GError **error)
{
    bool v4 = ip_is_v4(ip);
    const IpPrefix *p = v4 ? &in->v4 : &in->v6;
    Ip last = ip_prefix_last(p);

    if (!p->bits || !ip_within(ip, p)) {
        char subnet[IP_TEXT + 4];

        if (!p->bits)
            return fail(error, VM_ERROR_INVALID, "'%s': the network has no IPv%d subnet",
                        text, v4 ? 4 : 6);
        return fail(error, VM_ERROR_INVALID, "'%s': that is not an address of %s", text,
                    ip_prefix_text(p, subnet));
    }
    if (ip_equal(ip, v4 ? &in->gateway4 : &in->gateway6))
        return fail(error, VM_ERROR_INVALID, "'%s': that is the gateway's address", text);
    if (ip_equal(ip, &p->ip) || (v4 && ip_equal(ip, &last)))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the first and the last address of a subnet are no host's",
                    text);
    return true;
}

typedef struct Lease {
    char *vm;
    Ip ip;
} Lease;

static void lease_clear(void *lease)
{
    g_free(((Lease *)lease)->vm);
}

static bool add_lease(GArray *all, const char *text, const NetworkConfig *config,
                      GError **error)
{
    NetworkSubnets in;
    const char *subnet;
    Lease one;

    if (!network_lease_parse(text, &one.vm, &one.ip, error))
        return false;
    g_array_append_val(all, one);
    for (unsigned i = 0; i + 1 < all->len; i++) {
        const Lease *other = &g_array_index(all, Lease, i);

        if (ip_equal(&other->ip, &one.ip))
            return fail(error, VM_ERROR_INVALID, "'%s': '%s' has that address already",
                        text, other->vm);
        if (g_str_equal(other->vm, one.vm) && ip_is_v4(&other->ip) == ip_is_v4(&one.ip))
            return fail(error, VM_ERROR_INVALID, "'%s': '%s' has another address already",
                        text, one.vm);
    }
    network_subnets(config, &in);
    subnet = ip_is_v4(&one.ip) ? config->subnet : config->subnet6;
    return is_auto(subnet) || check_lease(text, &one.ip, &in, error);
}

/* While a subnet is to be chosen nothing can be in it. */
static bool check_leases(const NetworkConfig *config, GError **error)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Lease));

    g_array_set_clear_func(all, lease_clear);
    if (config->leases && *config->leases && !config->dhcp)
        return fail(error, VM_ERROR_INVALID,
                    "lease: addresses are given by DHCP, and this network has dhcp=off");
    for (char **text = config->leases; text && *text; text++)
        if (!add_lease(all, *text, config, error)) {
            g_prefix_error(error, "lease: ");
            return false;
        }
    return true;
}

/* ---- forwards -------------------------------------------------------------------------
 */

static bool parse_port(const char *text, uint16_t *ret)
{
    guint64 port;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &port, NULL))
        return false;
    *ret = (uint16_t)port;
    return true;
}

/* "[ADDR]:PORT", cut in place. */
static bool parse_host_side(char *side, NetworkForward *f)
{
    char *colon = strrchr(side, ':');
    size_t len;

    if (!colon || !parse_port(colon + 1, &f->port))
        return false;
    *colon = 0;
    len = strlen(side);
    if (len > 1 && *side == '[' && side[len - 1] == ']') {
        side[len - 1] = 0;
        return ip_parse(side + 1, &f->address, NULL) && !ip_is_v4(&f->address);
    }
    return !len || (ip_parse(side, &f->address, NULL) && ip_is_v4(&f->address));
}

bool network_forward_parse(const char *text, NetworkForward *ret, GError **error)
{
    g_autofree char *copy = g_strdup(text);
    char *host = strchr(copy, ':'), *dash = host ? strchr(host, '-') : NULL;
    char *colon = dash ? strrchr(dash, ':') : NULL;
    NetworkForward f = {0};

    if (colon) {
        *host++ = *dash++ = *colon++ = 0;
        f.udp = g_str_equal(copy, "udp");
    }
    if (!colon || !(f.udp || g_str_equal(copy, "tcp")) || !parse_host_side(host, &f) ||
        !parse_port(colon, &f.vm_port))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is not tcp|udp:[ADDR]:PORT-VM:PORT, such as tcp::8080-web:80",
                    text);
    if (!check_vm(dash, text, error))
        return false;
    f.vm = g_strdup(dash);
    *ret = f;
    return true;
}

void network_forward_clear(NetworkForward *f)
{
    g_clear_pointer(&f->vm, g_free);
}

static bool same_port(const NetworkForward *a, const NetworkForward *b)
{
    return a->udp == b->udp && a->port == b->port &&
           (ip_is_unspecified(&a->address) || ip_is_unspecified(&b->address) ||
            ip_equal(&a->address, &b->address));
}

static bool check_forwards(const NetworkConfig *config, GError **error)
{
    for (char **text = config->forwards; text && *text; text++) {
        NetworkForward f, other;
        bool twice = false;

        if (!network_forward_parse(*text, &f, error)) {
            g_prefix_error(error, "forward: ");
            return false;
        }
        for (char **before = config->forwards; before < text && !twice; before++)
            if (network_forward_parse(*before, &other, NULL)) {
                twice = same_port(&f, &other);
                network_forward_clear(&other);
            }
        network_forward_clear(&f);
        if (twice)
            return fail(error, VM_ERROR_INVALID,
                        "forward: '%s': that port is forwarded already", *text);
    }
    return true;
}

/* ---- the rest -------------------------------------------------------------------------
 */

static bool check_routes(const NetworkConfig *config, GError **error)
{
    for (char **route = config->routes; route && *route; route++) {
        if (!network_check_name(*route, error)) {
            g_prefix_error(error, "route: ");
            return false;
        }
        for (char **before = config->routes; before < route; before++)
            if (g_str_equal(*before, *route))
                return fail(error, VM_ERROR_INVALID, "route: '%s' is given twice",
                            *route);
    }
    return true;
}

static bool check_uplink(const char *uplink, GError **error)
{
    static const char *const kinds[] = {"bridge", "tap", "macvtap", "passt", NULL};
    g_autofree char *kind = uplink ? g_strndup(uplink, strcspn(uplink, "=,")) : NULL;

    return !uplink || g_strv_contains(kinds, kind) ||
           fail(error, VM_ERROR_INVALID,
                "uplink: '%s' is none of: bridge=NAME, tap, macvtap=NAME, passt", uplink);
}

bool network_upstream_parse(const char *text, Ip *ret, uint16_t *ret_port, GError **error)
{
    g_autofree char *copy = g_strdup(text);
    NetworkForward f = {.port = 53};

    if (!ip_parse(text, &f.address, NULL) &&
        (!parse_host_side(copy, &f) || ip_is_unspecified(&f.address)))
        return fail(error, VM_ERROR_INVALID,
                    "upstream: '%s' is no DNS server: give ADDRESS, or ADDRESS:PORT "
                    "([ADDRESS]:PORT for IPv6)",
                    text);
    *ret = f.address;
    *ret_port = f.port;
    return true;
}

static bool check_upstream(const NetworkConfig *config, GError **error)
{
    uint16_t port;
    unsigned n = 0;
    Ip ip;

    for (char **text = config->upstream; text && *text; text++) {
        if (!network_upstream_parse(*text, &ip, &port, error))
            return false;
        if (n++ == NETWORK_MAX_UPSTREAM)
            return fail(error, VM_ERROR_INVALID,
                        "upstream: '%s' is one DNS server too many: %d can be given",
                        *text, NETWORK_MAX_UPSTREAM);
    }
    return true;
}

/* What a mode has no use for. */
static bool check_mode(const NetworkConfig *config, GError **error)
{
    const char *mode = network_mode_names[config->mode];
    const struct {
        const char *key;
        bool given, possible;
    } keys[] = {
        {"forward", config->forwards && *config->forwards, config->mode == NETWORK_NAT},
        {"route", config->routes && *config->routes, config->mode != NETWORK_ISOLATED},
        {"uplink", config->uplink, config->mode != NETWORK_ISOLATED},
        {"upstream", config->upstream && *config->upstream,
         config->mode != NETWORK_ISOLATED},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++)
        if (keys[i].given && !keys[i].possible)
            return fail(error, VM_ERROR_INVALID,
                        "%s: a network with mode=%s cannot have any%s", keys[i].key, mode,
                        config->mode == NETWORK_ISOLATED ? ", for it reaches nothing else"
                                                         : "; mode=nat can");
    if (config->mode != NETWORK_ISOLATED && !config->subnet && !config->subnet6)
        return fail(error, VM_ERROR_INVALID,
                    "a network with mode=%s needs a subnet: give subnet=auto, or "
                    "mode=isolated",
                    mode);
    return true;
}

static void no_word(char **at, const char *word)
{
    if (*at && (g_str_equal(*at, word) || !**at))
        g_clear_pointer(at, g_free);
}

static bool check(void *options, GError **error)
{
    NetworkConfig *c = options;

    no_word(&c->subnet, "none");
    no_word(&c->subnet6, "none");
    no_word(&c->uplink, "none");
    no_word(&c->domain, "");
    if (!check_subnet("subnet", c->subnet, false, error) ||
        !check_subnet("subnet6", c->subnet6, true, error) || !check_mode(c, error))
        return false;
    if (c->subnet6 && c->mtu < 1280)
        return fail(error, VM_ERROR_INVALID,
                    "mtu: %" G_GUINT64_FORMAT " is too little for IPv6, which needs 1280",
                    c->mtu);
    return (!c->domain || check_domain(c->domain, error)) && check_leases(c, error) &&
           check_forwards(c, error) && check_routes(c, error) &&
           check_uplink(c->uplink, error) && check_upstream(c, error);
}

/* The macro wants a member. */
typedef struct NetworkOptions {
    NetworkConfig config;
} NetworkOptions;

const ParamTable network_params = {
    .size = sizeof(NetworkConfig),
    .check = check,
    .desc = (const ParamDesc[]){{.key = "mode",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(NetworkConfig, mode),
                                 .choices = network_mode_names,
                                 .def = "nat",
                                 .help = "what its VMs reach: each other, this host's "
                                         "networks too, or networks of route"},
                                NETWORK_PARAMS(NetworkOptions, config),
                                {0}},
};
