/* virtio-entropy (virtio 1.2, 5.4): fills what the driver offers with the host's random
 * bytes. */
#include <errno.h>
#include <sys/random.h>

#include "virtio/devices.h"

enum { RNG_MAX_BYTES = 64 * 1024 }; /* per request: its pieces may overlap in RAM */

static uint32_t rng_fill(const VqReq *req)
{
    size_t done = 0;

    for (unsigned i = 0; i < req->n_write && done < RNG_MAX_BYTES; i++) {
        const struct iovec *piece = &vq_writable(req)[i];
        size_t len = MIN(piece->iov_len, RNG_MAX_BYTES - done);
        ssize_t n;

        do
            n = getrandom(piece->iov_base, len, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            break;
        done += (size_t)n;
        if ((size_t)n < len)
            break; /* a short answer is a legal answer */
    }
    return (uint32_t)done;
}

static void rng_handle(VirtioDevice *v, Virtqueue *vq)
{
    VqReq req;

    while (vq_pop(vq, &req))
        vq_push(vq, &req, rng_fill(&req));
    vq_notify(vq);
}

static bool rng_realize(VirtioDevice *v, const void *options, GError **error)
{
    v->n_queues = 1;
    return true;
}

const VirtioOps virtio_rng_ops = {
    .name = "rng",
    .id = 4,
    .pci_class = 0x00ff00, /* not in any of the classes */
    .option = "rng",
    .help = "give the guest the host's random numbers",
    .size = sizeof(VirtioDevice),
    .queue_size = 64,
    .realize = rng_realize,
    .handle = rng_handle,
};
