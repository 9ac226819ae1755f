/* What is known of snapshots' folders, and who has them open. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "control/place.h"
#include "snapshot/file.h"
#include "src/cli/snapshot.h"

enum { MAX_JSON = 8 << 20 };

/* ---- one, and all --------------------------------------------------------------------
 */

void snap_free(void *snap)
{
    Snap *s = snap;

    if (!s)
        return;
    g_free(s->name);
    g_free(s->folder);
    g_free(s->why);
    manifest_free(s->manifest);
    g_free(s);
}

static Snap *look(StoreKind kind, const char *name, char *folder)
{
    Snap *s = g_new0(Snap, 1);
    g_autoptr(GError) why = NULL;

    s->kind = kind;
    s->name = g_strdup(name);
    s->folder = folder;
    s->manifest = manifest_read(folder, &why);
    s->why = why ? g_strdup(why->message) : NULL;
    return s;
}

GPtrArray *snap_list(StoreKind kind, GError **error)
{
    g_auto(GStrv) names = store_list(kind, error);
    GPtrArray *all;

    if (!names)
        return NULL;
    all = g_ptr_array_new_with_free_func(snap_free);
    for (char **name = names; *name; name++) {
        char *folder = store_path(kind, *name, NULL);

        if (folder)
            g_ptr_array_add(all, look(kind, *name, folder));
    }
    return all;
}

Snap *snap_find(const char *name, GError **error)
{
    char *folder = store_find(STORE_SNAPSHOTS, name, error);
    g_autoptr(Snap) s = folder ? look(STORE_SNAPSHOTS, name, folder) : NULL;

    if (s && s->why) {
        fail(error, VM_ERROR_CORRUPT, "%s", s->why);
        return NULL;
    }
    return g_steal_pointer(&s);
}

static uint64_t size_in(int folder_fd, bool deeper)
{
    DIR *dir = fdopendir(folder_fd); /* takes it */
    uint64_t bytes = 0;
    struct dirent *e;

    while (dir && (e = readdir(dir))) {
        struct stat st;

        if (*e->d_name == '.' ||
            fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        bytes += (uint64_t)st.st_blocks * 512;
        if (S_ISDIR(st.st_mode) && deeper) {
            int fd = openat(dirfd(dir), e->d_name,
                            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

            bytes += fd < 0 ? 0 : size_in(fd, false);
        }
    }
    if (dir)
        closedir(dir);
    return bytes;
}

uint64_t snap_size(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? 0 : size_in(fd, true);
}

char *snap_time_text(int64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000);
    char text[32] = "?";
    struct tm tm;

    if (localtime_r(&seconds, &tm))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    return g_strdup(text);
}

/* ---- its files -----------------------------------------------------------------------
 */

StateReader *snap_read_state(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, SNAP_STATE, NULL);
    g_autoptr(GBytes) bytes = snap_file_read(path, STATE_MAX_FILE, error);
    StateReader *r = bytes ? state_reader_new(bytes, error) : NULL;

    if (bytes && !r)
        g_prefix_error(error, "'%s': ", folder);
    return r;
}

json_t *snap_read_json(const char *folder, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GBytes) bytes = snap_file_read(path, MAX_JSON, error);
    json_error_t where;
    json_t *json;
    const char *text;
    gsize len;

    if (!bytes)
        return NULL;
    text = g_bytes_get_data(bytes, &len);
    json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail(error, VM_ERROR_CORRUPT, "'%s': line %d is not JSON", path, where.line);
    return json;
}

/* ---- who has it open -----------------------------------------------------------------
 */

typedef struct User {
    char *path, *who;
} User;

struct SnapUsers {
    GPtrArray *all; /* User */
};

static void free_user(void *opaque)
{
    User *u = opaque;

    g_free(u->path);
    g_free(u->who);
    g_free(u);
}

/* Process ids to names of VMs. */
static GHashTable *name_monitors(void)
{
    GHashTable *names = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_auto(GStrv) vms = place_list(NULL);

    for (char **vm = vms; vm && *vm; vm++) {
        PlaceInfo info;

        if (place_look(*vm, &info, NULL) && info.state == PLACE_RUNNING && info.pid)
            g_hash_table_insert(names, GINT_TO_POINTER((int)info.pid), g_strdup(*vm));
    }
    return names;
}

static char *describe_process(GHashTable *monitors, const char *pid)
{
    const char *vm = g_hash_table_lookup(monitors, GINT_TO_POINTER(atoi(pid)));
    g_autofree char *path = g_strdup_printf("/proc/%s/comm", pid);
    g_autofree char *comm = NULL, *safe = NULL;

    if (vm)
        return g_strdup_printf("VM '%s'", vm);
    if (!g_file_get_contents(path, &comm, NULL, NULL))
        return g_strdup_printf("process %s", pid);
    safe = g_strescape(g_strchomp(comm), NULL);
    return g_strdup_printf("process %s (%s)", pid, safe);
}

/* Files of snapshots only: those of a folder that is named so. */
static void look_at_process(SnapUsers *u, GHashTable *monitors, const char *pid)
{
    g_autofree char *fds = g_strdup_printf("/proc/%s/fd", pid);
    GDir *dir = g_dir_open(fds, 0, NULL);
    g_autofree char *who = NULL;
    const char *fd;

    while (dir && (fd = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(fds, fd, NULL);
        g_autofree char *path = g_file_read_link(link, NULL);
        User *user;

        if (!path || !strstr(path, STORE_SUFFIX "/"))
            continue;
        if (!who)
            who = describe_process(monitors, pid);
        user = g_new(User, 1);
        *user = (User){g_steal_pointer(&path), g_strdup(who)};
        g_ptr_array_add(u->all, user);
    }
    if (dir)
        g_dir_close(dir);
}

SnapUsers *snap_users_look(void)
{
    SnapUsers *u = g_new0(SnapUsers, 1);
    g_autoptr(GHashTable) monitors = name_monitors();
    GDir *dir = g_dir_open("/proc", 0, NULL);
    const char *pid;

    u->all = g_ptr_array_new_with_free_func(free_user);
    while (dir && (pid = g_dir_read_name(dir)))
        if (g_ascii_isdigit(*pid) && atoi(pid) != getpid())
            look_at_process(u, monitors, pid);
    if (dir)
        g_dir_close(dir);
    return u;
}

void snap_users_free(SnapUsers *u)
{
    if (u)
        g_ptr_array_unref(u->all);
    g_free(u);
}

char **snap_users_of(const SnapUsers *u, const char *folder)
{
    GPtrArray *found = g_ptr_array_new();
    char *real = realpath(folder, NULL);
    g_autofree char *prefix = g_strconcat(real ? real : folder, "/", NULL);

    free(real);
    for (unsigned i = 0; i < u->all->len; i++) {
        const User *user = g_ptr_array_index(u->all, i);

        if (g_str_has_prefix(user->path, prefix) &&
            !g_ptr_array_find_with_equal_func(found, user->who, g_str_equal, NULL))
            g_ptr_array_add(found, g_strdup(user->who));
    }
    g_ptr_array_add(found, NULL);
    return (char **)g_ptr_array_free(found, FALSE);
}

bool snapshot_check_users(const Snap *s, GError **error)
{
    g_autoptr(SnapUsers) users = snap_users_look();
    g_auto(GStrv) who = snap_users_of(users, s->folder);
    g_autofree char *text = g_strjoinv(", ", who);

    if (*text)
        return fail(error, VM_ERROR_BUSY,
                    "'%s' is in use by %s: stop that first, or let it become independent",
                    s->name, text);
    return !store_in_use(s->folder) ||
           fail(error, VM_ERROR_BUSY,
                "'%s' is in use by a process of another user: stop that first", s->name);
}
