/* See src/control/greeting.h.  Clients judge by the version which commands and members
 * they may use, so it is that of the QEMU whose protocol we follow; what we are is in the
 * package. */
#include "src/control/greeting.h"

#include "hutch-config.h"

enum { QEMU_MAJOR = 7, QEMU_MINOR = 2, QEMU_MICRO = 0 };

json_t *greeting_version(void)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", QEMU_MICRO, "minor",
                     QEMU_MINOR, "major", QEMU_MAJOR, "package", "hutch " HUTCH_VERSION);
}

json_t *greeting_new(void)
{
    return json_pack("{s:{s:o, s:[]}}", "QMP", "version", greeting_version(),
                     "capabilities");
}
