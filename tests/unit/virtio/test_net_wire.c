/* virtio-net on an I/O thread with real host ends: user mode, and a tap in a network
 * namespace of the test's own.  The driver's side is the test's thread. */
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/backend/slirp_guest.h"
#include "util/bits.h"
#include "util/fd.h"
#include "virtio/devices.h"
#include "virtio/net_private.h"
#include "vq_guest.h"

enum { SKIP = 77, BUFS = 64, BUF_SIZE = 1526 };

static VqGuest g;
static void *options;
static uint64_t rx_gpa[NET_QUEUE_SIZE]; /* by token */
static uint64_t tx_gpa;
static uint8_t frame[NET_MAX_FRAME + BUF_SIZE]; /* as last received, with its header */

static void rx_offer(uint64_t gpa)
{
    rx_gpa[vqg_offer(&g, gpa, BUF_SIZE, IN)] = gpa;
}

static void start(const char *text, unsigned mode)
{
    GError *error = NULL;

    options = param_new(virtio_net_ops.params);
    param_parse(virtio_net_ops.params, options, text, &error);
    g_assert_no_error(error);
    vqg_open(&g, &virtio_net_ops,
             &(VqgSetup){.mode = mode | VQG_THREAD, .options = options});
    tx_gpa = vqg_alloc(&g, NET_HDR_LEN + sizeof(((Pkt *)0)->b));
    for (unsigned i = 0; i < BUFS; i++)
        rx_offer(vqg_alloc(&g, BUF_SIZE));
    vqg_kick(&g);
}

static void end(void)
{
    vqg_finish(&g);
    param_free(virtio_net_ops.params, options);
}

static void transmit(Pkt p)
{
    uint64_t gpa = tx_gpa;
    VqgUsed u;

    memcpy(vqg_mem(&g, gpa + NET_HDR_LEN, p.len), p.b, p.len);
    vqg_chain(
        &g, NET_TXQ,
        (VqgBuf[]){{gpa, NET_HDR_LEN, OUT}, {gpa + NET_HDR_LEN, (uint32_t)p.len, OUT}},
        2);
    vqg_kick_queue(&g, NET_TXQ);
    g_assert_true(vqg_wait(&g, NET_TXQ, 1));
    g_assert_true(vqg_take(&g, NET_TXQ, &u));
}

/* The next frame, put together of its buffers, which are offered again. */
static size_t receive(VnetHdr *ret_hdr)
{
    size_t len = 0;
    unsigned left = 1;
    VqgUsed u;

    for (bool first = true; left; left--, first = false) {
        uint64_t gpa;

        g_assert_true(vqg_wait(&g, NET_RXQ, 1));
        g_assert_true(vqg_take(&g, NET_RXQ, &u));
        gpa = rx_gpa[u.token];
        memcpy(frame + len, vqg_mem(&g, gpa, u.len), u.len);
        len += u.len;
        if (first) {
            memcpy(ret_hdr, frame, sizeof(*ret_hdr));
            left = ret_hdr->num_buffers;
            g_assert_cmpuint(left, >, 0);
        }
        rx_offer(gpa);
    }
    vqg_kick(&g);
    return len;
}

/* The next frame that matches; what of it does not fit a Pkt is in `frame`. */
static Pkt await(bool (*match)(const Pkt *p), VnetHdr *ret_hdr)
{
    Pkt p;

    do {
        size_t len = receive(ret_hdr) - NET_HDR_LEN;

        p.len = len;
        memcpy(p.b, frame + NET_HDR_LEN, MIN(len, sizeof(p.b)));
    } while (!match(&p));
    return p;
}

static bool any_udp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_UDP);
}

static bool any_tcp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_TCP);
}

static bool echo_reply(const Pkt *p)
{
    return is_ip4(p, IPPROTO_ICMP) && l4(p)[0] == 0;
}

static bool arp_reply(const Pkt *p)
{
    return is_arp(p, 2);
}

static void a_driver_gets_an_address_and_pings(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        VnetHdr h;
        Pkt p;

        start("user", vqg_modes[m]);
        transmit(dhcp(1));
        p = await(any_udp, &h);
        g_assert_cmphex(get32(l4(&p) + UDP + 16), ==, GUEST);
        for (unsigned i = 0; i < 300; i++) {
            transmit(ping(HOST, i));
            p = await(echo_reply, &h);
            g_assert_cmpuint(get16(l4(&p) + 6), ==, i);
        }
        virtio_quiesce(g.vdev);
        virtio_resume(g.vdev);
        transmit(ping(HOST, 999));
        p = await(echo_reply, &h);
        end();
    }
}

/* ---- a tap in a namespace -----------------------------------------------------------
 */

static void set_address(const char *name, uint32_t address)
{
    autofd s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {0};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    memcpy(&ifr.ifr_addr, &a, sizeof(a));
    g_assert_cmpint(ioctl(s, SIOCSIFADDR, &ifr), ==, 0);
}

/* The host's kernel sends a stream; the guest's side of TCP is played here. */
static void stream_body(unsigned mode)
{
    static uint8_t data[200000];
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(5000), .sin_addr.s_addr = htonl(HOST)};
    autofd server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t sent = 0, largest = 0;
    uint32_t base, got = 0;
    uint8_t mac[6];
    VnetHdr h;
    Pkt p;

    start("tap,ifname=hutch0", mode);
    set_address("hutch0", HOST);
    g_assert_cmpint(bind(server, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(server, 1), ==, 0);

    transmit(arp(1, GUEST, HOST));
    p = await(arp_reply, &h);
    memcpy(mac, p.b + 6, 6);
    p = tcp(6000, HOST, 5000, TCP_SYN, 1, 0, "");
    memcpy(p.b, mac, 6);
    transmit(p);
    p = await(any_tcp, &h);
    g_assert_cmpuint(l4(&p)[13], ==, TCP_SYN | TCP_ACK);
    base = get32(l4(&p) + 4) + 1;
    p = tcp(6000, HOST, 5000, TCP_ACK, 2, base, "");
    memcpy(p.b, mac, 6);
    transmit(p);

    autofd conn = accept(server, NULL, NULL);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    while (got < sizeof(data)) {
        ssize_t n = send(conn, data + sent, sizeof(data) - sent, MSG_DONTWAIT);
        size_t len, header;

        sent += (size_t)MAX(n, 0);
        p = await(any_tcp, &h);
        header = ETH + IP + (size_t)(l4(&p)[12] >> 4) * 4;
        len = p.len - header;
        if (get32(l4(&p) + 4) == base + got) {
            g_assert_cmpmem(frame + NET_HDR_LEN + header, len, data + got, len);
            got += (uint32_t)len;
        }
        if (len > 1500)
            g_assert_cmpuint(h.gso_type & ~VNET_GSO_ECN, ==, VNET_GSO_TCPV4);
        largest = MAX(largest, len);
        p = tcp(6000, HOST, 5000, TCP_ACK, 2, base + got, "");
        memcpy(p.b, mac, 6);
        transmit(p);
    }
    g_assert_cmpuint(largest, >, 10000); /* segments are left to the guest */
    end();
}

static void in_namespace(void (*body)(unsigned mode), unsigned mode)
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
            _exit(SKIP);
        if (access("/dev/net/tun", R_OK | W_OK) < 0)
            _exit(SKIP);
        body(mode);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP)
        g_test_skip("no /dev/net/tun, or no permission to make a network namespace");
    else
        g_assert_cmpint(status, ==, 0);
}

static void a_stream_of_the_host_comes_in_large_frames(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++)
        in_namespace(stream_body, vqg_modes[m]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/net-wire/" #name, name)
    add(a_driver_gets_an_address_and_pings);
    add(a_stream_of_the_host_comes_in_large_frames);
    return g_test_run();
}
