/* virtio-net for tests of other things: pings to the host, which answers them. */
#ifndef PAYLOAD_NET_H
#define PAYLOAD_NET_H

#include "virtio.h"

/* Sets the card up and finds the host by ARP. */
void net_open(VirtioDevice *d, uint64_t mode);

/* False: the last one is still being sent, or the host wanted to know our address first,
 * as one does that has forgotten it.  Neither waits. */
bool net_send_ping(uint16_t number);
bool net_is_asked(void); /* that is so */

/* Takes what has come; true: it was the answer to that ping. */
bool net_take_pong(uint16_t *ret_number);

#endif
