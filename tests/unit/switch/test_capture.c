/* Captures, read by tcpdump where it is installed. */
#include "src/switch/capture.h"

#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/fd.h"

enum { FILE_HEADER = 24, RECORD = 16 };

#define REPLY "{\"return\": {}}\n"

static uint8_t trunk[512] = {[0] = 0x80 /* VLAN 7 */};
static Switch sw = {.name = "lan", .n_ports = 2};
static Port web = {
    .sw = &sw, .id = 0, .vm = (char *)"web", .nic = (char *)"net0", .trunk = trunk};
static Port db = {.sw = &sw, .id = 1, .vm = (char *)"db"};

/* UDP from 10.5.0.7:1000 to 10.5.0.8:PORT, its checksum left to others; in memory of the
 * caller. */
static Frame udp(uint8_t data[60], uint16_t to_port)
{
    static const uint8_t bytes[] = "\2\0\0\0\0\1\2\0\0\0\0\2\x08\x00"
                                   "\x45\0\0\x2e\0\0\0\0\x40\x11\0\0"
                                   "\x0a\5\0\7\x0a\5\0\x08"
                                   "\3\xe8\0\0\0\x1a\0\0"
                                   "18 bytes of text..";
    static const uint8_t pseudo[] = {0, IPPROTO_UDP, 0, 26};
    Frame f = {.data = data, .len = 60};
    uint16_t sum;

    memcpy(data, bytes, 60);
    sum = checksum_end(checksum_add(0, data + 14, 20));
    memcpy(data + 24, &sum, sizeof(sum));
    sum = (uint16_t)~checksum_end(checksum_add(checksum_add(0, data + 26, 8), pseudo, 4));
    memcpy(data + 40, &sum, sizeof(sum));
    data[36] = (uint8_t)(to_port >> 8);
    data[37] = (uint8_t)to_port;
    f.hdr = (VnetHdr){.flags = VNET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    packet_parse(f.data, f.len, &f.p);
    return f;
}

static int start(const char *arguments)
{
    g_autoptr(GError) error = NULL;
    json_t *object = json_loads(arguments, 0, NULL);
    int fd[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), ==, 0);
    capture_start(&sw, fd[1], object, &error);
    g_assert_no_error(error);
    json_decref(object);
    return fd[0];
}

static void quit(void *opaque)
{
    ioloop_quit(sw.loop);
}

/* Lets the loop go round until it has nothing more to do. */
static void turn(void)
{
    IoTimer timer = {0};

    ioloop_timer(sw.loop, &timer, clock_ns() + 2000000, quit, NULL);
    ioloop_run(sw.loop);
}

/* All that the switch has for the client; ended by the switch if `end`. */
static GByteArray *drain(int fd)
{
    GByteArray *all = g_byte_array_new();
    uint8_t buf[65536];
    ssize_t n;

    for (unsigned quiet = 0; quiet < 2;) {
        turn();
        n = read(fd, buf, sizeof(buf));
        if (n == 0)
            break;
        if (n > 0)
            g_byte_array_append(all, buf, (guint)n);
        quiet = n > 0 ? 0 : quiet + 1;
    }
    return all;
}

/* What `tcpdump -r` says, a line a frame. */
static char *tcpdump(const GByteArray *all)
{
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GError) error = NULL;
    const char *argv[] = {"tcpdump", "-nn", "-t", "-vv", "-e", "-r", NULL, NULL};
    int status;

    int fd = g_file_open_tmp("hutch-capture-XXXXXX", &path, &error);

    g_assert_no_error(error);
    g_assert_cmpint(write(fd, all->data + strlen(REPLY), all->len - strlen(REPLY)), ==,
                    all->len - strlen(REPLY));
    close(fd);
    argv[6] = path;
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &text, NULL,
                 &status, &error);
    unlink(path);
    if (error) {
        g_test_message("%s", error->message);
        return NULL;
    }
    g_assert_cmpint(status, ==, 0);
    return g_steal_pointer(&text);
}

static unsigned count_of(const char *text, const char *what)
{
    unsigned n = 0;

    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

static void tcpdump_reads_what_was_captured(void)
{
    uint8_t data[60];
    Frame f = udp(data, 53);
    g_autofree char *text = NULL;
    GByteArray *all;
    int fd = start("{}");

    capture_frame(&sw, &web, FROM_VM, &f);
    capture_frame(&sw, &db, TO_VM, &f);  /* is the same one */
    capture_frame(&sw, NULL, TO_VM, &f); /* the gateway's */
    f.vlan = 7;
    capture_frame(&sw, &web, FROM_VM, &f);
    g_assert_cmphex(f.hdr.flags, ==, VNET_NEEDS_CSUM);
    all = drain(fd);
    g_assert_cmpmem(all->data, strlen(REPLY), REPLY, strlen(REPLY));
    g_assert_cmpuint(all->len, ==, strlen(REPLY) + FILE_HEADER + 3 * (RECORD + 60) + 4);
    text = tcpdump(all);
    if (text) {
        g_assert_cmpuint(count_of(text, "10.5.0.7.1000 > 10.5.0.8.53"), ==, 3);
        g_assert_cmpuint(count_of(text, "vlan 7"), ==, 1);
        g_assert_cmpuint(count_of(text, "udp sum ok"), ==, 3);
    }
    g_byte_array_free(all, TRUE);
    close(fd);
    turn();
    g_assert_null(sw.captures);
}

static void only_what_was_asked_for_is_captured(void)
{
    uint8_t data[60];
    g_autofree char *text = NULL;
    GByteArray *all;
    int fd = start("{\"vm\": \"db\", \"filter\": \"udp port 53\", \"count\": 2, "
                   "\"snaplen\": 50}");

    for (unsigned i = 0; i < 5; i++) {
        Frame dns = udp(data, 53), other;

        capture_frame(&sw, &web, FROM_VM, &dns);
        other = udp(data, 54);
        capture_frame(&sw, &db, TO_VM, &other);
        dns = udp(data, 53);
        capture_frame(&sw, &db, i & 1 ? TO_VM : FROM_VM, &dns);
    }
    all = drain(fd);
    g_assert_null(sw.captures); /* after two it is over */
    g_assert_cmpuint(all->len, ==, strlen(REPLY) + FILE_HEADER + 2 * (RECORD + 50));
    text = tcpdump(all);
    if (text) {
        g_assert_cmpuint(count_of(text, "10.5.0.8.53"), ==, 2);
        g_assert_cmpuint(count_of(text, "length 60"), ==, 2);
    }
    g_byte_array_free(all, TRUE);
    close(fd);
}

/* And whoever reads later finds whole frames. */
static void who_reads_slowly_loses_frames_and_nobody_waits(void)
{
    uint8_t data[60];
    Frame f = udp(data, 53);
    const unsigned n = 3 * CAPTURE_BUFFER / (RECORD + 60);
    json_t *list;
    json_int_t lost, frames;
    GByteArray *all;
    int fd = start("{}");

    for (unsigned i = 0; i < n; i++) {
        capture_frame(&sw, &web, FROM_VM, &f);
        if (i % 1000 == 0)
            turn();
    }
    list = captures_json(&sw);
    lost = json_integer_value(json_object_get(json_array_get(list, 0), "lost"));
    frames = json_integer_value(json_object_get(json_array_get(list, 0), "frames"));
    json_decref(list);
    g_assert_cmpint(lost, >, n / 4);
    g_assert_cmpint(frames + lost, ==, n);
    all = drain(fd);
    g_assert_cmpuint(all->len, ==,
                     strlen(REPLY) + FILE_HEADER + (size_t)frames * (RECORD + 60));
    capture_frame(&sw, &web, FROM_VM, &f);
    g_byte_array_free(all, TRUE);
    all = drain(fd);
    g_assert_cmpuint(all->len, ==, RECORD + 60);
    g_byte_array_free(all, TRUE);
    captures_free(&sw);
    g_assert_null(sw.captures);
    close(fd);
}

static void refuse(const char *arguments, const char *expect)
{
    g_autoptr(GError) error = NULL;
    json_t *object = json_loads(arguments, 0, NULL);
    int fd[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), ==, 0);
    g_assert_false(capture_start(&sw, fd[1], object, &error));
    g_assert_true(g_str_has_prefix(error->message, expect));
    g_assert_null(sw.captures);
    json_decref(object);
    close(fd[0]);
    g_assert_cmpint(close(fd[1]), ==, 0); /* still ours */
}

static void nonsense_is_refused(void)
{
    refuse("{\"vm\": \"wep\"}", "VM 'wep' has no card on this network");
    refuse("{\"port\": 2}", "this network has no port 2");
    refuse("{\"filter\": \"port what\"}", "pcap filter 'port what': ");
    refuse("{\"filter\": 7}", "filter is a text");
    refuse("{\"snaplen\": 1000000}", "snaplen is a whole number from 0 to 262144");
    refuse("{\"count\": -1}", "count is a whole number from 0 to ");
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    sw.loop = ioloop_new(NULL);
    g_assert_nonnull(sw.loop);
    sw.port[0] = &web;
    sw.port[1] = &db;
    g_test_add_func("/capture/tcpdump_reads_what_was_captured",
                    tcpdump_reads_what_was_captured);
    g_test_add_func("/capture/only_what_was_asked_for_is_captured",
                    only_what_was_asked_for_is_captured);
    g_test_add_func("/capture/who_reads_slowly_loses_frames_and_nobody_waits",
                    who_reads_slowly_loses_frames_and_nobody_waits);
    g_test_add_func("/capture/nonsense_is_refused", nonsense_is_refused);
    status = g_test_run();
    ioloop_free(sw.loop);
    return status;
}
