/* Frames for Wireshark: a client of control.sock that asked for `capture` gets its reply
 * and from then on a pcap file (https://ietf.org, draft-ietf-opsawg-pcap), of one port or
 * of all. A client that reads too slowly loses frames, which are counted; nobody waits
 * for it. */
#pragma once

#include "src/switch/switch.h"

/* Arguments: vm, nic (both may be left out), snaplen, filter (of libpcap), count.  Takes
 * over fd, on success only; the reply was sent before. */
bool capture_start(Switch *sw, int fd, json_t *arguments, GError **error);
void capture_frame(Switch *sw, Port *port, Direction direction, const Frame *f);
void captures_free(Switch *sw);
