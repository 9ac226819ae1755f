/* Storm control: how many frames a second may come from a port that go to everybody, by
 * the config's `storm`: broadcasts, multicasts, and what is for stations that nobody
 * knows. As many may come at once as in a second. */
#pragma once

#include "src/switch/switch.h"

bool storm_admit(Port *from);
