/* Frames for Wireshark: a client of control.sock that asked for `capture` gets a reply
 * and from then on a pcap file (https://ietf.org, draft-ietf-opsawg-pcap), of one port or
 * of all. A client that reads too slowly loses frames, which are counted; nobody waits
 * for it.
 *
 * Of one port there is what it sends and what it gets; of a network what comes in at its
 * ports, and what the network itself sends (port NULL): every frame once.  Checksums that
 * somebody was still to fill in are filled in; segments that are still to be cut are
 * shown whole. */
#pragma once

#include "src/switch/switch.h"

enum { CAPTURE_BUFFER = 1 << 20, CAPTURES_MAX = 16 };

/* Arguments: vm, nic, port (all may be left out), snaplen, filter (of libpcap), count.
 * On success it takes over fd, a socket that does not block, and has sent the reply. */
bool capture_start(Switch *sw, int fd, json_t *arguments, GError **error);

/* Only while sw->captures is not NULL. */
void capture_frame(Switch *sw, Port *port, Direction direction, const Frame *f);
void captures_free(Switch *sw); /* what is in buffers is lost */

/* A new reference: an array of who captures: vm, nic, filter, frames, lost. */
json_t *captures_json(Switch *sw);
