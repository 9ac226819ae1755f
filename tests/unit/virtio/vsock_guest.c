/* See vsock_guest.h. */
#include "vsock_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "util/fd.h"
#include "virtio/devices.h"

enum { TX_ROOM = 64 * 1024 };
static const int64_t PATIENCE_NS = 10000000000;

VqGuest g;
static char *folder;
static void *options;
static uint64_t rx_gpa[VQ_MAX_SIZE]; /* by token */
static uint64_t tx_gpa;

void vsg_init(void)
{
    struct rlimit r;

    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    folder = g_dir_make_tmp("hutch-vsock-XXXXXX", NULL);
}

void vsg_done(void)
{
    g_rmdir(folder);
    g_free(folder);
}

void vsg_open_bare(unsigned mode)
{
    g_autofree char *text = g_strdup_printf("%u,path=%s/v", GUEST_CID, folder);
    GError *error = NULL;

    options = param_new(virtio_vsock_ops.params);
    param_parse(virtio_vsock_ops.params, options, text, &error);
    g_assert_no_error(error);
    vqg_open(&g, &virtio_vsock_ops, &(VqgSetup){.mode = mode, .options = options});
    tx_gpa = vqg_alloc(&g, TX_ROOM + sizeof(VsockHdr));
}

void vsg_open(unsigned mode, unsigned n)
{
    vsg_open_bare(mode);
    vsg_offer(n);
}

void vsg_close(void)
{
    vqg_finish(&g);
    param_free(virtio_vsock_ops.params, options);
}

Vsock *vsg_device(void)
{
    return (Vsock *)g.vdev;
}

/* ---- packets ---------------------------------------------------------------------- */

static void offer(uint64_t gpa)
{
    unsigned token = vqg_chain(&g, VSOCK_RX, &(VqgBuf){gpa, RX_SIZE, IN}, 1);

    rx_gpa[token] = gpa;
}

void vsg_offer(unsigned n)
{
    while (n--)
        offer(vqg_alloc(&g, RX_SIZE));
    vqg_kick_queue(&g, VSOCK_RX);
}

VsockHdr vsg_header(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
    return (VsockHdr){.src_cid = GUEST_CID,
                      .dst_cid = VSOCK_HOST_CID,
                      .src_port = guest_port,
                      .dst_port = host_port,
                      .type = VSOCK_STREAM,
                      .op = op,
                      .buf_alloc = GUEST_BUF};
}

void vsg_send_packet(VsockHdr hdr, const void *data)
{
    VqgBuf bufs[2] = {{tx_gpa, sizeof(hdr), OUT}, {tx_gpa + sizeof(hdr), hdr.len, OUT}};
    VqgUsed used;

    g_assert_cmpuint(hdr.len, <=, TX_ROOM);
    memcpy(vqg_mem(&g, tx_gpa, sizeof(hdr)), &hdr, sizeof(hdr));
    if (hdr.len)
        memcpy(vqg_mem(&g, bufs[1].gpa, hdr.len), data, hdr.len);
    vqg_chain(&g, VSOCK_TX, bufs, hdr.len ? 2 : 1);
    vqg_kick_queue(&g, VSOCK_TX);
    g_assert_true(vqg_wait(&g, VSOCK_TX, 1));
    g_assert_true(vqg_take(&g, VSOCK_TX, &used));
    g_assert_cmpuint(used.len, ==, 0);
}

void vsg_send(uint16_t op, uint32_t guest_port, uint32_t host_port, const void *data,
              uint32_t len)
{
    VsockHdr hdr = vsg_header(op, guest_port, host_port);

    hdr.len = len;
    vsg_send_packet(hdr, data);
}

void vsg_hear(Packet *p)
{
    VqgUsed used;
    uint64_t gpa;

    g_assert_true(vqg_wait(&g, VSOCK_RX, 1));
    g_assert_true(vqg_take(&g, VSOCK_RX, &used));
    gpa = rx_gpa[used.token];
    g_assert_cmpuint(used.len, >=, sizeof(p->h));
    memcpy(p, vqg_mem(&g, gpa, used.len), used.len);
    g_assert_cmpuint(used.len, ==, sizeof(p->h) + p->h.len);
    g_assert_cmpuint(p->h.src_cid, ==, VSOCK_HOST_CID);
    g_assert_cmpuint(p->h.dst_cid, ==, GUEST_CID);
    g_assert_cmpuint(p->h.buf_alloc, ==, VSOCK_BUF);
    offer(gpa);
    vqg_kick_queue(&g, VSOCK_RX);
}

void vsg_expect(Packet *p, uint16_t op)
{
    vsg_hear(p);
    g_assert_cmpuint(p->h.op, ==, op);
}

bool vsg_silent(void)
{
    vqg_settle(&g);
    return vqg_used_queue(&g, VSOCK_RX) == 0;
}

/* ---- sockets ---------------------------------------------------------------------- */

static struct sockaddr_un address(const char *suffix)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/v%s", folder, suffix);
    return addr;
}

int vsg_dial(const char *suffix)
{
    struct sockaddr_un addr = address(suffix);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    close(fd);
    return -1;
}

int vsg_listen(const char *suffix)
{
    struct sockaddr_un addr = address(suffix);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    unlink(addr.sun_path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 4096), ==, 0);
    return fd;
}

void vsg_unlisten(const char *suffix)
{
    unlink(address(suffix).sun_path);
}

int vsg_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

void vsg_put(int fd, const void *data, size_t len)
{
    g_assert_cmpint(send(fd, data, len, MSG_NOSIGNAL), ==, (ssize_t)len);
    vqg_settle(&g);
}

size_t vsg_get(int fd, void *buf, size_t len)
{
    int64_t end = clock_ns() + PATIENCE_NS;
    size_t done = 0;

    while (done < len) {
        ssize_t n = recv(fd, (char *)buf + done, len - done, 0);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            break;
        done += n > 0 ? (size_t)n : 0;
        if (n < 0)
            vqg_settle(&g);
        g_assert_cmpint(clock_ns(), <, end);
    }
    return done;
}

bool vsg_ended(int fd)
{
    char byte;

    return vsg_get(fd, &byte, 1) == 0;
}

uint32_t vsg_client_opens(int *ret_fd)
{
    char answer[32], expected[32];
    Packet p;

    *ret_fd = vsg_dial("");
    g_assert_cmpint(*ret_fd, >=, 0);
    vsg_put(*ret_fd, "CONNECT 52\n", 11);
    vsg_expect(&p, VSOCK_OP_REQUEST);
    g_assert_cmpuint(p.h.dst_port, ==, 52);
    vsg_send(VSOCK_OP_RESPONSE, 52, p.h.src_port, NULL, 0);
    g_snprintf(expected, sizeof(expected), "OK %u\n", p.h.src_port);
    g_assert_cmpuint(vsg_get(*ret_fd, answer, strlen(expected)), ==, strlen(expected));
    g_assert_cmpmem(answer, strlen(expected), expected, strlen(expected));
    return p.h.src_port;
}

int vsg_guest_opens(void)
{
    autofd listener = vsg_listen("_80");
    Packet p;

    vsg_send(VSOCK_OP_REQUEST, 7, 80, NULL, 0);
    vsg_expect(&p, VSOCK_OP_RESPONSE);
    g_assert_cmpuint(p.h.src_port, ==, 80);
    g_assert_cmpuint(p.h.dst_port, ==, 7);
    vsg_unlisten("_80");
    return vsg_accept(listener);
}
