/* rtnetlink, as much of it as taps and macvtaps need; contract in netlink.h. */
#include "src/net/netlink.h"

#include <errno.h>
#include <glib.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST = 512, ANSWER = 32 * 1024 };

/* A request about a link; attributes are appended behind it. */
typedef struct Request {
    struct nlmsghdr h;
    struct ifinfomsg link;
    uint8_t attributes[REQUEST];
} Request;

int netlink_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

/* ---- requests --------------------------------------------------------------------- */

static void begin(Request *r, uint16_t type, uint16_t flags)
{
    memset(r, 0, sizeof(*r));
    r->h.nlmsg_len = NLMSG_LENGTH(sizeof(r->link));
    r->h.nlmsg_type = type;
    r->h.nlmsg_flags = NLM_F_REQUEST | flags;
    r->link.ifi_family = AF_UNSPEC;
}

/* Our own attributes are few and short: what does not fit is a mistake of ours. */
static struct rtattr *put(Request *r, uint16_t type, const void *data, size_t len)
{
    struct rtattr *a = (struct rtattr *)((uint8_t *)r + NLMSG_ALIGN(r->h.nlmsg_len));

    g_return_val_if_fail(NLMSG_ALIGN(r->h.nlmsg_len) + RTA_SPACE(len) <= sizeof(*r), a);
    a->rta_type = type;
    a->rta_len = (uint16_t)RTA_LENGTH(len);
    if (len)
        memcpy(RTA_DATA(a), data, len);
    r->h.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->h.nlmsg_len) + RTA_SPACE(len));
    return a;
}

/* What is put after it and before nest_end() lies in it. */
static struct rtattr *nest(Request *r, uint16_t type)
{
    return put(r, type, NULL, 0);
}

static void nest_end(const Request *r, struct rtattr *a)
{
    a->rta_len = (uint16_t)((const uint8_t *)r + r->h.nlmsg_len - (uint8_t *)a);
}

/* ---- answers ---------------------------------------------------------------------- */

typedef void Each(void *opaque, const NlLink *link);

static void take_text(char *to, size_t room, const struct rtattr *a)
{
    size_t len = MIN((size_t)RTA_PAYLOAD(a), room - 1);

    memcpy(to, RTA_DATA(a), len);
    to[len] = 0;
}

static void take_kind(NlLink *l, const struct rtattr *info)
{
    const struct rtattr *a = RTA_DATA(info);
    int len = (int)RTA_PAYLOAD(info);

    for (; RTA_OK(a, len); a = RTA_NEXT(a, len))
        if (a->rta_type == IFLA_INFO_KIND)
            take_text(l->kind, sizeof(l->kind), a);
}

static NlLink link_of(const struct nlmsghdr *h)
{
    const struct ifinfomsg *i = NLMSG_DATA(h);
    const struct rtattr *a = IFLA_RTA(i);
    int len = (int)IFLA_PAYLOAD(h);
    NlLink l = {.index = i->ifi_index, .flags = i->ifi_flags};

    for (; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
        if (a->rta_type == IFLA_IFNAME)
            take_text(l.name, sizeof(l.name), a);
        else if (a->rta_type == IFLA_MTU && RTA_PAYLOAD(a) == sizeof(l.mtu))
            memcpy(&l.mtu, RTA_DATA(a), sizeof(l.mtu));
        else if (a->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(a) == sizeof(l.mac))
            memcpy(l.mac, RTA_DATA(a), sizeof(l.mac));
        else if (a->rta_type == IFLA_LINKINFO)
            take_kind(&l, a);
    }
    return l;
}

/* True: that was the last message of the answer, and *ret its errno. */
static bool take(const struct nlmsghdr *h, bool dump, Each *each, void *opaque, int *ret)
{
    const struct nlmsgerr *e = NLMSG_DATA(h);

    if (h->nlmsg_type == NLMSG_ERROR) {
        *ret = h->nlmsg_len >= NLMSG_LENGTH(sizeof(*e)) ? -e->error : EPROTO;
        return true;
    }
    *ret = 0;
    if (h->nlmsg_type == RTM_NEWLINK &&
        h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg)) && each) {
        const NlLink l = link_of(h);

        each(opaque, &l);
    }
    return h->nlmsg_type == NLMSG_DONE || !dump;
}

/* Asks, and hears the whole answer: an acknowledgement, one link, or all of them. */
static int ask(int fd, Request *r, Each *each, void *opaque)
{
    g_autofree uint8_t *answer = g_malloc(ANSWER);
    bool dump = r->h.nlmsg_flags & NLM_F_DUMP;
    int err = 0;

    if (send(fd, r, r->h.nlmsg_len, 0) < 0)
        return errno;
    for (;;) {
        const struct nlmsghdr *h = (const struct nlmsghdr *)answer;
        ssize_t n = recv(fd, answer, ANSWER, MSG_TRUNC);
        unsigned len = (unsigned)n;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n > ANSWER)
            return EMSGSIZE;
        for (; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len))
            if (take(h, dump, each, opaque, &err))
                return err;
    }
}

/* ---- links ------------------------------------------------------------------------ */

static void keep(void *opaque, const NlLink *link)
{
    *(NlLink *)opaque = *link;
}

int netlink_get(int fd, const char *name, NlLink *ret)
{
    Request r;
    NlLink l = {0};
    int err;

    begin(&r, RTM_GETLINK, 0);
    if (strlen(name) >= IFNAMSIZ)
        return ENODEV;
    put(&r, IFLA_IFNAME, name, strlen(name) + 1);
    err = ask(fd, &r, keep, &l);
    if (!err)
        *ret = l;
    return err;
}

int netlink_list(int fd, Each *each, void *opaque)
{
    Request r;

    begin(&r, RTM_GETLINK, NLM_F_DUMP);
    return ask(fd, &r, each, opaque);
}

int netlink_delete(int fd, int index)
{
    Request r;

    begin(&r, RTM_DELLINK, NLM_F_ACK);
    r.link.ifi_index = index;
    return ask(fd, &r, NULL, NULL);
}

int netlink_change(int fd, int index, const NlChange *change)
{
    Request r;

    begin(&r, RTM_NEWLINK, NLM_F_ACK);
    r.link.ifi_index = index;
    r.link.ifi_flags = r.link.ifi_change = change->flags;
    if (change->mtu)
        put(&r, IFLA_MTU, &change->mtu, sizeof(change->mtu));
    if (change->mac)
        put(&r, IFLA_ADDRESS, change->mac, 6);
    if (change->master)
        put(&r, IFLA_MASTER, &change->master, sizeof(change->master));
    return ask(fd, &r, NULL, NULL);
}

int netlink_add_macvtap(int fd, const char *name, int parent, uint32_t mode,
                        const uint8_t mac[6])
{
    struct rtattr *info, *data;
    Request r;

    begin(&r, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    put(&r, IFLA_IFNAME, name, strlen(name) + 1);
    put(&r, IFLA_ADDRESS, mac, 6);
    put(&r, IFLA_LINK, &parent, sizeof(parent));
    info = nest(&r, IFLA_LINKINFO);
    put(&r, IFLA_INFO_KIND, "macvtap", sizeof("macvtap") - 1);
    data = nest(&r, IFLA_INFO_DATA);
    put(&r, IFLA_MACVLAN_MODE, &mode, sizeof(mode));
    nest_end(&r, data);
    nest_end(&r, info);
    return ask(fd, &r, NULL, NULL);
}

typedef struct Names {
    const char *kind;
    GString *text;
} Names;

static void add_name(void *opaque, const NlLink *link)
{
    Names *n = opaque;

    if (n->kind ? g_str_equal(link->kind, n->kind) : !(link->flags & IFF_LOOPBACK))
        g_string_append_printf(n->text, "%s%s", n->text->len ? ", " : "", link->name);
}

char *netlink_names(int fd, const char *kind)
{
    Names n = {kind, g_string_new(NULL)};

    netlink_list(fd, add_name, &n);
    return g_string_free(n.text, !n.text->len);
}
