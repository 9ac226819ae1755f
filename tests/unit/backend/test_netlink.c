/* The host's interfaces by netlink (src/net/netlink.c), and the bridges and macvtaps that
 * cards join (bridge.c, macvtap.c).  Each test runs in a child with a network namespace
 * of its own, in which it is root: nothing of the host's network is touched. */
#include <errno.h>
#include <linux/if_link.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/netdev.h"
#include "src/net/netlink.h"
#include "util/fd.h"
#include "util/log.h"

enum { SKIP = 77 };

static void host_runs(const char *commands)
{
    g_assert_cmpint(system(commands), ==, 0);
}

static void in_namespace(void (*body)(void))
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 &&
            unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) < 0)
            _exit(SKIP);
        if (access("/dev/net/tun", R_OK | W_OK) < 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("sysfs", "/sys", "sysfs", 0, NULL) < 0)
            _exit(SKIP);
        log_set_level(LOG_ERROR);
        body();
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP)
        g_test_skip("no permission to make a network namespace, or no /dev/net/tun");
    else
        g_assert_cmpint(status, ==, 0);
}

static NlLink look(const char *name)
{
    autofd nl = netlink_open();
    NlLink l;

    g_assert_cmpint(netlink_get(nl, name, &l), ==, 0);
    return l;
}

static unsigned n_of_kind(const char *kind)
{
    autofd nl = netlink_open();
    g_autofree char *names = netlink_names(nl, kind);
    unsigned n = names != NULL;

    for (const char *p = names; p && (p = strchr(p, ',')); p++)
        n++;
    return n;
}

/* ---- netlink ------------------------------------------------------------------------
 */

static void links_body(void)
{
    static const uint8_t mac[6] = {0xfe, 1, 2, 3, 4, 5};
    autofd nl = netlink_open();
    g_autofree char *bridges = NULL, *all = NULL;
    NlChange change = {.flags = IFF_UP, .mtu = 1300, .mac = mac};
    NlLink l;

    host_runs("ip link add br0 type bridge && ip link add br1 mtu 1400 type bridge && "
              "ip link add v0 type veth peer name v1");
    l = look("br1");
    g_assert_cmpstr(l.name, ==, "br1");
    g_assert_cmpstr(l.kind, ==, "bridge");
    g_assert_cmpuint(l.mtu, ==, 1400);
    g_assert_cmpuint(l.index, ==, if_nametoindex("br1"));
    g_assert_cmpuint(l.flags & IFF_UP, ==, 0);
    g_assert_cmpint(netlink_get(nl, "br2", &l), ==, ENODEV);
    g_assert_cmpint(netlink_get(nl, "a-name-that-is-too-long", &l), ==, ENODEV);

    bridges = netlink_names(nl, "bridge");
    g_assert_cmpstr(bridges, ==, "br0, br1");
    all = netlink_names(nl, NULL);
    g_assert_cmpstr(all, ==, "br0, br1, v1, v0");
    g_assert_null(netlink_names(nl, "macvtap"));

    change.master = look("br0").index;
    g_assert_cmpint(netlink_change(nl, look("v0").index, &change), ==, 0);
    l = look("v0");
    g_assert_cmpstr(l.kind, ==, "veth");
    g_assert_cmpuint(l.mtu, ==, 1300);
    g_assert_cmpmem(l.mac, 6, mac, 6);
    g_assert_true(l.flags & IFF_UP);
    host_runs("test -e /sys/class/net/br0/brif/v0");
    g_assert_cmpint(netlink_delete(nl, l.index), ==, 0);
    g_assert_cmpint(netlink_delete(nl, l.index), ==, ENODEV);
}

static void links_are_looked_at_changed_and_deleted(void)
{
    in_namespace(links_body);
}

/* ---- cards --------------------------------------------------------------------------
 */

static NetDevCard card = {.id = "net0", .mac = {2, 0, 0, 0, 0, 7}, .queues = 1};

static NetDev *open_card(NetDevOptions *o, IoLoop *loop)
{
    g_autoptr(GError) error = NULL;
    NetDev *nd;

    g_assert_true(netdev_check(o, &error));
    nd = netdev_open(o, &card, loop, &error);
    g_assert_no_error(error);
    return nd;
}

static void refused(NetDevOptions o, VmErrorCode code, const char *words)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    g_autoptr(GError) error = NULL;

    g_assert_true(netdev_check(&o, &error));
    g_assert_null(netdev_open(&o, &card, loop, &error));
    g_assert_error(error, VM_ERROR, (int)code);
    if (!strstr(error->message, words))
        g_error("'%s' does not say '%s'", error->message, words);
}

static void bridge_body(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    NetDevOptions o = {.bridge = (char *)"br0"};
    NetDev *nd;

    host_runs("ip link add br0 mtu 1400 type bridge && ip link set br0 up");
    nd = open_card(&o, loop);
    g_assert_cmpuint(netdev_mtu(nd), ==, 1400);
    g_assert_cmpuint(look("tap0").mtu, ==, 1400);
    g_assert_cmpuint(look("tap0").mac[0], ==, 0xfe);
    g_assert_true(look("tap0").flags & IFF_UP);
    host_runs("test -e /sys/class/net/br0/brif/tap0");
    netdev_close(nd);
    g_assert_cmpuint(n_of_kind("tun"), ==, 0);
}

static void a_card_in_a_bridge_has_a_tap_there_that_goes_with_it(void)
{
    in_namespace(bridge_body);
}

static void no_bridge_body(void)
{
    refused((NetDevOptions){.bridge = (char *)"br7"}, VM_ERROR_NOT_FOUND,
            "no bridge at all: make one");
    host_runs("ip link add br0 type bridge && ip link add v0 type veth peer name v1");
    refused((NetDevOptions){.bridge = (char *)"br7"}, VM_ERROR_NOT_FOUND,
            "its bridges are: br0");
    refused((NetDevOptions){.bridge = (char *)"v0"}, VM_ERROR_INVALID,
            "v0 is no bridge but of kind veth");
    refused((NetDevOptions){.bridge = (char *)"lo"}, VM_ERROR_INVALID, "loopback");
    refused((NetDevOptions){.bridge = (char *)"br0", .ifname = (char *)"v1"},
            VM_ERROR_BUSY, "interface v1 already");
    g_assert_cmpuint(n_of_kind("tun"), ==, 0);
}

static void what_is_no_bridge_is_told_with_those_that_are(void)
{
    in_namespace(no_bridge_body);
}

static void macvtap_body(void)
{
    static const uint8_t other[6] = {2, 0, 0, 0, 0, 8};
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    NetDevOptions o = {.parent = (char *)"v0"};
    g_autofree char *name = NULL;
    autofd nl = netlink_open();
    NetDev *nd;

    host_runs("ip link add v0 mtu 1450 type veth peer name v1 && ip link set v0 up");
    nd = open_card(&o, loop);
    name = netlink_names(nl, "macvtap");
    g_assert_nonnull(name);
    g_assert_cmpmem(look(name).mac, 6, card.mac, 6);
    g_assert_cmpuint(look(name).mtu, ==, 1450);
    g_assert_true(look(name).flags & IFF_UP);
    netdev_set_mac(nd, other);
    g_assert_cmpmem(look(name).mac, 6, other, 6);
    netdev_close(nd);
    g_assert_cmpuint(n_of_kind("macvtap"), ==, 0);
}

static void a_macvtap_has_the_cards_address_and_goes_with_it(void)
{
    in_namespace(macvtap_body);
}

/* Killed: the kernel closes what it had, and no more. */
static void a_user_who_is_killed(NetDevOptions *o)
{
    pid_t pid;
    int ready[2], status;
    char byte;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    if (!pid) {
        open_card(o, ioloop_new(NULL));
        g_assert_cmpint(write(ready[1], "", 1), ==, 1);
        for (;;)
            pause();
    }
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
}

static void left_body(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    NetDevOptions o = {.parent = (char *)"v0"};
    NetDev *one, *two;

    host_runs("ip link add v0 type veth peer name v1 && ip link set v0 up && "
              "ip link add link v0 name hutchx type macvtap mode bridge");
    one = open_card(&o, loop);
    refused(o, VM_ERROR_BUSY, "has the address 02:00:00:00:00:07");
    card.mac[5]++;
    a_user_who_is_killed(&o);
    g_assert_cmpuint(n_of_kind("macvtap"), ==, 3);
    two = open_card(&o, loop); /* one lives, and hutchx is somebody's */
    g_assert_cmpuint(n_of_kind("macvtap"), ==, 3);
    netdev_close(one);
    netdev_close(two);
    g_assert_cmpuint(n_of_kind("macvtap"), ==, 1);
    g_assert_cmpuint(if_nametoindex("hutchx"), !=, 0);
}

static void a_macvtap_of_a_killed_vm_goes_with_the_next_start(void)
{
    in_namespace(left_body);
}

static void macvtap_errors_body(void)
{
    char v0[] = "v0", v9[] = "v9", passthru[] = "passthru";
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    NetDevOptions o = {.parent = v0, .mode = passthru};
    NetDev *nd;

    host_runs("ip link add v0 type veth peer name v1 && ip link set v0 up");
    refused((NetDevOptions){.parent = v9}, VM_ERROR_NOT_FOUND,
            "no interface v9; there are: v1, v0");
    nd = open_card(&o, loop);
    refused((NetDevOptions){.parent = v0}, VM_ERROR_BUSY, "v0 can carry no macvtap");
    netdev_close(nd);
    g_assert_cmpuint(n_of_kind("macvtap"), ==, 0);
}

static void what_a_macvtap_cannot_sit_on_is_told(void)
{
    in_namespace(macvtap_errors_body);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/netlink/" #name, name)
    add(links_are_looked_at_changed_and_deleted);
    add(a_card_in_a_bridge_has_a_tap_there_that_goes_with_it);
    add(what_is_no_bridge_is_told_with_those_that_are);
    add(a_macvtap_has_the_cards_address_and_goes_with_it);
    add(a_macvtap_of_a_killed_vm_goes_with_the_next_start);
    add(what_a_macvtap_cannot_sit_on_is_told);
    return g_test_run();
}
