/* Which names have which addresses, for rules that allow names (firewall/firewall.h):
 * only what this network's own DNS has answered, for as long as it said.
 *
 * Only the name that was asked for counts, whatever aliases it has: an answer cannot
 * speak for names that nobody asked for.  Bounded: a port has so many entries, and all
 * have; beyond it those that end first go.  The switch's thread. */
#pragma once

#include <jansson.h>

#include "packet/addr.h"

enum { NAMES_MAX = 4096, NAMES_MAX_OF_PORT = 256, NAMES_GRACE_S = 1 };

typedef struct Names Names;

Names *names_new(void);
void names_free(Names *names); /* NULL is fine */

/* `ttl` in seconds; `port` asked.  The same again lasts as long as the longer of both. */
void names_add(Names *names, unsigned port, const char *name, const Ip *ip, uint32_t ttl,
               int64_t now_ns);

/* Whether an address was given for a name that matches: "example.org" in any case, or
 * "*.example.org", which is everything below it and not itself. */
bool names_have(Names *names, const char *pattern, const Ip *ip, int64_t now_ns);

json_t *names_json(Names *names, int64_t now_ns);
