/* What the files of `hutch firewall` share. */
#pragma once

#include "firewall/firewall.h"
#include "src/cli/net.h"

typedef struct FirewallArgs {
    bool json, text, none, follow;
    uint64_t at; /* a number as shown; 0: not given */
} FirewallArgs;

extern const char firewall_test_about[]; /* firewall_test.c */

/* The rules of a network that is down, a new reference; NULL with true: it has none. */
bool firewall_load(const NetTarget *t, Firewall **ret, GError **error);
