/* The guest's side of test_vsock.py: what busybox has no applet for.  Static, as it goes
 * into an initramfs.
 *
 *     vsock_peer echo PORT        serves: sends back what comes, to its end, on any
 * number of connections at a time vsock_peer call PORT WORD   sends WORD to the host's
 * port, closes that half, and prints what comes back vsock_peer many PORT N      holds N
 * connections at once; each sends its number and wants it back
 *
 * Ends with status 0 if all went well, else with 1 and a sentence. */
#include <err.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 500 };
static char buf[65536];

static int make_socket(void)
{
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    return fd;
}

static int dial(unsigned port)
{
    struct sockaddr_vm to = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int fd = make_socket();

    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        err(1, "connect");
    return fd;
}

static void send_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);

        if (n <= 0)
            err(1, "write");
        data += n;
        len -= (size_t)n;
    }
}

/* Copies to the end. */
static void copy(int from, int to)
{
    ssize_t n;

    while ((n = read(from, buf, sizeof(buf))) > 0)
        send_all(to, buf, (size_t)n);
    if (n < 0)
        err(1, "read");
}

static void serve(unsigned port)
{
    struct sockaddr_vm at = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = make_socket();

    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 ||
        listen(listener, 100) < 0)
        err(1, "listen");
    if (daemon(0, 1) < 0)
        err(1, "daemon");
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0)
            err(1, "accept");
        if (fork() == 0) {
            copy(fd, fd);
            exit(0);
        }
        close(fd);
    }
}

static void call(unsigned port, const char *word)
{
    int fd = dial(port);

    send_all(fd, word, strlen(word));
    shutdown(fd, SHUT_WR);
    copy(fd, 1);
}

static void call_many(unsigned port, unsigned n)
{
    int fd[MOST];
    uint32_t got;

    if (n > MOST)
        errx(1, "%u connections are more than %u", n, MOST);
    for (unsigned i = 0; i < n; i++)
        fd[i] = dial(port);
    for (uint32_t i = 0; i < n; i++)
        send_all(fd[i], (const char *)&i, sizeof(i));
    for (unsigned i = 0; i < n; i++)
        if (recv(fd[i], &got, sizeof(got), MSG_WAITALL) != sizeof(got) || got != i)
            errx(1, "connection %u: a wrong answer", i);
}

int main(int argc, char **argv)
{
    unsigned port = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

    if (argc == 3 && strcmp(argv[1], "echo") == 0)
        serve(port);
    else if (argc == 4 && strcmp(argv[1], "call") == 0)
        call(port, argv[3]);
    else if (argc == 4 && strcmp(argv[1], "many") == 0)
        call_many(port, (unsigned)atoi(argv[3]));
    else
        errx(1, "usage: echo PORT, call PORT WORD, many PORT N");
    return 0;
}
