/* A vsock device in a saved state: connections end, listeners stay, the guest is told. */
#include <string.h>

#include "util/fd.h"
#include "virtio/devices.h"
#include "vsock_guest.h"

enum { BUFFERS = 16, EVENT_NONE = 0xaa };

static Packet p;

static uint64_t offer_event(void)
{
    uint64_t gpa = vqg_alloc(&g, 4);

    memset(vqg_mem(&g, gpa, 4), EVENT_NONE, 4);
    vqg_chain(&g, VSOCK_EVENT, &(VqgBuf){gpa, 4, IN}, 1);
    vqg_kick_queue(&g, VSOCK_EVENT);
    return gpa;
}

/* A TRANSPORT_RESET (virtio 1.2, 5.10.6.7), and nothing else. */
static void expect_reset(uint64_t gpa)
{
    static const uint8_t reset[4];
    VqgUsed used;

    g_assert_true(vqg_take(&g, VSOCK_EVENT, &used));
    g_assert_cmpuint(used.len, ==, 4);
    g_assert_cmpmem(vqg_mem(&g, gpa, 4), 4, reset, 4);
    g_assert_cmpuint(vqg_used_queue(&g, VSOCK_EVENT), ==, 0);
}

static void connections_end_and_new_ones_are_made_in_every_ring_layout(void)
{
    for (unsigned m = 0; m < 2 * VQG_N_MODES; m++) {
        autofd client = -1, server = -1, again = -1;
        uint32_t port, port_again;
        uint64_t event;

        vsg_open(vqg_modes[m / 2] | (m % 2 ? VQG_THREAD : 0), BUFFERS);
        event = offer_event();
        port = vsg_client_opens(&client);
        server = vsg_guest_opens();
        vqg_restore(&g);
        expect_reset(event);
        g_assert_true(vsg_ended(client));
        g_assert_true(vsg_ended(server));
        vsg_send(VSOCK_OP_RW, 52, port, "late", 4);
        vsg_expect(&p, VSOCK_OP_RST);

        port_again = vsg_client_opens(&again);
        g_assert_cmpuint(port_again, !=, port);
        vsg_put(again, "ping", 4);
        vsg_expect(&p, VSOCK_OP_RW);
        g_assert_cmpmem(p.data, p.h.len, "ping", 4);
        vsg_close();
        vsg_unlisten("_80");
    }
}

static void the_reset_waits_for_a_buffer_over_another_restore(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    vsg_client_opens(&client);
    vqg_restore(&g);
    vqg_restore(&g);
    expect_reset(offer_event());
    offer_event();
    vqg_restore(&g);
    g_assert_cmpuint(vqg_used_queue(&g, VSOCK_EVENT), ==, 0);
    vsg_close();
}

static void without_connections_nothing_is_told(void)
{
    vsg_open(0, BUFFERS);
    offer_event();
    vqg_restore(&g);
    g_assert_cmpuint(vqg_used_queue(&g, VSOCK_EVENT), ==, 0);
    vsg_close();
}

/* The guest reads it again when it is told of a reset. */
static void a_guest_with_another_cid_is_told(void)
{
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;
    const void *before;
    uint64_t event;
    void *options;

    vsg_open(0, BUFFERS);
    event = offer_event();
    before = g.setup.options;
    path = g_strdup(vsg_device()->path);
    text = g_strdup_printf("77,path=%s", path);
    options = param_new(virtio_vsock_ops.params);
    param_parse(virtio_vsock_ops.params, options, text, &error);
    g_assert_no_error(error);
    state = vqg_save(&g);
    vqg_replace(&g, options);
    vqg_load(&g, state, &error);
    g_assert_no_error(error);
    vqg_resume(&g);
    expect_reset(event);
    g_assert_cmpuint(vqg_config(&g, 0, 8), ==, 77);
    param_free(virtio_vsock_ops.params, options);
    g.setup.options = before;
    vsg_close();
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    vsg_init();
#define T(fn) g_test_add_func("/vsock-state/" #fn, fn)
    T(connections_end_and_new_ones_are_made_in_every_ring_layout);
    T(the_reset_waits_for_a_buffer_over_another_restore);
    T(without_connections_nothing_is_told);
    T(a_guest_with_another_cid_is_told);
    status = g_test_run();
    vsg_done();
    return status;
}
