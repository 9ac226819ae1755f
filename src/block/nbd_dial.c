/* One connection to an NBD server: by which URI, to what kind of export. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "nbd_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum {
    DEFAULT_MAX_DATA = 32 * 1024 * 1024, /* proto.md, "Block size constraints" */
    MAX_MIN_BLOCK = 64 * 1024,
    MAX_RECONNECT_S = 24 * 3600,
    /* A host that lost its power says nothing.  This long without an answer to what TCP
     * itself sends, and the connection is lost. */
    KEEPALIVE_IDLE_S = 10,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_PROBES = 3,
    USER_TIMEOUT_MS = 25 * 1000,
};

/* ---- the URI: libnbd parses it, and ignores what it does not know -------------- */

static bool set_verify(NbdTarget *t, const char *value, GError **error)
{
    static const char *const on[] = {"on", "true", "yes", "1", NULL};
    static const char *const off[] = {"off", "false", "no", "0", NULL};

    t->verify_peer = g_strv_contains(on, value);
    return t->verify_peer || g_strv_contains(off, value) ||
           fail(error, VM_ERROR_INVALID, "tls-verify-peer=%s is neither on nor off",
                value);
}

static bool set_reconnect(NbdTarget *t, const char *value, GError **error)
{
    guint64 seconds;

    if (!g_ascii_string_to_unsigned(value, 10, 0, MAX_RECONNECT_S, &seconds, NULL))
        return fail(error, VM_ERROR_INVALID,
                    "reconnect=%s is not a number of seconds from 0 to %d", value,
                    MAX_RECONNECT_S);
    t->reconnect_s = (unsigned)seconds;
    return true;
}

static bool set_certificates(NbdTarget *t, const char *value, GError **error)
{
    t->certificates = g_strdup(value);
    return true;
}

static bool set_psk(NbdTarget *t, const char *value, GError **error)
{
    t->has_psk = true;
    return true;
}

static bool set_nothing(NbdTarget *t, const char *value, GError **error)
{
    return true;
}

static const struct {
    const char *key;
    bool (*set)(NbdTarget *t, const char *value, GError **error);
    bool tls;
} parameters[] = {
    {"socket", set_nothing, false},      {"tls-certificates", set_certificates, true},
    {"tls-psk-file", set_psk, true},     {"tls-verify-peer", set_verify, true},
    {"reconnect", set_reconnect, false},
};

static bool parse_parameter(NbdTarget *t, const char *text, bool tls, unsigned *seen,
                            GError **error)
{
    g_auto(GStrv) pair = g_strsplit(text, "=", 2);
    g_autofree char *value = pair[1] ? g_uri_unescape_string(pair[1], NULL) : NULL;
    unsigned i = 0;

    while (i < G_N_ELEMENTS(parameters) && !g_str_equal(parameters[i].key, pair[0]))
        i++;
    if (i == G_N_ELEMENTS(parameters))
        return fail(error, VM_ERROR_INVALID,
                    "unknown query parameter '%s'; there are socket, tls-certificates, "
                    "tls-psk-file, tls-verify-peer and reconnect",
                    pair[0]);
    if (*seen & BIT(i))
        return fail(error, VM_ERROR_INVALID, "%s is given twice", pair[0]);
    *seen |= BIT(i);
    if (!value || !*value)
        return fail(error, VM_ERROR_INVALID, "%s has no value", pair[0]);
    if (parameters[i].tls && !tls)
        return fail(error, VM_ERROR_INVALID,
                    "%s is for encrypted connections: begin the URI with nbds", pair[0]);
    return parameters[i].set(t, value, error);
}

static bool parse_query(NbdTarget *t, const char *query, bool tls, unsigned *seen,
                        GError **error)
{
    g_auto(GStrv) parts = g_strsplit(query, "&", -1);

    /* libnbd may take ';' for '&'. */
    if (strpbrk(query, ";#"))
        return fail(error, VM_ERROR_INVALID, "write ; as %%3B and # as %%23");
    for (char **part = parts; *part; part++)
        if (**part && !parse_parameter(t, *part, tls, seen, error))
            return false;
    return true;
}

/* libnbd would not check any certificate if it found no authorities to trust. */
static bool check_trust(const NbdTarget *t, GError **error)
{
    g_autofree char *file = NULL;

    if (t->has_psk || !t->verify_peer || !g_str_has_prefix(t->uri, "nbds"))
        return true;
    if (!t->certificates)
        return fail(error, VM_ERROR_INVALID,
                    "nothing says which server to trust: add tls-certificates=FOLDER or "
                    "tls-psk-file=FILE (or tls-verify-peer=off, to trust anybody)");
    file = g_build_filename(t->certificates, "ca-cert.pem", NULL);
    return access(file, R_OK) == 0 ||
           fail_errno(error, "'%s', with whose authorities to check the server", file);
}

bool nbd_target_parse(NbdTarget *t, const char *uri, GError **error)
{
    bool tls = g_str_has_prefix(uri, "nbds");
    const char *query = strchr(uri, '?');
    unsigned seen = 0;

    t->uri = uri;
    t->verify_peer = true;
    if (query && !parse_query(t, query + 1, tls, &seen, error)) {
        g_prefix_error(error, "'%s': ", uri);
        return false;
    }
    /* The first of `parameters`. */
    if (g_str_has_prefix(uri, tls ? "nbds+unix" : "nbd+unix") && !(seen & BIT(0)))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' does not say which socket: end it with ?socket=PATH", uri);
    return true;
}

void nbd_target_clear(NbdTarget *t)
{
    g_clear_pointer(&t->certificates, g_free);
}

/* ---- waiting ------------------------------------------------------------------- */

static bool is_up(const NbdLib *lib, struct nbd_handle *h)
{
    return !lib->aio_is_dead(h) && !lib->aio_is_closed(h);
}

bool nbd_step(const NbdLib *lib, struct nbd_handle *h, int event_fd, int timeout_ms)
{
    unsigned direction = lib->aio_get_direction(h);
    struct pollfd fds[] = {
        {.fd = lib->aio_get_fd(h)},
        {.fd = event_fd, .events = POLLIN},
    };

    if (direction & LIBNBD_AIO_DIRECTION_READ)
        fds[0].events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        fds[0].events |= POLLOUT;
    if (poll(fds, G_N_ELEMENTS(fds), timeout_ms) < 0)
        return errno == EINTR;
    if (fds[1].revents)
        fd_event_take(event_fd);
    /* One of the two at most: the first may change what the second would mean. */
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) &&
        (direction & LIBNBD_AIO_DIRECTION_READ))
        return lib->aio_notify_read(h) == 0 && is_up(lib, h);
    if (fds[0].revents & (POLLOUT | POLLHUP | POLLERR))
        return lib->aio_notify_write(h) == 0 && is_up(lib, h);
    return !(fds[0].revents & POLLNVAL);
}

static bool await_ready(const NbdLib *lib, struct nbd_handle *h, int limit_ms,
                        int event_fd, const bool *stop, GError **error)
{
    int64_t end = g_get_monotonic_time() + (int64_t)limit_ms * 1000;

    while (!lib->aio_is_ready(h)) {
        int64_t left = end - g_get_monotonic_time();

        if (__atomic_load_n(stop, __ATOMIC_ACQUIRE))
            return fail(error, VM_ERROR_IO, "the disk is being closed");
        if (left <= 0)
            return fail(error, VM_ERROR_IO, "no answer from the server within %d s",
                        (limit_ms + 999) / 1000);
        if (!nbd_step(lib, h, event_fd, (int)(left / 1000) + 1))
            return fail(error, VM_ERROR_IO, "%s",
                        lib->aio_is_closed(h) ? "the server hung up"
                                              : nbd_lib_error(lib));
    }
    return true;
}

/* Errors are ignored: a unix socket has none of these, and needs none. */
static void set_keepalive(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                   sizeof(options[i].value));
}

/* ---- the export ---------------------------------------------------------------- */

/* What makes no sense is as good as not said, but for the size. */
static void get_block_sizes(const NbdLib *lib, struct nbd_handle *h, NbdExport *e)
{
    int64_t min = lib->get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = lib->get_block_size(h, LIBNBD_SIZE_PREFERRED);
    int64_t max = lib->get_block_size(h, LIBNBD_SIZE_MAXIMUM);

    e->min_block = min > 0 && min <= MAX_MIN_BLOCK && is_pow2((uint64_t)min)
                       ? (unsigned)min
                       : 1;
    e->preferred = preferred >= e->min_block && preferred <= UINT32_MAX / 2 + 1 &&
                           is_pow2((uint64_t)preferred)
                       ? (unsigned)preferred
                       : 0;
    if (max <= 0 || max > DEFAULT_MAX_DATA)
        max = DEFAULT_MAX_DATA;
    e->max_data = (unsigned)align_down((uint64_t)max, e->min_block);
    if (!e->max_data)
        e->max_data = e->min_block;
}

static bool get_export(const NbdLib *lib, struct nbd_handle *h, NbdExport *ret,
                       GError **error)
{
    int64_t size = lib->get_size(h);
    NbdExport e = {
        .readonly = lib->is_read_only(h) != 0,
        .can_flush = lib->can_flush(h) > 0,
        .can_trim = lib->can_trim(h) > 0,
        .can_zero = lib->can_zero(h) > 0,
        .has_extents = lib->can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0,
    };

    if (size < 0) /* 2^63 bytes and more, too: libnbd 1.14 */
        return fail(error, VM_ERROR_CORRUPT,
                    "the server says that the export has 2^63 bytes or more, which is "
                    "beyond any disk");
    get_block_sizes(lib, h, &e);
    /* proto.md: what is left over cannot be addressed */
    e.size = align_down((uint64_t)size, e.min_block);
    *ret = e;
    return true;
}

static bool prepare(const NbdLib *lib, struct nbd_handle *h, const NbdTarget *t,
                    GError **error)
{
    if (lib->supports_uri(h) <= 0)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "this host's libnbd was built without support for URIs");
    if (lib->set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP |
                                             LIBNBD_ALLOW_TRANSPORT_UNIX) == 0 &&
        lib->set_uri_allow_local_file(h, true) == 0 &&
        lib->set_tls_verify_peer(h, t->verify_peer) == 0 &&
        lib->add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
        lib->aio_connect_uri(h, t->uri) == 0)
        return true;
    return fail(error, VM_ERROR_IO, "%s", nbd_lib_error(lib));
}

struct nbd_handle *nbd_dial(const NbdLib *lib, const NbdTarget *target, int limit_ms,
                            int event_fd, const bool *stop, NbdExport *ret,
                            GError **error)
{
    struct nbd_handle *h = lib->create();

    if (!h) {
        fail(error, VM_ERROR_IO, "'%s': %s", target->uri, nbd_lib_error(lib));
        return NULL;
    }
    if (check_trust(target, error) && prepare(lib, h, target, error) &&
        await_ready(lib, h, limit_ms, event_fd, stop, error) &&
        get_export(lib, h, ret, error)) {
        set_keepalive(lib->aio_get_fd(h));
        return h;
    }
    g_prefix_error(error, "'%s': ", target->uri);
    lib->close(h);
    return NULL;
}
