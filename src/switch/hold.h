/* Who sends to a port that has little room is held for a moment, so that its own rings
 * fill up and its guest sees it, instead of frames that are lost.  For HOLD_NS at most:
 * a port that has taken nothing for so long is `stalled`, loses frames as a wire does,
 * and holds nobody until it has room again.  So a port that stands still costs each of
 * the others HOLD_NS, once.
 *
 * One that takes a frame at a time, so that it is never stalled, would hold those that
 * answer it for ever, and with them all whom they talk to.  So each HOLD_NS that others
 * have waited for it has to be worth HOLD_BYTES of frames that it took; else it loses
 * frames until it has taken so many. */
#pragma once

#include "src/switch/switch.h"

enum { HOLD_NS = 5000000, HOLD_BYTES = 80 * 1024 };

/* A port's ops->send(): it has little room left; and later: it has some again. */
void hold_full(Port *to);
void hold_room(Port *to);

/* `from` has sent to `to`, and waits if that is full. */
void hold_source(Port *from, Port *to);

/* A port goes: it waits no more, and nobody for it. */
void hold_forget(Port *port);
