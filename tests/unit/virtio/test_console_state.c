/* A console in a saved state: no byte is lost or said twice, and the guest knows who is
 * there. */
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>

#include "console_guest.h"
#include "util/bits.h"
#include "util/fd.h"
/* Reads until `len` bytes are there, or nothing more comes in ten seconds. */
static size_t take(int fd, uint8_t *buf, size_t len)
{
    int64_t end_ns = clock_ns() + 10000000000;
    size_t done = 0;

    while (done < len && clock_ns() < end_ns) {
        ssize_t n = recv(fd, buf + done, len - done, 0);

        done += n > 0 ? (size_t)n : 0;
        vqg_settle(&g);
    }
    return done;
}

static void say(const char *text)
{
    vqg_do(&g, TX, text, (uint32_t)strlen(text), NULL, 0);
}

static void output_that_nobody_read_is_read_after_a_restore(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        autofd client = -1;
        uint8_t buf[16];

        start(vqg_modes[m], "");
        say("before ");
        vqg_restore(&g);
        say("after");
        client = dial();
        g_assert_cmpmem(buf, take(client, buf, 12), "before after", 12);
        end();
    }
}

/* The next client of a console with a log is told what was read before, too. */
static void with_a_log_the_next_client_is_told_what_was_said(void)
{
    g_autofree char *more = g_strdup_printf(",log=%s/log", folder);
    g_autofree char *log = g_strdup_printf("%s/log", folder);
    g_autofree char *logged = NULL;
    autofd client = -1, next = -1;
    uint8_t buf[16];

    start(0, more);
    client = dial();
    say("read. ");
    g_assert_cmpuint(take(client, buf, 6), ==, 6);
    vqg_restore(&g);
    say("new");
    next = dial();
    g_assert_cmpmem(buf, take(next, buf, 9), "read. new", 9);
    g_assert_true(g_file_get_contents(log, &logged, NULL, NULL));
    g_assert_cmpstr(logged, ==, "read. new");
    end();
    g_remove(log);
}

/* More than socket and ring hold: the rest is on the guest's ring, half done.  The next
 * client is there when the guest goes on: without one, old output gives way to new. */
static void output_half_done_is_finished_and_not_repeated(void)
{
    static uint8_t all[8 * RING], got[sizeof(all)];
    uint64_t gpa;
    size_t before;
    autofd client = -1, next = -1;
    g_autoptr(GBytes) state = NULL;
    VqgUsed used;

    for (size_t i = 0; i < sizeof(all); i++)
        all[i] = (uint8_t)(i * 7 + i / 251);
    start(0, "");
    client = dial();
    gpa = vqg_alloc(&g, sizeof(all));
    memcpy(vqg_mem(&g, gpa, sizeof(all)), all, sizeof(all));
    vqg_chain(&g, TX, &(VqgBuf){gpa, sizeof(all), OUT}, 1);
    vqg_kick_queue(&g, TX);
    g_assert_cmpuint(vqg_used_queue(&g, TX), ==, 0);
    state = vqg_save(&g);
    vqg_replace(&g, options);
    next = dial();
    g_assert_true(vqg_load(&g, state, NULL));
    vqg_resume(&g);
    for (before = 0;;) {
        ssize_t n = recv(client, got + before, sizeof(got) - before, 0);

        if (n <= 0)
            break;
        before += (size_t)n;
    }
    g_assert_cmpuint(before, >, 0);
    g_assert_cmpuint(before, <, sizeof(all));
    before += take(next, got + before, sizeof(all) - before);
    g_assert_true(vqg_take(&g, TX, &used));
    g_assert_cmpuint(before, ==, sizeof(all));
    g_assert_true(memcmp(got, all, sizeof(all)) == 0);
    end();
}

static void input_that_the_guest_did_not_take_waits_for_it(void)
{
    autofd client = -1;
    uint64_t gpa;
    VqgUsed used;

    start(0, "");
    client = dial();
    g_assert_true(fd_write_all(client, "typed", 5, NULL));
    vqg_settle(&g);
    vqg_restore(&g);
    gpa = vqg_alloc(&g, 16);
    vqg_chain(&g, RX, &(VqgBuf){gpa, 16, IN}, 1);
    vqg_kick_queue(&g, RX);
    g_assert_true(vqg_wait(&g, RX, 1));
    vqg_take(&g, RX, &used);
    g_assert_cmpmem(vqg_mem(&g, gpa, 5), used.len, "typed", 5);
    end();
}

/* ---- ports --------------------------------------------------------------------------
 */

static void control(uint16_t event, uint16_t value)
{
    Message m = {.event = event, .value = value};

    vqg_do(&g, CONTROL_TX, &m, 8, NULL, 0);
}

static Message hear(void)
{
    uint64_t gpa = vqg_alloc(&g, sizeof(Message));
    VqgUsed used;
    Message m = {0};

    vqg_chain(&g, CONTROL_RX, &(VqgBuf){gpa, sizeof(Message), IN}, 1);
    vqg_kick_queue(&g, CONTROL_RX);
    g_assert_true(vqg_wait(&g, CONTROL_RX, 1));
    vqg_take(&g, CONTROL_RX, &used);
    memcpy(&m, vqg_mem(&g, gpa, used.len), used.len);
    return m;
}

static void expect(uint16_t event, uint16_t value)
{
    Message m = hear();

    g_assert_cmpuint(m.event, ==, event);
    g_assert_cmpuint(m.value, ==, value);
}

static void a_port_learns_that_its_client_is_gone_and_stays_open_itself(void)
{
    autofd client = -1, next = -1;
    uint8_t buf[8];

    start(0, ",name=agent");
    client = dial();
    control(READY, 1);
    expect(ADD, 0);
    control(PORT_READY, 1);
    expect(NAME, 1);
    expect(OPEN, 1);
    control(OPEN, 1);
    vqg_restore(&g);
    g_assert_true(virtio_console_is_open(g.vdev));
    expect(OPEN, 0);
    next = dial();
    expect(OPEN, 1);
    say("hello");
    g_assert_cmpuint(take(next, buf, 5), ==, 5);
    end();
}

static void messages_that_wait_for_buffers_are_kept(void)
{
    start(0, ",name=agent");
    control(READY, 1);
    control(PORT_READY, 1);
    vqg_restore(&g);
    expect(ADD, 0);
    expect(NAME, 1);
    expect(OPEN, 0);
    end();
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-console-XXXXXX", NULL);
#define T(fn) g_test_add_func("/console-state/" #fn, fn)
    T(output_that_nobody_read_is_read_after_a_restore);
    T(with_a_log_the_next_client_is_told_what_was_said);
    T(output_half_done_is_finished_and_not_repeated);
    T(input_that_the_guest_did_not_take_waits_for_it);
    T(a_port_learns_that_its_client_is_gone_and_stays_open_itself);
    T(messages_that_wait_for_buffers_are_kept);
    status = g_test_run();
    g_rmdir(folder);
    g_free(folder);
    return status;
}
