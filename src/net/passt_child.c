/* Starting and ending passt; contract in passt_child.h. */
#include "src/net/passt_child.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/net/frames.h"
#include "util/child.h"
#include "util/fd.h"

enum {
    CHILD_FD = 3,
    READY_MS = 1000,
    ARP_FRAME = 60,
};

struct PasstChild {
    char *program, *id;
    GPtrArray *argv; /* ends with NULL */
    IoLoop *loop;
    pid_t pid; /* 0: none */
    ChildStarts starts;
    ChildWords words;
};

/* ---- its command line ---------------------------------------------------------- */

static void arg(PasstChild *c, const char *text)
{
    g_ptr_array_add(c->argv, g_strdup(text));
}

/* "tcp:127.0.0.1:2222-:22" is "-t 127.0.0.1/2222:22". */
static bool add_forward(PasstChild *c, const char *text, GError **error)
{
    g_autofree char *spec = NULL;
    struct in_addr host;
    char address[INET_ADDRSTRLEN] = "";
    HostFwd f;

    if (!hostfwd_parse(text, &f, error))
        return false;
    if (f.guest_addr)
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd=%s: passt knows one guest, and forwards to that: leave its "
                    "address out",
                    text);
    host.s_addr = htonl(f.host_addr);
    if (f.host_addr)
        inet_ntop(AF_INET, &host, address, sizeof(address));
    spec = g_strdup_printf("%s%s%u:%u", address, address[0] ? "/" : "", f.host_port,
                           f.guest_port);
    arg(c, f.udp ? "-u" : "-t");
    arg(c, spec);
    return true;
}

static bool make_argv(PasstChild *c, const NetDevOptions *o, PasstMode mode,
                      GError **error)
{
    char fd[16];

    snprintf(fd, sizeof(fd), "%d", CHILD_FD);
    arg(c, c->program);
    arg(c, "--foreground");
    arg(c, "--quiet");
    arg(c, "--fd");
    arg(c, fd);
    if (mode == PASST_VHOST_USER)
        arg(c, "--vhost-user");
    if (!o->ipv6)
        arg(c, "--ipv4-only");
    for (char **f = o->hostfwd; f && *f; f++)
        if (!add_forward(c, *f, error))
            return false;
    g_ptr_array_add(c->argv, NULL);
    return true;
}

/* That there is no syslog, and whom it runs as. */
static bool is_noise(const char *line)
{
    return g_str_has_prefix(line, "Failed to send") ||
           g_str_has_prefix(line, "Don't run as root");
}

PasstChild *passt_child_new(const NetDevOptions *o, PasstMode mode, const char *id,
                            IoLoop *loop, GError **error)
{
    PasstChild *c = g_new0(PasstChild, 1);

    c->loop = loop;
    c->id = g_strdup(id);
    c->words = (ChildWords){
        .id = c->id, .program = "passt", .is_noise = is_noise, .fd = -1};
    c->argv = g_ptr_array_new_with_free_func(g_free);
    c->program = g_find_program_in_path("passt");
    if (!c->program)
        fail(error, VM_ERROR_UNSUPPORTED,
             "there is no passt on this host: install it (Debian: the package passt), or "
             "use --net user");
    else if (make_argv(c, o, mode, error))
        return c;
    passt_child_free(c);
    return NULL;
}

void passt_child_free(PasstChild *c)
{
    if (!c)
        return;
    passt_child_stop(c);
    g_ptr_array_free(c->argv, true);
    g_free(c->program);
    g_free(c->id);
    g_free(c);
}

/* ---- starting and ending ------------------------------------------------------- */

/* In the child, where only system calls may be made.  A Ctrl-C at the terminal is for us
 * to act upon. */
static void before_exec(void *opaque)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static bool spawn(PasstChild *c, int socket, int *ret_words, GError **error)
{
    const int to = CHILD_FD;
    g_autoptr(GError) why = NULL;

    if (g_spawn_async_with_pipes_and_fds(
            NULL, (const char *const *)c->argv->pdata, NULL,
            G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL, before_exec, NULL, -1,
            -1, -1, &socket, &to, 1, &c->pid, NULL, NULL, ret_words, &why))
        return true;
    c->pid = 0;
    return fail(error, VM_ERROR_IO, "run %s: %s", c->program, why->message);
}

int passt_child_start(PasstChild *c, GError **error)
{
    int pair[2], words;
    bool ok;

    passt_child_stop(c);
    child_starts_add(&c->starts);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fail_errno(error, "make a socket");
        return -1;
    }
    c->words.untold = true; /* if it fails, its last words are in the error */
    ok = spawn(c, pair[1], &words, error) &&
         child_words_hear(&c->words, words, c->loop, error);
    close(pair[1]);
    if (ok)
        return pair[0];
    close(pair[0]);
    passt_child_stop(c);
    return -1;
}

/* It has nothing to lose, so it is not asked. */
void passt_child_stop(PasstChild *c)
{
    child_words_close(&c->words);
    c->words.last[0] = '\0';
    if (!c->pid)
        return;
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    c->pid = 0;
}

const char *passt_child_last_words(PasstChild *c)
{
    return child_words_last(&c->words);
}

int64_t passt_child_next_start(const PasstChild *c)
{
    return child_starts_next(&c->starts);
}

/* ---- whether it is ready ------------------------------------------------------- */

/* passt answers every question for an address but the guest's own, which this one is not:
 * it is of TEST-NET-1 (RFC 5737), as the asker's. */
static void make_question(uint8_t frame[FRAMES_PREFIX + ARP_FRAME], const uint8_t mac[6])
{
    static const uint8_t ends[] = {192, 0, 2, 1}, asks[] = {192, 0, 2, 2};
    static const uint8_t arp[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
    uint8_t *eth = frame + FRAMES_PREFIX;

    memset(frame, 0, FRAMES_PREFIX + ARP_FRAME);
    frame[3] = ARP_FRAME;
    memset(eth, 0xff, 6);
    memcpy(eth + 6, mac, 6);
    memcpy(eth + 12, arp, sizeof(arp));
    memcpy(eth + 22, mac, 6);
    memcpy(eth + 28, asks, 4);
    memcpy(eth + 38, ends, 4);
}

void passt_child_serves(PasstChild *c)
{
    child_words_last(&c->words);
    c->words.last[0] = '\0';
    c->words.untold = false;
}

/* Whatever it sends shows that it serves; the guest is not there yet, so it misses
 * nothing.  One that does not answer may not have IPv4, and has its chance. */
bool passt_child_wait(PasstChild *c, int socket, const uint8_t mac[6], GError **error)
{
    uint8_t frame[FRAMES_PREFIX + ARP_FRAME], rest[2048];
    struct pollfd p = {socket, POLLIN, 0};

    make_question(frame, mac);
    if (send(socket, frame, sizeof(frame), MSG_NOSIGNAL) < 0 ||
        (poll(&p, 1, READY_MS) == 1 && recv(socket, rest, 1, MSG_PEEK) <= 0)) {
        const char *said = child_words_hear_out(&c->words, READY_MS);

        return fail(error, VM_ERROR_UNSUPPORTED, "passt does not start%s%s",
                    said[0] ? "; it says: " : "", said);
    }
    passt_child_serves(c);
    return true;
}
