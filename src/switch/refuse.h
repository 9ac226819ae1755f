/* Answers to what may not pass, so that programs see at once that they need not wait:
 * what `reject` in a rule means.
 *
 * TCP is answered by a RST (RFC 9293, 3.5.2), UDP as if nobody listened, all else as
 * prohibited (RFC 1812, 5.2.7.1; RFC 4443, 3.1); on behalf of who it was sent to.  Never
 * answered are RSTs, ICMP errors, later fragments, and what was sent to or by many (RFC
 * 1122, 3.2.2; RFC 4443, 2.4); so that no answer is answered.
 *
 * The answer goes to the port that a packet came from and that anti-spoofing has checked,
 * or by the route that it came by; it is not much longer than the packet, and each port
 * gets a bounded number: nobody can have others flooded.  The switch's thread. */
#pragma once

#include "src/switch/switch.h"

/* A frame that passed the guard, and not a port's rules. */
void refuse(Port *port, Direction direction, const Frame *f);
