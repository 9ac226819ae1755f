/* virtio-console by its driver's side, with a unix socket or a file at the other end. */
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "console_guest.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"

enum { PAGE = 4096 };

static unsigned n_events;

static void put(int fd, const char *text)
{
    g_assert_true(fd_write_all(fd, text, strlen(text), NULL));
    vqg_settle(&g);
}

/* Reads what there is, up to len. */
static size_t take(int fd, void *buf, size_t len)
{
    size_t done = 0;

    for (;;) {
        ssize_t n = recv(fd, (char *)buf + done, len - done, 0);

        if (n <= 0)
            return done;
        done += (size_t)n;
    }
}

static uint64_t offer_input(uint32_t len)
{
    uint64_t gpa = vqg_alloc(&g, len);

    vqg_chain(&g, RX, &(VqgBuf){gpa, len, IN}, 1);
    vqg_kick_queue(&g, RX);
    return gpa;
}

static void expect_input(uint64_t gpa, const char *text)
{
    VqgUsed used;

    g_assert_true(vqg_wait(&g, RX, 1));
    g_assert_true(vqg_take(&g, RX, &used));
    g_assert_cmpmem(vqg_mem(&g, gpa, used.len), used.len, text, strlen(text));
}

static void bytes_pass_both_ways_in_every_ring_layout(void)
{
    for (unsigned i = 0; i < VQG_N_MODES; i++) {
        char buf[64] = "";
        uint64_t first, second;
        autofd client = -1;

        start(vqg_modes[i], "");
        client = dial();
        g_assert_cmpuint(vqg_do(&g, TX, "hello", 5, NULL, 0), ==, 0);
        vqg_settle(&g);
        take(client, buf, sizeof(buf));
        g_assert_cmpstr(buf, ==, "hello");

        first = offer_input(4);
        second = offer_input(16);
        put(client, "login"); /* over two buffers */
        expect_input(first, "logi");
        expect_input(second, "n");
        g_assert_cmpuint(vqg_interrupts(&g, RX), >, 0);
        end();
    }
}

static void count_event(void *opaque, const char *name, json_t *data)
{
    g_assert_cmpstr(name, ==, "X_HUTCH_USER_OUTPUT");
    n_events++;
}

/* Each event goes to all clients, and who is slow to read them is hung up on. */
static void a_guest_that_resets_it_without_end_does_not_flood_with_events(void)
{
    int64_t begin = clock_ns();

    start(0, "");
    n_events = 0;
    g.env.event = count_event;
    for (unsigned i = 0; i < 200; i++) {
        vqg_do(&g, TX, "x", 1, NULL, 0);
        vqg_settle(&g);
        vqg_reset(&g);
        vqg_start(&g);
    }
    g_assert_cmpuint(n_events, >=, LOG_BURST);
    g_assert_cmpint(n_events, <=, LOG_BURST + 1 + (clock_ns() - begin) / 1000000000);
    end();
}

static void input_waits_for_buffers_and_none_is_lost(void)
{
    autofd client = -1;
    uint64_t gpa;

    start(0, "");
    client = dial();
    put(client, "typed ahead");
    g_assert_cmpuint(vqg_used_queue(&g, RX), ==, 0);
    gpa = offer_input(5);
    expect_input(gpa, "typed");
    gpa = offer_input(64);
    expect_input(gpa, " ahead");
    end();
}

/* Fills socket and ring, until the device leaves chains on the ring. */
static unsigned stuff(uint64_t gpa, uint32_t len)
{
    unsigned sent = 0;
    VqgUsed used;

    for (;;) {
        vqg_chain(&g, TX, &(VqgBuf){gpa, len, OUT}, 1);
        vqg_kick_queue(&g, TX);
        sent++;
        vqg_settle(&g);
        if (!vqg_take(&g, TX, &used))
            return sent;
        g_assert_cmpuint(sent, <, 1000);
    }
}

static void slow_reader_leaves_output_on_the_ring_and_loses_none(void)
{
    enum { LEN = 10007 }; /* so that the ring fills up in the middle of a request */
    for (unsigned i = 0; i < VQG_N_MODES; i++) {
        g_autofree uint8_t *back = NULL;
        autofd client = -1;
        size_t done = 0;
        unsigned sent;
        uint64_t gpa;

        start(vqg_modes[i], "");
        client = dial();
        gpa = vqg_alloc(&g, LEN);
        for (unsigned at = 0; at < LEN; at++)
            *(uint8_t *)vqg_mem(&g, gpa + at, 1) = (uint8_t)(at % 253);
        sent = stuff(gpa, LEN);
        g_assert_cmpuint(sent, >, RING / LEN);
        back = g_malloc(sent * LEN);
        for (unsigned turn = 0; turn < 1000 && done < sent * LEN; turn++) {
            done += take(client, back + done, sent * LEN - done);
            vqg_settle(&g);
        }
        g_assert_cmpuint(done, ==, sent * LEN);
        for (size_t at = 0; at < done; at++)
            g_assert_cmpuint(back[at], ==, at % LEN % 253);
        g_assert_cmpuint(vqg_used_queue(&g, TX), ==, 1);
        end();
    }
}

static void pause_in_the_middle_of_output_repeats_and_loses_nothing(void)
{
    enum { LEN = 10007 };
    g_autofree uint8_t *back = NULL;
    autofd client = -1;
    size_t done = 0;
    unsigned sent;
    uint64_t gpa;

    start(0, "");
    client = dial();
    gpa = vqg_alloc(&g, LEN);
    sent = stuff(gpa, LEN);
    back = g_malloc(sent * LEN + 1);
    virtio_quiesce(g.vdev);
    for (unsigned turn = 0; turn < 10; turn++) {
        done += take(client, back + done, sent * LEN + 1 - done);
        vqg_settle(&g);
    }
    g_assert_cmpuint(done, <, sent * LEN);
    g_assert_cmpuint(vqg_used_queue(&g, TX), ==, 0);
    virtio_resume(g.vdev);
    for (unsigned turn = 0; turn < 1000 && done < sent * LEN; turn++) {
        vqg_settle(&g);
        done += take(client, back + done, sent * LEN + 1 - done);
    }
    g_assert_cmpuint(done, ==, sent * LEN);
    end();
}

static void reset_forgets_output_half_done(void)
{
    char buf[64] = "";
    autofd client = -1;

    start(0, "");
    client = dial();
    stuff(vqg_alloc(&g, 10007), 10007);
    vqg_reset(&g);
    for (unsigned turn = 0; turn < 100; turn++) {
        g_autofree char *trash = g_malloc(RING);

        take(client, trash, RING);
        vqg_settle(&g);
    }
    vqg_start(&g);
    vqg_do(&g, TX, "again", 5, NULL, 0);
    vqg_settle(&g);
    take(client, buf, sizeof(buf));
    g_assert_cmpstr(buf, ==, "again");
    end();
}

static void emergency_write_needs_no_driver(void)
{
    char buf[8] = "";
    uint32_t word = '!';
    autofd client = -1;

    start(0, "");
    client = dial();
    vqg_reset(&g);
    virtio_config_write(g.vdev, 8, &word, 4);
    virtio_config_write(g.vdev, 0, &word, 4); /* not writable */
    vqg_settle(&g);
    take(client, buf, sizeof(buf));
    g_assert_cmpstr(buf, ==, "!");
    end();
}

static void buffer_without_room_breaks_the_device_not_the_monitor(void)
{
    autofd client = -1;

    start(0, "");
    client = dial();
    vqg_chain(&g, RX, &(VqgBuf){vqg_alloc(&g, 8), 8, OUT}, 1);
    vqg_kick_queue(&g, RX);
    put(client, "x");
    g_assert_true(vqg_broken(&g));
    end();
}

/* ---- ports ------------------------------------------------------------------------ */

static void say(uint32_t id, uint16_t event, uint16_t value)
{
    Message m = {id, event, value, ""};

    vqg_do(&g, CONTROL_TX, &m, 8, NULL, 0);
    vqg_settle(&g);
}

static uint64_t control_gpa[16];
static unsigned n_control, next_control;

static void offer_control(unsigned n)
{
    n_control = n;
    next_control = 0;
    for (unsigned i = 0; i < n; i++) {
        control_gpa[i] = vqg_alloc(&g, sizeof(Message));
        vqg_chain(&g, CONTROL_RX, &(VqgBuf){control_gpa[i], sizeof(Message), IN}, 1);
    }
    vqg_kick_queue(&g, CONTROL_RX);
}

static void expect_control(uint16_t event, uint16_t value, const char *text)
{
    Message m = {0};
    VqgUsed used;

    g_assert_true(vqg_wait(&g, CONTROL_RX, 1));
    g_assert_true(vqg_take(&g, CONTROL_RX, &used));
    g_assert_cmpuint(used.len, ==, 8 + strlen(text));
    memcpy(&m, vqg_mem(&g, control_gpa[next_control++], used.len), used.len);
    g_assert_cmpuint(m.id, ==, 0);
    g_assert_cmpuint(m.event, ==, event);
    g_assert_cmpuint(m.value, ==, value);
    g_assert_cmpstr(m.text, ==, text);
}

static void named_port_introduces_itself_and_follows_its_client(void)
{
    autofd client = -1;
    uint64_t gpa;

    start(0, ",name=org.example.agent");
    g_assert_cmpuint(g.vdev->n_queues, ==, 4);
    g_assert_cmpuint(vqg_config(&g, 4, 4), ==, 1);
    offer_control(8);
    g_assert_cmpuint(vqg_used_queue(&g, CONTROL_RX), ==, 0); /* not before it is asked */
    say(0, READY, 1);
    expect_control(ADD, 0, "");
    say(0, PORT_READY, 1);
    expect_control(NAME, 1, "org.example.agent");
    expect_control(OPEN, 0, "");
    client = dial();
    expect_control(OPEN, 1, "");

    gpa = offer_input(16);
    put(client, "ping");
    g_assert_cmpuint(vqg_used_queue(&g, RX), ==, 0); /* nobody in the guest has it open */
    say(0, OPEN, 1);
    expect_input(gpa, "ping");
    fd_close(&client);
    vqg_settle(&g);
    expect_control(OPEN, 0, "");
    end();
}

static void messages_wait_for_buffers_without_growing(void)
{
    start(0, ",name=p");
    for (unsigned i = 0; i < 1000; i++) {
        say(0, READY, 1);
        say(0, PORT_READY, 1);
    }
    offer_control(8);
    expect_control(ADD, 0, "");
    expect_control(NAME, 1, "p");
    expect_control(OPEN, 0, "");
    g_assert_cmpuint(vqg_used_queue(&g, CONTROL_RX), ==, 0);
    end();
}

static void senseless_messages_are_ignored(void)
{
    char junk[3] = "abc";
    GRand *rand = g_rand_new_with_seed(1);

    start(0, ",name=p");
    vqg_do(&g, CONTROL_TX, junk, 3, NULL, 0);
    vqg_do(&g, CONTROL_TX, NULL, 0, junk, 3);
    for (unsigned i = 0; i < 5000; i++)
        say(g_rand_int(rand) % 3 - 1, (uint16_t)(g_rand_int(rand) % 12),
            (uint16_t)g_rand_int(rand));
    g_assert_false(vqg_broken(&g));
    say(0, READY, 0); /* "the driver failed" is not an invitation */
    vqg_reset(&g);
    vqg_start(&g);
    offer_control(8);
    say(0xffffffff, PORT_READY, 1); /* not our port */
    g_assert_cmpuint(vqg_used_queue(&g, CONTROL_RX), ==, 0);
    g_rand_free(rand);
    end();
}

static void small_control_buffers_get_what_fits(void)
{
    VqgUsed used;

    start(0, ",name=a-rather-long-name");
    vqg_chain(&g, CONTROL_RX, &(VqgBuf){vqg_alloc(&g, 8), 8, IN}, 1);
    vqg_chain(&g, CONTROL_RX, &(VqgBuf){vqg_alloc(&g, 8), 8, IN}, 1);
    say(0, READY, 1);
    say(0, PORT_READY, 1);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_true(vqg_take(&g, CONTROL_RX, &used));
        g_assert_cmpuint(used.len, ==, 8);
    }
    end();
}

static void driver_without_multiport_has_a_plain_console(void)
{
    autofd client = -1;
    char buf[8] = "";
    uint64_t gpa;

    start(0, ",name=p");
    vqg_reset(&g);
    g.setup.refuse = BIT64(1);
    vqg_start(&g);
    client = dial();
    gpa = offer_input(8);
    put(client, "in");
    expect_input(gpa, "in");
    vqg_do(&g, TX, "out", 3, NULL, 0);
    vqg_settle(&g);
    take(client, buf, sizeof(buf));
    g_assert_cmpstr(buf, ==, "out");
    end();
}

static void works_on_an_io_thread(void)
{
    char buf[8] = "";
    struct pollfd p = {.events = POLLIN};
    autofd client = -1;
    uint64_t gpa;

    start(VQG_THREAD, "");
    client = p.fd = dial();
    vqg_do(&g, TX, "out", 3, NULL, 0);
    g_assert_cmpint(poll(&p, 1, 5000), ==, 1);
    take(client, buf, sizeof(buf));
    g_assert_cmpstr(buf, ==, "out");
    gpa = offer_input(8);
    put(client, "in");
    expect_input(gpa, "in");
    vqg_reset(&g);
    put(client, "more");
    end();
}

static void options_are_checked(void)
{
    static const struct {
        const char *text, *why;
    } bad[] = {{"", "no place to go to"},
               {"name=x", "no place to go to"},
               {"stdio,name=", "1 to 64 bytes"},
               {"stdio,socket=x", "too many places"},
               {"vga", "none of: none, stdio, pty"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        ConsoleOptions *o = param_new(virtio_console_ops.params);
        g_autoptr(GError) error = NULL;

        g_assert_false(param_parse(virtio_console_ops.params, o, bad[i].text, &error));
        g_assert_nonnull(strstr(error->message, bad[i].why));
        param_free(virtio_console_ops.params, o);
    }
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-console-XXXXXX", NULL);
#define T(fn) g_test_add_func("/console/" #fn, fn)
    T(bytes_pass_both_ways_in_every_ring_layout);
    T(a_guest_that_resets_it_without_end_does_not_flood_with_events);
    T(input_waits_for_buffers_and_none_is_lost);
    T(slow_reader_leaves_output_on_the_ring_and_loses_none);
    T(pause_in_the_middle_of_output_repeats_and_loses_nothing);
    T(reset_forgets_output_half_done);
    T(emergency_write_needs_no_driver);
    T(buffer_without_room_breaks_the_device_not_the_monitor);
    T(named_port_introduces_itself_and_follows_its_client);
    T(messages_wait_for_buffers_without_growing);
    T(senseless_messages_are_ignored);
    T(small_control_buffers_get_what_fits);
    T(driver_without_multiport_has_a_plain_console);
    T(works_on_an_io_thread);
    T(options_are_checked);
    status = g_test_run();
    g_rmdir(folder);
    g_free(folder);
    return status;
}
