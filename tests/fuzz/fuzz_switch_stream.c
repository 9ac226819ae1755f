/* What comes to a switch over its three sockets: frames behind their lengths from a
 * foreign port, a monitor's hello and lines, a client's commands.  The switch is a whole
 * one, with a VM's port that is played here.  Checked is that what is understood does not
 * depend on how the bytes arrive, that every line of the switch is JSON of the form that
 * it should have, and that nothing is left when the other side has hung up.
 *
 * Input: one byte, which socket (modulo 3), one of how many bytes arrive at a time, then
 * what is said. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/switch/capture.h"
#include "src/switch/control.h"
#include "src/switch/port_stream.h"
#include "src/switch/port_vm.h"
#include "tests/unit/switch/fake_port.h"
#include "util/log.h"

enum { STREAM, MONITOR, CLIENT, SOCKETS };
enum { HEADER = 2, TURNS = 400, REPLIES = 1 << 20, FDS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static Switch *sw;
static char *replies; /* what the switch said */

static void check(bool promise)
{
    if (!promise)
        abort();
}

static void quit(void *opaque)
{
    ioloop_quit(sw->loop);
}

/* All that can happen now happens. */
static void turn(void)
{
    IoTimer timer = {0};

    ioloop_timer(sw->loop, &timer, 0, quit, NULL);
    ioloop_run(sw->loop);
    ioloop_timer_cancel(&timer);
}

/* Reads what is there, and closes the descriptors that come with it; false: hung up. */
static bool hear(int fd, size_t *len)
{
    char control[CMSG_SPACE(FDS * sizeof(int))];
    struct iovec iov = {replies + *len, REPLIES - *len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int got;

            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            close(got);
        }
    *len += (size_t)n;
    return n > 0;
}

/* Says all of it, `step` bytes at a time, as far as it is listened to. */
static size_t say(int fd, const uint8_t *data, size_t size, size_t step)
{
    size_t at = 0, heard = 0;
    bool there = true;

    for (unsigned i = 0; i < TURNS && there && at < size; i++) {
        ssize_t n = send(fd, data + at, MIN(step, size - at),
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0)
            at += (size_t)n;
        turn();
        there = hear(fd, &heard);
    }
    for (unsigned i = 0; i < 4 && there; i++) { /* lines that wait for their turn */
        turn();
        there = hear(fd, &heard);
    }
    return heard;
}

static void check_lines(unsigned which, size_t len)
{
    char *line = replies, *end;

    replies[len] = '\0';
    for (; (end = memchr(line, '\n', len - (size_t)(line - replies))); line = end + 1) {
        json_t *json;
        bool good, bad;

        *end = '\0';
        json = json_loads(line, 0, NULL);
        good = json_object_get(json, "return") != NULL;
        bad = json_is_string(json_object_get(json_object_get(json, "error"), "desc"));
        check(json_is_object(json));
        check(good != bad || (which == MONITOR && json_object_get(json, "link")));
        json_decref(json);
        if (which == CLIENT && sw->captures) /* and the rest is a file of pcap */
            return;
    }
}

/* Frames and bytes that the port counted. */
static uint64_t run(unsigned which, const uint8_t *data, size_t size, size_t step)
{
    static void (*const doors[])(Switch *, int) = {port_stream_accept, port_vm_accept,
                                                   clients_accept};
    const unsigned before = sw->n_ports;
    uint64_t counted = 0;
    size_t heard;
    int ends[2];

    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    doors[which](sw, ends[1]);
    heard = say(ends[0], data, size, step);
    if (which == STREAM && sw->n_ports > before)
        counted = sw->port[before]->count[FROM_VM].frames << 32 |
                  sw->port[before]->count[FROM_VM].bytes;
    if (which != STREAM)
        check_lines(which, heard);
    close(ends[0]);
    captures_free(sw);
    sw->captures = NULL;
    for (unsigned i = 0; i < 4; i++)
        turn();
    check(port_vm_waiting(sw) == 0 && clients_count(sw) == 0);
    while (sw->n_ports > before) /* what a client connected to */
        port_free(sw->port[sw->n_ports - 1]);
    return counted;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_set_level(LOG_ERROR);
    sw = fake_switch();
    sw->config->storm = 0;
    fake_port(sw, "web", 2);
    replies = malloc(REPLIES + 1);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEADER)
        return 0;
    const unsigned which = data[0] % SOCKETS;
    const size_t step = data[1] ? data[1] : size;
    const uint64_t counted = run(which, data + HEADER, size - HEADER, step);

    if (which == STREAM)
        check(counted == run(which, data + HEADER, size - HEADER, size));
    return 0;
}
