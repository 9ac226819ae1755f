/* `firewall-test`: which rule would decide about a packet. */
#pragma once

#include "src/switch/switch.h"

json_t *rules_test(Switch *sw, json_t *arguments, GError **error);
