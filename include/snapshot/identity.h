/* What a VM's Config says that only one VM can have: its name and UUID, addresses of its
 * cards, ports of the host, sockets and files.  A clone gets its own. */
#pragma once

#include "machine/config.h"

typedef struct CloneIdentity {
    const char *name, *uuid;
    const char *folder;     /* its run folder */
    const char *const *net; /* ids of cards that were said anew for it, whose host's side
                               is as it is to be; NULL-terminated, or NULL */
} CloneIdentity;

/* Main thread.  Makes the Config of what is copied that of the copy: what is new is
 * listed in docs/clones.md.  VM_ERROR_INVALID: a card's interface of the host, which
 * cannot be guessed. */
bool identity_give_config(Config *cfg, const CloneIdentity *who, GError **error);
