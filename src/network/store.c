/* The folders of networks; see network/config.h.
 *
 * Who makes, changes or removes one holds the lock of `.lock` beside them, so that no two
 * networks get the same subnet.  A network comes by the renaming of a folder that is
 * complete, and goes by its renaming to a name that no network can have. */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "network/config.h"
#include "util/fd.h"
#include "util/folder.h"

#define CONFIG_FILE "config.json"

enum { MAX_CONFIG = 1 << 20 };

/* ---- folders --------------------------------------------------------------------------
 */

static char *networks_folder(void)
{
    const char *given = g_getenv("HUTCH_NETWORKS");

    if (given && *given)
        return g_strdup(given);
    return g_build_filename(g_get_user_data_dir(), "hutch", "networks", NULL);
}

char *network_file(const char *name, const char *file)
{
    g_autofree char *folder = networks_folder();

    return g_build_filename(folder, name, file, NULL);
}

static bool exists(const char *name)
{
    g_autofree char *config = network_file(name, CONFIG_FILE);

    return network_check_name(name, NULL) && access(config, F_OK) == 0;
}

static char *name_of(const char *folder, const char *leaf, const void *opaque)
{
    return exists(leaf) ? g_strdup(leaf) : NULL;
}

char **network_list(GError **error)
{
    g_autofree char *folder = networks_folder();

    return folder_names(folder, name_of, NULL, error);
}

static bool fail_unknown(const char *name, GError **error)
{
    g_auto(GStrv) names = network_list(NULL);
    g_autofree char *all = names && *names ? g_strjoinv(", ", names) : NULL;

    for (char **n = names; n && *n; n++)
        if (param_similar(name, *n))
            return fail(error, VM_ERROR_NOT_FOUND,
                        "there is no network '%s'; did you mean '%s'?", name, *n);
    if (all)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "there is no network '%s'; the networks are: %s", name, all);
    return fail(error, VM_ERROR_NOT_FOUND,
                "there is no network '%s'; 'hutch net create %s' makes it", name, name);
}

/* ---- reading --------------------------------------------------------------------------
 */

static json_t *read_json(const char *path, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *text = NULL;
    json_error_t where;
    struct stat st;
    json_t *json;

    if (fd < 0 || fstat(fd, &st) < 0) {
        fail_errno(error, "open '%s'", path);
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_CONFIG) {
        fail(error, VM_ERROR_CORRUPT, "'%s' is not a file, or too large a one", path);
        return NULL;
    }
    text = g_malloc((gsize)st.st_size);
    if (!fd_pread_all(fd, text, (size_t)st.st_size, 0, error)) {
        g_prefix_error(error, "'%s': ", path);
        return NULL;
    }
    json = json_loadb(text, (size_t)st.st_size, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail(error, VM_ERROR_CORRUPT, "%s:%d:%d: %s", path, where.line, where.column,
             where.text);
    return json;
}

NetworkConfig *network_load(const char *name, GError **error)
{
    g_autofree char *path = network_file(name, CONFIG_FILE);
    NetworkConfig *config = NULL;
    json_t *json;

    if (!network_check_name(name, error))
        return NULL;
    if (!exists(name)) {
        fail_unknown(name, error);
        return NULL;
    }
    json = read_json(path, error);
    if (!json)
        return NULL;
    config = param_new(&network_params);
    if (!param_from_json(&network_params, config, json, NULL, error)) {
        g_prefix_error(error, "'%s': ", path);
        param_free(&network_params, config);
        config = NULL;
    }
    json_decref(json);
    return config;
}

/* ---- writing --------------------------------------------------------------------------
 */

/* A file beside `path` that then takes its name.  sync: when it is on the disk. */
static bool write_file(const char *path, const char *text, bool sync, GError **error)
{
    g_autofree char *partial = g_strconcat(path, ".XXXXXX", NULL);
    autofd fd = g_mkstemp_full(partial, O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0)
        return fail_errno(error, "write '%s'", path);
    if (!fd_write_all(fd, text, strlen(text), error))
        g_prefix_error(error, "write '%s': ", path);
    else if ((!sync || fsync(fd) == 0) && rename(partial, path) == 0)
        return true;
    else
        fail_errno(error, "write '%s'", path);
    unlink(partial);
    return false;
}

static bool write_in_folder(const char *name, const char *file, const char *text,
                            bool sync, GError **error)
{
    g_autofree char *path = network_file(name, file);
    g_autofree char *folder = g_path_get_dirname(path);

    if (!network_check_name(name, error))
        return false;
    if (!exists(name))
        return fail_unknown(name, error);
    if (!text)
        return unlink(path) == 0 || errno == ENOENT ||
               fail_errno(error, "remove '%s'", path);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
    return write_file(path, text, sync, error);
}

bool network_write(const char *name, const char *file, const char *text, GError **error)
{
    return write_in_folder(name, file, text, true, error);
}

bool network_write_unsynced(const char *name, const char *file, const char *text,
                            GError **error)
{
    return write_in_folder(name, file, text, false, error);
}

static bool write_config(const char *folder, const NetworkConfig *config, GError **error)
{
    g_autofree char *path = g_build_filename(folder, CONFIG_FILE, NULL), *text = NULL;
    json_t *json = param_to_json(&network_params, config);
    char *dump = json_dumps(json, JSON_INDENT(2));

    text = g_strconcat(dump, "\n", NULL);
    free(dump);
    json_decref(json);
    return write_file(path, text, true, error);
}

/* The descriptor that holds it; -1. */
static int lock_all(GError **error)
{
    g_autofree char *folder = networks_folder();
    g_autofree char *path = g_build_filename(folder, ".lock", NULL);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    autofd fd = -1;

    if (g_mkdir_with_parents(folder, 0700) < 0) {
        fail_errno(error, "make the folder '%s'", folder);
        return -1;
    }
    fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    while (fd >= 0 && fcntl(fd, F_OFD_SETLKW, &whole) < 0)
        if (errno != EINTR)
            fd_close(&fd);
    if (fd < 0)
        fail_errno(error, "lock '%s'", path);
    return fd_steal(&fd);
}

/* ---- subnets --------------------------------------------------------------------------
 */

static bool overlap(const IpPrefix *a, const IpPrefix *b)
{
    return a->bits && b->bits && ip_prefixes_overlap(a, b);
}

/* The network but `name` that has a part of one of the prefixes, a new string, and its
 * subnet; NULL: none has.  One that cannot be read has none that anybody could use. */
static char *who_has(const char *name, const IpPrefix *v4, const IpPrefix *v6,
                     char **ret_subnet)
{
    g_auto(GStrv) names = network_list(NULL);

    for (char **n = names; n && *n; n++) {
        NetworkConfig *other = g_str_equal(*n, name) ? NULL : network_load(*n, NULL);
        NetworkSubnets has = {0};
        const char *subnet = NULL;

        if (other)
            network_subnets(other, &has);
        if (overlap(v4, &has.v4))
            subnet = other->subnet;
        else if (overlap(v6, &has.v6))
            subnet = other->subnet6;
        *ret_subnet = g_strdup(subnet);
        param_free(&network_params, other);
        if (*ret_subnet)
            return g_strdup(*n);
    }
    return NULL;
}

/* An address of this host's interfaces is in it. */
static bool host_has(const IpPrefix *p)
{
    struct ifaddrs *all = NULL;
    bool found = false;

    if (getifaddrs(&all) < 0)
        return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_netmask && i->ifa_addr->sa_family == AF_INET) {
            const struct sockaddr_in *addr = (const void *)i->ifa_addr;
            const struct sockaddr_in *mask = (const void *)i->ifa_netmask;
            uint32_t ours = ip_to_v4(&p->ip), theirs = ntohl(addr->sin_addr.s_addr);
            uint32_t both = ntohl(mask->sin_addr.s_addr) &
                            ~(UINT32_MAX >> (p->bits - IP_V4_BITS));

            found = ((ours ^ theirs) & both) == 0;
        }
    freeifaddrs(all);
    return found;
}

static char *choose_v4(const char *name, GError **error)
{
    enum { FIRST = 5, LAST = 254 };

    for (unsigned n = FIRST; n <= LAST; n++) {
        g_autofree char *text = g_strdup_printf("10.%u.0.0/24", n), *who = NULL,
                        *subnet = NULL;
        const IpPrefix none = {0};
        IpPrefix p;

        if (!ip_prefix_parse(text, &p, error))
            return NULL;
        who = who_has(name, &p, &none, &subnet);
        if (!who && !host_has(&p))
            return g_steal_pointer(&text);
    }
    fail(error, VM_ERROR_BUSY,
         "10.%d.0.0/24 to 10.%d.0.0/24 are taken, all of them; give a subnet", FIRST,
         LAST);
    return NULL;
}

/* RFC 4193, 3.2: forty random bits; the subnet's number is 0. */
static char *choose_v6(GError **error)
{
    uint8_t b[5];

    if (getrandom(b, sizeof(b), 0) != sizeof(b)) {
        fail_errno(error, "get random bytes");
        return NULL;
    }
    return g_strdup_printf("fd%02x:%02x%02x:%02x%02x::/64", b[0], b[1], b[2], b[3], b[4]);
}

static bool is_auto(const char *text)
{
    return text && g_str_equal(text, "auto");
}

static bool settle(const char *name, NetworkConfig *config, GError **error)
{
    g_autofree char *v4 = NULL, *v6 = NULL, *who = NULL, *subnet = NULL;
    NetworkSubnets has;

    if (is_auto(config->subnet) && !(v4 = choose_v4(name, error)))
        return false;
    if (is_auto(config->subnet6) && !(v6 = choose_v6(error)))
        return false;
    if (v4) {
        g_free(config->subnet);
        config->subnet = g_steal_pointer(&v4);
    }
    if (v6) {
        g_free(config->subnet6);
        config->subnet6 = g_steal_pointer(&v6);
    }
    for (char **route = config->routes; route && *route; route++)
        if (g_str_equal(*route, name))
            return fail(error, VM_ERROR_INVALID,
                        "route: a network needs no route to itself");
    if (!network_params.check(config, error))
        return false;
    network_subnets(config, &has);
    who = who_has(name, &has.v4, &has.v6, &subnet);
    return !who || fail(error, VM_ERROR_BUSY,
                        "its subnet overlaps that of network '%s', %s", who, subnet);
}

/* ---- networks -------------------------------------------------------------------------
 */

static void remove_folder(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *leaf;

    while (dir && (leaf = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, leaf, NULL);

        if (unlink(path) < 0 && errno == EISDIR)
            remove_folder(path);
    }
    if (dir)
        g_dir_close(dir);
    rmdir(folder);
}

/* In a folder of another name, which is then renamed. */
static bool make(const char *name, const NetworkConfig *config, GError **error)
{
    g_autofree char *parent = networks_folder();
    g_autofree char *to = g_build_filename(parent, name, NULL);
    g_autofree char *folder = g_build_filename(parent, ".new-XXXXXX", NULL);

    if (!g_mkdtemp_full(folder, 0700))
        return fail_errno(error, "make a folder in '%s'", parent);
    if (!write_config(folder, config, error)) {
        remove_folder(folder);
        return false;
    }
    if (renameat2(AT_FDCWD, folder, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return true;
    fail_errno(error, "make the folder '%s'", to);
    remove_folder(folder);
    return false;
}

bool network_create(const char *name, NetworkConfig *config, GError **error)
{
    autofd lock = -1;

    if (!network_check_name(name, error) || (lock = lock_all(error)) < 0)
        return false;
    if (exists(name))
        return fail(error, VM_ERROR_BUSY,
                    "there is a network '%s' already; 'hutch net set' changes it", name);
    if (settle(name, config, error) && make(name, config, error))
        return true;
    g_prefix_error(error, "network '%s': ", name);
    return false;
}

bool network_store(const char *name, NetworkConfig *config, GError **error)
{
    g_autofree char *folder = network_file(name, NULL);
    autofd lock = -1;

    if (!network_check_name(name, error) || (lock = lock_all(error)) < 0)
        return false;
    if (!exists(name))
        return fail_unknown(name, error);
    if (settle(name, config, error) && write_config(folder, config, error))
        return true;
    g_prefix_error(error, "network '%s': ", name);
    return false;
}

bool network_remove(const char *name, GError **error)
{
    g_autofree char *parent = networks_folder(), *folder = network_file(name, NULL);
    g_autofree char *away = g_build_filename(parent, ".gone-XXXXXX", NULL);
    autofd lock = -1;

    if (!network_check_name(name, error) || (lock = lock_all(error)) < 0)
        return false;
    if (!exists(name))
        return fail_unknown(name, error);
    if (!g_mkdtemp_full(away, 0700) || rename(folder, away) < 0)
        return fail_errno(error, "remove the folder '%s'", folder);
    remove_folder(away);
    return true;
}
