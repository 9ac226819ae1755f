/* Tap backends (src/net/tap.c) and what is common to all (netdev.c).  Each test that
 * needs an interface runs in a child with a network namespace of its own, in which it is
 * root: nothing of the host's network is touched, and no privilege is needed beyond
 * access to /dev/net/tun. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/netdev.h"
#include "tap_host.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"

/* ---- the host's side
 * ------------------------------------------------------------------- */

static short if_flags(const char *name)
{
    autofd s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {0};

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    return ioctl(s, SIOCGIFFLAGS, &ifr) == 0 ? ifr.ifr_flags : (short)-1;
}

static bool ethtool_on(const char *name, uint32_t command)
{
    autofd s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ethtool_value value = {.cmd = command};
    struct ifreq ifr = {.ifr_data = (char *)&value};

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    g_assert_cmpint(ioctl(s, SIOCETHTOOL, &ifr), ==, 0);
    return value.data;
}

static void administrator_deletes(const char *name)
{
    autofd s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct {
        struct nlmsghdr h;
        struct ifinfomsg i;
    } m = {{sizeof(m), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
           {.ifi_index = (int)if_nametoindex(name)}};
    char answer[256];

    g_assert_cmpint(send(s, &m, sizeof(m), 0), ==, sizeof(m));
    g_assert_cmpint(recv(s, answer, sizeof(answer), 0), >, 0);
    g_assert_cmpuint(if_nametoindex(name), ==, 0);
}

/* By the name that 'ethtool -k' has for it. */
static bool has_feature(const char *name, const char *feature)
{
    enum { MAX_FEATURES = 128 };
    autofd s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {0};
    g_autofree struct ethtool_gstrings *names = g_malloc0(sizeof(*names) +
                                                          MAX_FEATURES * ETH_GSTRING_LEN);
    g_autofree struct ethtool_gfeatures *on = g_malloc0(
        sizeof(*on) + MAX_FEATURES / 32 * sizeof(struct ethtool_get_features_block));

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    *names = (struct ethtool_gstrings){ETHTOOL_GSTRINGS, ETH_SS_FEATURES, 0}; /* all */
    ifr.ifr_data = (char *)names;
    g_assert_cmpint(ioctl(s, SIOCETHTOOL, &ifr), ==, 0);
    *on = (struct ethtool_gfeatures){ETHTOOL_GFEATURES, MAX_FEATURES / 32};
    ifr.ifr_data = (char *)on;
    g_assert_cmpint(ioctl(s, SIOCETHTOOL, &ifr), ==, 0);
    for (unsigned i = 0; i < names->len; i++)
        if (g_str_equal(names->data + i * ETH_GSTRING_LEN, feature))
            return on->features[i / 32].active >> i % 32 & 1;
    return false;
}

/* What the host itself sends and gets on the interface. */
static int host_on(const char *name)
{
    struct sockaddr_ll a = {.sll_family = AF_PACKET,
                            .sll_protocol = htobe16(ETH_P_802_EX1),
                            .sll_ifindex = (int)if_nametoindex(name)};
    int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, a.sll_protocol);

    g_assert_cmpint(bind(s, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    return s;
}

/* A frame of a protocol that nobody else uses, so that what the kernel sends does not
 * disturb. */
typedef struct Frame {
    uint8_t header[NET_HDR_LEN];
    uint8_t eth[14];
    char text[50];
} Frame;

static Frame make_frame(const char *text)
{
    Frame f = {.eth = {255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}};

    g_strlcpy(f.text, text, sizeof(f.text));
    return f;
}

/* ---- our side
 * -------------------------------------------------------------------------- */

typedef struct Card {
    IoLoop *loop;
    NetDev *nd;
    unsigned n_calls; /* of the readable handler */
    unsigned n_turns; /* of the loop */
    IoPoller counter;
    Frame got;
    bool found;
    IoTimer limit;
} Card;

static void on_readable(void *opaque)
{
    Card *c = opaque;
    Frame f;
    uint8_t rest[2048];
    struct iovec iov[3] = {
        {f.header, 5}, {f.header + 5, sizeof(f) - 5}, {rest, sizeof(rest)}};

    c->n_calls++;
    while (!c->found && netdev_receive(c->nd, iov, 3) > 0) {
        c->got = f;
        c->found = f.eth[12] == 0x88 && f.eth[13] == 0xb5;
    }
    if (c->found)
        ioloop_quit(c->loop);
}

static bool count_turn(void *opaque)
{
    ((Card *)opaque)->n_turns++;
    return false;
}

static void out_of_time(void *opaque)
{
    ioloop_quit(opaque);
}

static void run_for(Card *c, int ms)
{
    c->found = false;
    ioloop_timer(c->loop, &c->limit, clock_ns() + ms * 1000000ll, out_of_time, c->loop);
    ioloop_run(c->loop);
    ioloop_timer_cancel(&c->limit);
}

static void card_open(Card *c, const char *ifname)
{
    NetDevOptions o = {.type = NETDEV_TAP, .ifname = (char *)ifname};
    g_autoptr(GError) error = NULL;

    memset(c, 0, sizeof(*c));
    c->loop = ioloop_new(&error);
    c->nd = netdev_open(&o, NULL, c->loop, &error);
    g_assert_no_error(error);
    netdev_set_handlers(c->nd, on_readable, NULL, c);
    c->counter = (IoPoller){.fn = count_turn, .opaque = c};
    ioloop_poller_add(c->loop, &c->counter);
}

static void card_close(Card *c)
{
    netdev_close(c->nd);
    ioloop_free(c->loop);
}

static char *refusal(const char *ifname, VmErrorCode code)
{
    NetDevOptions o = {.type = NETDEV_TAP, .ifname = (char *)ifname};
    GError *error = NULL;
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    char *message;

    g_assert_null(netdev_open(&o, NULL, loop, &error));
    g_assert_error(error, VM_ERROR, (int)code);
    message = g_strdup(error->message);
    g_error_free(error);
    return message;
}

/* ---- whose interface it is
 * ------------------------------------------------------------- */

static void missing_body(void)
{
    Card c;

    card_open(&c, "hutch0");
    g_assert_true(if_flags("hutch0") & IFF_UP);
    card_close(&c);
    g_assert_cmpuint(if_nametoindex("hutch0"), ==, 0);

    log_set_level(LOG_WARN);
    card_open(&c, NULL);
    g_assert_true(if_flags("tap0") & IFF_UP);
    card_close(&c);
}

static void a_missing_interface_is_made_up_and_goes_away(void)
{
    in_namespace(missing_body);
}

static void existing_body(void)
{
    Card c;

    administrator_makes("tap7", IFF_TAP | IFF_NO_PI, -1);
    log_set_level(LOG_ERROR); /* the warning that it is down */
    card_open(&c, "tap7");
    g_assert_false(if_flags("tap7") & IFF_UP);
    card_close(&c);
    g_assert_cmpuint(if_nametoindex("tap7"), !=, 0);
}

static void an_existing_interface_is_left_as_it_is(void)
{
    in_namespace(existing_body);
}

static void multi_queue_body(void)
{
    Card c;

    administrator_makes("tap7", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE, -1);
    log_set_level(LOG_ERROR);
    card_open(&c, "tap7");
    card_close(&c);
    card_open(&c, "tap7");
    card_close(&c);
    g_assert_cmpuint(if_nametoindex("tap7"), !=, 0);
}

static void a_tap_made_for_several_queues_is_taken(void)
{
    in_namespace(multi_queue_body);
}

static void busy_body(void)
{
    Card c;
    g_autofree char *message = NULL;

    card_open(&c, "hutch0");
    message = refusal("hutch0", VM_ERROR_BUSY);
    g_assert_nonnull(strstr(message, "hutch0 is in use"));
    g_assert_nonnull(strstr(message, "ip tuntap add"));
    card_close(&c);
}

static void a_busy_tap_is_named(void)
{
    in_namespace(busy_body);
}

static void other_kind_body(void)
{
    g_autofree char *lo = refusal("lo", VM_ERROR_INVALID);
    g_autofree char *tun = NULL;

    g_assert_nonnull(strstr(lo, "lo is not a tap"));
    administrator_makes("tun3", IFF_TUN | IFF_NO_PI, -1);
    tun = refusal("tun3", VM_ERROR_INVALID);
    g_assert_nonnull(strstr(tun, "tun3 is not a tap"));
}

static void an_interface_that_is_no_tap_is_refused(void)
{
    in_namespace(other_kind_body);
}

static void unprivileged_body(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    g_autofree char *fresh = NULL, *theirs = NULL;
    bool has_owner = administrator_makes("tap7", IFF_TAP | IFF_NO_PI, 12345);

    g_assert_cmpint(syscall(SYS_capset, &header, none), ==, 0);
    fresh = refusal("hutch0", VM_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(fresh, "sudo ip tuntap add dev hutch0 mode tap user "));
    if (!has_owner)
        return;
    theirs = refusal("tap7", VM_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(theirs, "tap7 was made for another user"));
    g_assert_nonnull(strstr(theirs, "sudo ip tuntap add"));
}

static void without_privilege_the_way_out_is_shown(void)
{
    in_namespace(unprivileged_body);
}

/* ---- frames
 * ---------------------------------------------------------------------------- */

static void frames_body(void)
{
    Card c;
    Frame f = make_frame("to the host"), back = make_frame("to the guest");
    struct iovec iov[2] = {{&f, 20}, {(char *)&f + 20, sizeof(f) - 20}};
    char buf[2048];

    card_open(&c, "hutch0");
    autofd host = host_on("hutch0");
    g_assert_true(netdev_send(c.nd, iov, 2));
    g_assert_cmpint(recv(host, buf, sizeof(buf), 0), ==, sizeof(f) - NET_HDR_LEN);
    g_assert_cmpmem(buf, sizeof(f) - NET_HDR_LEN, f.eth, sizeof(f) - NET_HDR_LEN);

    g_assert_cmpint(send(host, back.eth, sizeof(f) - NET_HDR_LEN, 0), >, 0);
    run_for(&c, 50);
    g_assert_cmpuint(c.n_calls, ==, 0); /* reading is off at first */
    netdev_set_reading(c.nd, true);
    run_for(&c, 5000);
    g_assert_true(c.found);
    g_assert_cmpstr(c.got.text, ==, "to the guest");
    g_assert_cmpuint(c.got.header[0] | c.got.header[1], ==, 0);
    card_close(&c);
}

static void frames_pass_both_ways_once_reading_is_on(void)
{
    in_namespace(frames_body);
}

static void short_body(void)
{
    Card c;
    Frame f = make_frame("too long"), next = make_frame("next");
    uint8_t small[40];
    struct iovec iov = {small, sizeof(small)};
    ssize_t len;

    card_open(&c, "hutch0");
    autofd host = host_on("hutch0");
    g_assert_cmpint(send(host, f.eth, sizeof(f) - NET_HDR_LEN, 0), >, 0);
    while ((len = netdev_receive(c.nd, &iov, 1)) != 0)
        g_assert_cmpint(len, ==, -1); /* ours, and the kernel's own */
    g_assert_cmpint(send(host, next.eth, sizeof(f) - NET_HDR_LEN, 0), >, 0);
    netdev_set_reading(c.nd, true);
    run_for(&c, 5000);
    g_assert_cmpstr(c.got.text, ==, "next");
    card_close(&c);
}

static void a_frame_that_does_not_fit_is_dropped(void)
{
    in_namespace(short_body);
}

static void bad_frames_body(void)
{
    Card c;
    Frame f = make_frame("good");
    struct iovec good = {&f, sizeof(f)}, bare = {&f, NET_HDR_LEN}, stub = {&f, 5};
    Frame odd = f;
    struct iovec bad = {&odd, sizeof(odd)};
    char buf[2048];

    card_open(&c, "hutch0");
    autofd host = host_on("hutch0");
    odd.header[1] = 77; /* no such gso_type */
    g_assert_true(netdev_send(c.nd, &bare, 1));
    g_assert_true(netdev_send(c.nd, &stub, 1));
    g_assert_true(netdev_send(c.nd, &bad, 1));
    g_assert_true(netdev_send(c.nd, &good, 1));
    g_assert_cmpint(recv(host, buf, sizeof(buf), 0), ==, sizeof(f) - NET_HDR_LEN);
    g_assert_cmpstr(buf + 14, ==, "good");
    card_close(&c);
}

static void what_the_kernel_refuses_is_dropped(void)
{
    in_namespace(bad_frames_body);
}

static void offloads_body(void)
{
    const unsigned all = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    const unsigned uso = NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6;
    const unsigned more[] = {0, uso, NET_OFFLOAD_USO4, uso, NET_OFFLOAD_USO6};
    Card c;

    card_open(&c, "hutch0");
    g_assert_cmphex(netdev_offloads(c.nd) & ~uso, ==, all | NET_OFFLOAD_ECN);
    g_assert_false(ethtool_on("hutch0", ETHTOOL_GTSO)); /* none before it is negotiated */
    for (unsigned set = 0; set < 32; set++) {
        bool csum = set & NET_OFFLOAD_CSUM;

        netdev_set_offloads(c.nd, set); /* what the kernel would refuse is left out */
        g_assert_cmpint(ethtool_on("hutch0", ETHTOOL_GTXCSUM), ==, csum);
        g_assert_cmpint(ethtool_on("hutch0", ETHTOOL_GTSO), ==,
                        csum && (set & (NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6)));
    }
    /* Linux 6.2 has USO, for both kinds of IP or none. */
    for (unsigned i = 0; netdev_offloads(c.nd) & uso && i < G_N_ELEMENTS(more); i++) {
        netdev_set_offloads(c.nd, all | more[i]);
        g_assert_cmpint(has_feature("hutch0", "tx-udp-segmentation"), ==, more[i] == uso);
        g_assert_true(ethtool_on("hutch0", ETHTOOL_GTSO));
    }
    card_close(&c);
}

static void offloads_follow_what_was_negotiated(void)
{
    in_namespace(offloads_body);
}

static void deleted_body(void)
{
    Card c;
    Frame f = make_frame("into the void");
    struct iovec iov = {&f, sizeof(f)};

    log_set_level(LOG_ERROR);
    card_open(&c, "hutch0");
    netdev_set_reading(c.nd, true);
    run_for(&c, 20);
    administrator_deletes("hutch0");
    c.n_turns = 0;
    run_for(&c, 100);
    g_assert_cmpuint(c.n_turns, <=, 4); /* it does not spin on the error */
    g_assert_true(netdev_send(c.nd, &iov, 1));
    g_assert_cmpint(netdev_receive(c.nd, &iov, 1), ==, 0);
    netdev_set_offloads(c.nd, 1);
    netdev_set_reading(c.nd, false);
    card_close(&c);
}

static void a_deleted_interface_leaves_a_silent_card(void)
{
    in_namespace(deleted_body);
}

/* ---- options
 * ---------------------------------------------------------------------------- */

static void options_of_another_kind_are_refused(void)
{
    char *fwd[] = {(char *)"tcp::2222-:22", NULL};
    NetDevOptions bad[] = {
        {.type = NETDEV_TAP, .hostfwd = fwd},
        {.type = NETDEV_TAP, .restrict_ = true},
        {.type = NETDEV_TAP, .hostname = (char *)"burrow"},
        {.type = NETDEV_USER, .ifname = (char *)"tap0"},
        {.type = NETDEV_TAP, .ifname = (char *)""},
        {.type = NETDEV_TAP, .ifname = (char *)"a/b"},
        {.type = NETDEV_TAP, .ifname = (char *)"sixteen-letters-"},
        {.type = NETDEV_TAP, .ifname = (char *)"tap%d"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(netdev_check(&bad[i], &error));
        g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/netdev/" #name, name)
    add(a_missing_interface_is_made_up_and_goes_away);
    add(an_existing_interface_is_left_as_it_is);
    add(a_tap_made_for_several_queues_is_taken);
    add(a_busy_tap_is_named);
    add(an_interface_that_is_no_tap_is_refused);
    add(without_privilege_the_way_out_is_shown);
    add(frames_pass_both_ways_once_reading_is_on);
    add(a_frame_that_does_not_fit_is_dropped);
    add(what_the_kernel_refuses_is_dropped);
    add(offloads_follow_what_was_negotiated);
    add(a_deleted_interface_leaves_a_silent_card);
    add(options_of_another_kind_are_refused);
    return g_test_run();
}
