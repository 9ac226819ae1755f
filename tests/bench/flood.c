/* Sends frames to an interface as fast as it takes them, until it is killed.
 *
 *     bench_flood INTERFACE SIZE
 *
 * When the interface's queue is full it sleeps for a fraction of the time that the queue
 * lasts, so that the processor is left to the reader. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, FRAME_MIN = 60, FRAME_MAX = 1514, ETHERTYPE = 0x88b5, NAP_US = 200 };

static int open_interface(const char *name)
{
    struct sockaddr_ll where = {.sll_family = AF_PACKET,
                                .sll_ifindex = (int)if_nametoindex(name)};
    const int yes = 1;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

    if (fd < 0 || !where.sll_ifindex ||
        bind(fd, (struct sockaddr *)&where, sizeof(where)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes)) < 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    static uint8_t frame[FRAME_MAX] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff,           2,
        0,    0,    0,    0,    1,    ETHERTYPE >> 8, ETHERTYPE & 0xff};
    struct iovec iov = {.iov_base = frame};
    struct mmsghdr batch[BATCH];
    int fd;

    if (argc != 3) {
        fprintf(stderr, "usage: bench_flood INTERFACE SIZE\n");
        return 2;
    }
    iov.iov_len = (size_t)atoi(argv[2]);
    if (iov.iov_len < FRAME_MIN || iov.iov_len > FRAME_MAX)
        return 2;
    fd = open_interface(argv[1]);
    memset(batch, 0, sizeof(batch));
    for (unsigned i = 0; i < BATCH; i++)
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    for (;;)
        if (sendmmsg(fd, batch, BATCH, 0) < BATCH)
            usleep(NAP_US);
}
