/* What fuzz_dhcp and fuzz_nd share: a network whose ports are hostile, and what has to be
 * true of it whatever they say.
 *
 * Input: records of a byte that says which port and which kind, a length of two bytes,
 * and so many bytes. */
#pragma once

#include <stdlib.h>

#include "src/switch/leases.h"
#include "tests/unit/switch/gateway_net.h"

enum { FUZZ_PORTS = 4, FUZZ_KINDS = 8, FUZZ_BYTES = 1400 };

static Port *fuzz_port[FUZZ_PORTS];

static inline void fuzz_check(bool promise)
{
    if (!promise)
        abort();
}

static inline void fuzz_plug(unsigned i)
{
    static const char *const names[FUZZ_PORTS] = {"web", "db", "router", NULL};

    if (fuzz_port[i])
        net_unplug(fuzz_port[i]);
    fuzz_port[i] = net_port(names[i], (uint8_t)(7 + i), i == 1 ? "10.5.0.2" : NULL);
    fuzz_port[i]->trusted = i == 2;
}

static inline void fuzz_begin(const char *options)
{
    static bool begun;

    if (begun)
        net_renew();
    else
        net_begin(options);
    begun = true;
    memset(fuzz_port, 0, sizeof(fuzz_port));
    for (unsigned i = 0; i < FUZZ_PORTS; i++)
        fuzz_plug(i);
}

/* An address is one port's, and the gateway's are nobody's. */
static inline void fuzz_check_addresses(void)
{
    Ip all[64];

    for (unsigned i = 0; i < FUZZ_PORTS; i++) {
        unsigned n = guard_list(fuzz_port[i]->guard, all, G_N_ELEMENTS(all));

        fuzz_check(n <= 48);
        for (unsigned a = 0; a < n; a++) {
            fuzz_check(!gateway_is(net.sw.gateway, &all[a]));
            fuzz_check(!ip_is_unspecified(&all[a]) && !ip_is_multicast(&all[a]));
            for (unsigned j = 0; j < FUZZ_PORTS; j++)
                fuzz_check(j == i || !net_has(fuzz_port[j], &all[a]));
        }
    }
}

/* Answers go to who asked, and to nobody else. */
static inline void fuzz_check_sent(const Port *asked)
{
    for (unsigned i = 0; i < MIN(net.n_sent, NET_SENT_MAX); i++)
        fuzz_check(!net.sent[i].to || net.sent[i].to == asked);
    net_clear();
}

/* The next record; false: there is none. */
static inline bool fuzz_next(const uint8_t **data, size_t *size, unsigned *port,
                             unsigned *kind, const uint8_t **bytes, size_t *len)
{
    if (*size < 3)
        return false;
    *port = (*data)[0] % FUZZ_PORTS;
    *kind = (*data)[0] / FUZZ_PORTS % FUZZ_KINDS;
    *len = MIN((size_t)(*data)[1] << 8 | (*data)[2], MIN(*size - 3, FUZZ_BYTES));
    *bytes = *data + 3;
    *data += 3 + *len;
    *size -= 3 + *len;
    return true;
}
