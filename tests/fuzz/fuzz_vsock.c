/* virtio-vsock against a guest made of noise, with real sockets at the other side.
 * Checked is what vsock_private.h promises of connections, after every step: that no more
 * is kept than the guest was told of, that slots are in one list, and that bits are owed
 * only by who waits for a receive buffer.
 *
 * Input: steps of 8 bytes.  The first chooses what happens, the others are its contents:
 * a packet from the guest, receive buffers, or what a client or a server of the host
 * does. */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/virtio/vq_guest.h"
#include "util/fd.h"
#include "virtio/devices.h"
#include "virtio/vsock_private.h"

enum { STEP = 8, MAX_STEPS = 64, SOCKETS = 4, RX_BUFS = 32, DATA = 60000, CID = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static VqGuest g;
static char path[64], served[64];
static uint64_t tx_gpa, rx_gpa;
static int listener = -1, sock[SOCKETS];
static uint32_t last_port; /* of the host, as the guest last heard it */

static void check(bool promise)
{
    if (!promise)
        abort();
}

static Vsock *vs(void)
{
    return (Vsock *)g.vdev;
}

static struct sockaddr_un address(const char *at)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    g_strlcpy(addr.sun_path, at, sizeof(addr.sun_path));
    return addr;
}

static int make_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* ---- promises --------------------------------------------------------------------- */

static void check_conns(void)
{
    unsigned n_free = 0, n_queued = 0;

    for (unsigned i = 0; i < VSOCK_SLOTS; i++) {
        const VsockConn *c = &vs()->slot[i];

        n_free += c->state == VSOCK_FREE;
        n_queued += c->queued;
        check(vsock_kept(c) <= VSOCK_BUF);
        check(c->queued || !c->tell);
        check(c->hashed ==
              (vsock_conn_find(vs(), c->type, c->host_port, c->guest_port) == c));
        check(c->state != VSOCK_FREE || (c->fd < 0 && !c->hashed && !c->buf));
        check(c->state != VSOCK_HELLO || (c->fd >= 0 && !c->hashed));
        check(c->state != VSOCK_ASKED || (c->fd >= 0 && c->hashed));
        check(c->state != VSOCK_OPEN || c->hashed);
        check(!c->hung || !vsock_kept(c)); /* it would be kept for ever */
        check(!c->hung || c->state != VSOCK_OPEN || vsock_listens(c) ||
              c->host_shut == VSOCK_NO_MORE);
    }
    check(n_free == vs()->free.length);
    check(n_queued == vs()->ready.length);
}

/* ---- steps ------------------------------------------------------------------------ */

static void send_packet(const uint8_t *s)
{
    static const uint32_t ports[] = {80, 81, 1 << 30, UINT32_MAX};
    static const uint32_t counts[] = {0, 1, 4096, 65536, 0x80000000, UINT32_MAX};
    VsockHdr h = {.src_cid = CID, .dst_cid = VSOCK_HOST_CID, .type = VSOCK_STREAM};
    VqgUsed used;

    h.op = s[1] % 9;
    h.src_port = s[2] % 4;
    h.dst_port = s[2] & 0x80 ? last_port : ports[s[2] / 4 % 4];
    h.flags = s[3];
    h.buf_alloc = counts[s[4] % 6];
    h.fwd_cnt = counts[s[5] % 6] + s[4] / 6;
    h.len = h.op == VSOCK_OP_RW ? s[6] * 257u : s[6] == 255 ? 100 : 0;
    if (s[7] & 1)
        h.type = s[7];
    if (s[7] == 254)
        h.src_cid++;
    if (s[7] == 252)
        h.len++; /* one more than there are */
    if (!g.q[VSOCK_TX].n_free)
        return;
    memcpy(vqg_mem(&g, tx_gpa, sizeof(h)), &h, sizeof(h));
    vqg_chain(&g, VSOCK_TX,
              &(VqgBuf){tx_gpa, (uint32_t)sizeof(h) + h.len - (s[7] == 252), OUT}, 1);
    vqg_kick_queue(&g, VSOCK_TX);
    while (vqg_take(&g, VSOCK_TX, &used))
        ;
}

static void check_packet(uint64_t gpa, uint32_t len)
{
    VsockHdr h;

    check(len >= sizeof(h));
    memcpy(&h, vqg_mem(&g, gpa, sizeof(h)), sizeof(h));
    check(len == sizeof(h) + h.len);
    check(h.src_cid == VSOCK_HOST_CID && h.dst_cid == CID);
    check(h.op >= VSOCK_OP_REQUEST && h.op <= VSOCK_OP_CREDIT_REQUEST);
    check((h.op == VSOCK_OP_RW) == (h.len > 0));
    last_port = h.src_port;
}

static void offer_buffers(const uint8_t *s)
{
    static unsigned at;
    VqgUsed used;

    for (unsigned i = 0; i < s[1] % 4u && g.q[VSOCK_RX].n_free; i++) {
        uint64_t gpa = rx_gpa + at++ % RX_BUFS * 4096;

        vqg_chain(&g, VSOCK_RX, &(VqgBuf){gpa, 45 + s[2] * 16u, IN}, 1);
    }
    vqg_kick_queue(&g, VSOCK_RX);
    while (vqg_take(&g, VSOCK_RX, &used)) {
        const VqgQueue *q = &g.q[VSOCK_RX];
        const uint8_t *d = q->desc + 16 * used.token;

        check_packet(load_le64(d), used.len);
    }
}

static void client_step(const uint8_t *s)
{
    static const char *const lines[] = {"CONNECT 1\n", "CONNECT 2\nearly", "CONNECT",
                                        " 3\n", "CONNECT x\n"};
    static uint8_t noise[DATA];
    int *fd = &sock[s[1] % SOCKETS];
    struct sockaddr_un addr = address(path);
    ssize_t n;

    switch (s[2] % 7) {
    case 0:
        fd_close(fd);
        *fd = make_socket();
        check(connect(*fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
        break;
    case 1:
        fd_close(fd);
        *fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case 2:
        n = send(*fd, lines[s[3] % 5], strlen(lines[s[3] % 5]), MSG_NOSIGNAL);
        break;
    case 3:
        n = send(*fd, noise, s[3] * 235u, MSG_NOSIGNAL);
        break;
    case 4:
        n = recv(*fd, noise, s[3] * 235u, 0);
        break;
    case 5:
        shutdown(*fd, s[3] % 3);
        break;
    default:
        fd_close(fd);
    }
    (void)n;
    vqg_settle(&g);
}

static void step(const uint8_t *s)
{
    switch (s[0] % 8) {
    case 0:
    case 1:
    case 2:
        send_packet(s);
        break;
    case 3:
    case 4:
        offer_buffers(s);
        break;
    case 5:
    case 6:
        client_step(s);
        break;
    default:
        if (s[1] % 4) {
            vs()->limit_ns = s[1] & 0x80 ? 1 : VSOCK_LIMIT_NS;
        } else {
            virtio_quiesce(g.vdev);
            virtio_resume(g.vdev);
        }
        vqg_settle(&g);
    }
}

/* ---- the target ------------------------------------------------------------------- */

static void make(void)
{
    struct sockaddr_un addr;
    GError *error = NULL;
    void *options = param_new(virtio_vsock_ops.params);
    g_autofree char *text = NULL;

    log_set_level(LOG_ERROR);
    g_snprintf(path, sizeof(path), "/tmp/fuzz-vsock-%d", getpid());
    g_snprintf(served, sizeof(served), "%s_80", path);
    unlink(served);
    text = g_strdup_printf("%u,path=%s", CID, path);
    check(param_parse(virtio_vsock_ops.params, options, text, &error));
    vqg_open(&g, &virtio_vsock_ops, &(VqgSetup){.options = options});
    tx_gpa = vqg_alloc(&g, sizeof(VsockHdr) + 65536);
    rx_gpa = vqg_alloc(&g, RX_BUFS * 4096);
    addr = address(served);
    listener = make_socket();
    check(bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0);
    check(listen(listener, 64) == 0);
    for (unsigned i = 0; i < SOCKETS; i++)
        sock[i] = -1;
}

static void clean_up(void)
{
    int fd;

    for (unsigned i = 0; i < SOCKETS; i++)
        fd_close(&sock[i]);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        close(fd);
    vs()->limit_ns = VSOCK_LIMIT_NS;
    vqg_reset(&g);
    check(vs()->free.length == VSOCK_SLOTS);
}

static void remove_sockets(void)
{
    unlink(path);
    unlink(served);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (listener < 0) {
        make();
        atexit(remove_sockets);
    } else {
        vqg_start(&g);
    }
    last_port = 80;
    for (unsigned i = 0; i < MIN(size / STEP, MAX_STEPS); i++) {
        step(data + i * STEP);
        check_conns();
    }
    clean_up();
    return 0;
}
