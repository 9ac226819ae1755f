/* See storm.h. */
#include "src/switch/storm.h"

enum { SECOND_NS = 1000000000 };

bool storm_admit(Port *from)
{
    const uint64_t rate = from->sw->config->storm;
    const int64_t now = from->sw->now_ns;
    uint64_t passed = (uint64_t)(now - from->storm_ns), come;

    if (!rate)
        return true;
    if (!from->storm_ns || passed >= SECOND_NS) {
        from->storm_ns = now;
        from->storm_left = rate;
    } else if ((come = passed * rate / SECOND_NS) > 0) {
        from->storm_left = MIN(from->storm_left + come, rate);
        from->storm_ns += (int64_t)(come * SECOND_NS / rate); /* the rest counts later */
    }
    if (!from->storm_left)
        return false;
    from->storm_left--;
    return true;
}
