/* Rates and bad wires of a port, as commands and as JSON:
 *
 *     {"in": {"limit": {..}, "impair": {..}}, "out": {..}}
 *
 * of which what a port does not have is left out; docs/networks.md has what is in each.
 */
#pragma once

#include "src/switch/switch.h"

json_t *limits_json(Port *port); /* a new reference; empty: it has none */

/* As limits_json() had it, on a port that has none; what makes no sense is logged. */
void limits_set(Port *port, json_t *limits);
