/* See route_hello.h. */
#include "src/switch/route_hello.h"

#include "util/json.h"

enum { ROUTE_VERSION = 1 };

void route_set_prefix(json_t *object, const char *key, const IpPrefix *p)
{
    char text[IP_TEXT + 4];

    if (p->bits)
        json_object_set_new(object, key, json_string(ip_prefix_text(p, text)));
}

json_t *route_hello_new(const char *network, const char *to, const NetworkSubnets *own)
{
    json_t *hello = json_pack("{si ss ss}", "hutch-route", ROUTE_VERSION, "network",
                              network, "to", to);

    route_set_prefix(hello, "subnet", &own->v4);
    route_set_prefix(hello, "subnet6", &own->v6);
    return hello;
}

static bool is_same(const IpPrefix *a, const IpPrefix *b)
{
    return a->bits == b->bits && ip_equal(&a->ip, &b->ip);
}

/* The prefix that it says is its own: the one of its config, or none. */
static bool take_prefix(const json_t *hello, const char *key, const IpPrefix *config,
                        const IpPrefix *own, IpPrefix *ret, GError **error)
{
    const char *text = json_get_text(hello, key);
    char told[IP_TEXT + 4];
    IpPrefix p = {0};

    if (*text && !ip_prefix_parse(text, &p, NULL))
        return fail(error, VM_ERROR_INVALID, "its %s makes no sense", key);
    if (*text && !is_same(&p, config))
        return fail(error, VM_ERROR_INVALID,
                    "it says that its %s is %s, and its config has %s", key, text,
                    config->bits ? ip_prefix_text(config, told) : "none");
    if (p.bits && own->bits && ip_prefixes_overlap(&p, own))
        return fail(error, VM_ERROR_BUSY, "its %s %s overlaps that of this network", key,
                    text);
    *ret = p;
    return true;
}

bool route_hello_take(const json_t *hello, const char *from, const char *to,
                      const NetworkSubnets *own, IpPrefix *ret_v4, IpPrefix *ret_v6,
                      GError **error)
{
    NetworkSubnets has;
    NetworkConfig *config;

    if (json_integer_value(json_object_get(hello, "hutch-route")) != ROUTE_VERSION ||
        !g_str_equal(json_get_text(hello, "network"), from) ||
        !g_str_equal(json_get_text(hello, "to"), to))
        return fail(error, VM_ERROR_INVALID, "it speaks another version of the protocol");
    config = network_load(from, error);
    if (!config)
        return false;
    network_subnets(config, &has);
    param_free(&network_params, config);
    return take_prefix(hello, "subnet", &has.v4, &own->v4, ret_v4, error) &&
           take_prefix(hello, "subnet6", &has.v6, &own->v6, ret_v6, error);
}
