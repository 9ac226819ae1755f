/* The link of a virtio network card, for who changes it at run time. */
#pragma once

#include "virtio/virtio.h"

/* Any thread.  Plugs or unplugs the cable (virtio 1.2, 5.1.4): the guest is told by a
 * config change, and while the link is down frames are dropped both ways.  A reset leaves
 * it as it is.  False: v is no network card. */
bool virtio_net_set_link(VirtioDevice *v, bool up);
