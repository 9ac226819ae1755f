/* The host's end of a guest's connection: takes all that comes, or sends without end.
 *
 *     bench_peer sink|source      says on which port of 127.0.0.1 it listens
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[256 * 1024];

int main(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(here);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool source = argc == 2 && !strcmp(argv[1], "source");

    if (argc != 2 || (!source && strcmp(argv[1], "sink") != 0)) {
        fprintf(stderr, "usage: bench_peer sink|source\n");
        return 2;
    }
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, len) < 0 || listen(fd, 1) < 0 ||
        getsockname(fd, (struct sockaddr *)&here, &len) < 0) {
        perror("listen");
        return 1;
    }
    printf("%u\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, NULL, NULL);

        if (peer < 0)
            return 1;
        while (source ? send(peer, buffer, sizeof(buffer), MSG_NOSIGNAL) > 0
                      : recv(peer, buffer, sizeof(buffer), 0) > 0)
            ;
        close(peer);
    }
}
