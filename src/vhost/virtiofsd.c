/* Starting and ending virtiofsd; see backend/virtiofsd.h.
 *
 * The socket.  We bind it in a folder that only we may enter, connect to it, and remove
 * both before the child is started: it gets the listening end by number, and finds our
 * connection waiting.
 *
 * The child runs in a mount namespace of its own, in which the folder is read-only when
 * it is shared so, submounts included: then not even a virtiofsd that the guest has taken
 * over can write there.  Without root that needs a user namespace, in which we are root;
 * where the host allows neither, it does without, and `readonly` is refused.
 *
 * Between fork and exec only system calls are made: other threads' locks may be held. */
#include "backend/virtiofsd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "util/child.h"
#include "util/fd.h"
#include "util/unixsocket.h"

enum {
    GRACE_TRIES = 10, /* for the child to end by itself, and after it was killed */
    END_TRIES = 100,
    MAX_ARGS = 24,
    RECURSIVE = 0x8000, /* AT_RECURSIVE */
};

struct Virtiofsd {
    char *program, *folder, *id;
    bool readonly;
    bool is_c; /* QEMU's, which takes -o options */
    IoLoop *loop;
    pid_t pid; /* 0: none; leads a process group of its own */
    ChildStarts starts;
    ChildWords words;
};

/* ---- finding it ---------------------------------------------------------------- */

const char *const virtiofsd_folders[] = {"/usr/libexec", "/usr/lib/qemu", NULL};

static char *find_program(void)
{
    char *found = g_find_program_in_path("virtiofsd");

    for (const char *const *f = virtiofsd_folders; !found && *f; f++) {
        found = g_strconcat(*f, "/virtiofsd", NULL);
        if (!g_file_test(found, G_FILE_TEST_IS_EXECUTABLE))
            g_clear_pointer(&found, g_free);
    }
    return found;
}

/* Both print a version; QEMU's names its protocol beside it. */
static bool look_at_program(Virtiofsd *d, GError **error)
{
    char *argv[] = {d->program, (char *)"--version", NULL};
    g_autoptr(GError) why = NULL;
    g_autofree char *out = NULL, *err = NULL;

    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, NULL,
                      &why))
        return fail(error, VM_ERROR_IO, "run '%s': %s", d->program, why->message);
    d->is_c = strstr(out, "QEMU") || strstr(err, "QEMU");
    return true;
}

static bool look_at_folder(Virtiofsd *d, const char *folder, GError **error)
{
    struct stat st;

    d->folder = realpath(folder, NULL);
    if (!d->folder || stat(d->folder, &st) < 0)
        return fail_errno(error, "folder '%s'", folder);
    return S_ISDIR(st.st_mode) ||
           fail(error, VM_ERROR_INVALID, "'%s' is not a folder; only folders are shared",
                folder);
}

Virtiofsd *virtiofsd_new(const char *folder, bool readonly, const char *id, IoLoop *loop,
                         GError **error)
{
    Virtiofsd *d = g_new0(Virtiofsd, 1);

    d->loop = loop;
    d->readonly = readonly;
    d->id = g_strdup(id);
    d->words = (ChildWords){.id = d->id, .program = "virtiofsd", .fd = -1};
    d->program = find_program();
    if (!d->program)
        fail(error, VM_ERROR_UNSUPPORTED,
             "there is no virtiofsd on this host, which shares folders; install it "
             "(Debian: the package virtiofsd, or qemu-system-common)");
    else if (look_at_folder(d, folder, error) && look_at_program(d, error))
        return d;
    virtiofsd_free(d);
    return NULL;
}

/* ---- its command line ---------------------------------------------------------- */

typedef struct Args {
    char *v[MAX_ARGS];
    unsigned n;
} Args;

static void arg(Args *a, char *text)
{
    a->v[a->n++] = text;
}

static void clear_args(Args *a)
{
    for (unsigned i = 0; i < a->n; i++)
        g_free(a->v[i]);
}

/* In a list of options, commas separate. */
static char *escape(const char *text)
{
    GString *s = g_string_new(NULL);

    for (const char *p = text; *p; p++) {
        if (*p == ',' || *p == '\\')
            g_string_append_c(s, '\\');
        g_string_append_c(s, *p);
    }
    return g_string_free(s, false);
}

static void make_args(const Virtiofsd *d, const char *sandbox, int listen_fd, Args *a)
{
    arg(a, g_strdup(d->program));
    arg(a, g_strdup_printf("--fd=%d", listen_fd));
    if (geteuid() != 0) /* or it would want a limit that only root may set */
        arg(a, g_strdup("--rlimit-nofile=0"));
    if (d->is_c) {
        g_autofree char *folder = escape(d->folder);

        arg(a, g_strdup("-f"));
        arg(a, g_strdup("-o"));
        arg(a, g_strdup_printf("source=%s", folder));
        arg(a, g_strdup("-o"));
        arg(a, g_strdup_printf("sandbox=%s,log_level=err", sandbox));
    } else {
        arg(a, g_strdup_printf("--shared-dir=%s", d->folder));
        arg(a, g_strdup_printf("--sandbox=%s", sandbox));
        arg(a, g_strdup("--log-level=error"));
    }
}

/* ---- the child, before it is virtiofsd ----------------------------------------- */

typedef struct Child {
    Args boxed, bare; /* with namespaces, and where there are none */
    const char *folder;
    char uid_map[48], gid_map[48];
    bool readonly, user_namespace;
    int listen_fd, words_fd;
    pid_t parent;
} Child;

static void G_GNUC_NORETURN give_up(const char *why)
{
    (void)!write(STDERR_FILENO, why, strlen(why));
    _exit(127);
}

static void put_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        give_up("it cannot become root of a user namespace\n");
    close(fd);
}

static bool enter_namespaces(const Child *c)
{
    if (unshare(CLONE_NEWNS | (c->user_namespace ? CLONE_NEWUSER : 0)) < 0)
        return false;
    if (c->user_namespace) {
        put_file("/proc/self/setgroups", "deny");
        put_file("/proc/self/uid_map", c->uid_map);
        put_file("/proc/self/gid_map", c->gid_map);
    }
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
}

/* Submounts too: what is mounted below the folder is the guest's to see.  What the host
 * mounts there later is not, as it would be writable. */
static void make_readonly(const Child *c)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};

    if (mount(c->folder, c->folder, NULL, MS_BIND | MS_REC, NULL) < 0 ||
        mount(NULL, c->folder, NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        syscall(SYS_mount_setattr, AT_FDCWD, c->folder, RECURSIVE, &attr, sizeof(attr)) <
            0)
        give_up("the folder cannot be made read-only: that needs Linux 5.12\n");
}

static void G_GNUC_NORETURN run_child(Child *c)
{
    sigset_t none;
    bool boxed;

    setpgid(0, 0); /* a Ctrl-C at the terminal is for us to act upon */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(c->words_fd, STDOUT_FILENO);
    dup2(c->words_fd, STDERR_FILENO);
    fcntl(c->listen_fd, F_SETFD, 0);
    boxed = enter_namespaces(c);
    if (c->readonly) {
        if (!boxed)
            give_up("a folder is shared read-only in a mount namespace, which this host "
                    "permits only to root; share it without readonly\n");
        make_readonly(c);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user namespace forgets it */
    if (getppid() != c->parent)
        _exit(127);
    execv(c->boxed.v[0], boxed ? c->boxed.v : c->bare.v);
    give_up("it cannot be executed\n");
}

/* ---- starting ------------------------------------------------------------------ */

/* A listening socket, and a connection to it, that nobody else can have. */
static bool make_sockets(int *ret_listen, int *ret_socket, GError **error)
{
    g_autofree char *folder = g_build_filename(g_get_tmp_dir(), "hutch-XXXXXX", NULL);
    g_autofree char *path = NULL;
    UnixListener l;

    if (!mkdtemp(folder))
        return fail_errno(error, "make a folder '%s'", folder);
    path = g_build_filename(folder, "socket", NULL);
    if (unix_listen(&l, path, 1, error) && fd_set_nonblock(l.fd, false, error)) {
        *ret_socket = unix_connect(path, error);
        *ret_listen = fd_steal(&l.fd);
    }
    unix_unlisten(&l);
    rmdir(folder);
    return *ret_socket >= 0;
}

/* Looks every 10 ms whether the child has ended. */
static bool ends_within(Virtiofsd *d, unsigned tries)
{
    for (unsigned i = 0; i < tries; i++) {
        pid_t gone = waitpid(d->pid, NULL, WNOHANG);

        if (gone == d->pid || (gone < 0 && errno == ECHILD))
            return true;
        g_usleep(10 * 1000);
    }
    return false;
}

/* It ends by itself when its socket hangs up, and then takes its own child, the one in
 * its namespaces, with it in good order. */
void virtiofsd_stop(Virtiofsd *d)
{
    child_words_close(&d->words);
    if (!d->pid)
        return;
    if (!ends_within(d, GRACE_TRIES)) {
        kill(-d->pid, SIGKILL);
        kill(d->pid, SIGKILL);
        /* Or it hangs in the kernel, on a disk or a server that does not answer, and will
         * be gone when that does. */
        if (!ends_within(d, END_TRIES))
            log_warn("%s: virtiofsd (process %d) does not end; its disk may hang", d->id,
                     (int)d->pid);
    }
    d->pid = 0;
}

static void fork_child(Virtiofsd *d, Child *c, GError **error)
{
    child_starts_add(&d->starts);
    d->pid = fork();
    if (d->pid == 0)
        run_child(c);
    if (d->pid < 0) {
        d->pid = 0;
        fail_errno(error, "start a process");
        return;
    }
    setpgid(d->pid, d->pid); /* as the child does: whoever comes first */
}

int virtiofsd_start(Virtiofsd *d, GError **error)
{
    Child c = {.folder = d->folder,
               .readonly = d->readonly,
               .user_namespace = geteuid() != 0,
               .parent = getpid()};
    autofd listener = -1, fd = -1;
    int words[2];

    virtiofsd_stop(d);
    if (!make_sockets(&listener, &fd, error))
        return -1;
    if (pipe2(words, O_CLOEXEC) < 0) {
        fail_errno(error, "make a pipe");
        return -1;
    }
    c.listen_fd = listener;
    c.words_fd = words[1];
    snprintf(c.uid_map, sizeof(c.uid_map), "0 %u 1", (unsigned)geteuid());
    snprintf(c.gid_map, sizeof(c.gid_map), "0 %u 1", (unsigned)getegid());
    make_args(d, "namespace", listener, &c.boxed);
    make_args(d, c.user_namespace && !d->is_c ? "none" : "chroot", listener, &c.bare);
    if (child_words_hear(&d->words, words[0], d->loop, error))
        fork_child(d, &c, error);
    close(words[1]);
    clear_args(&c.boxed);
    clear_args(&c.bare);
    return d->pid ? fd_steal(&fd) : -1;
}

int64_t virtiofsd_next_start(const Virtiofsd *d)
{
    return child_starts_next(&d->starts);
}

void virtiofsd_free(Virtiofsd *d)
{
    if (!d)
        return;
    virtiofsd_stop(d);
    free(d->folder);
    g_free(d->program);
    g_free(d->id);
    g_free(d);
}

const char *virtiofsd_last_words(Virtiofsd *d)
{
    return child_words_last(&d->words);
}

/* ---- as a device's helper ------------------------------------------------------ */

static int helper_start(void *helper, GError **error)
{
    return virtiofsd_start(helper, error);
}

static void helper_stop(void *helper)
{
    virtiofsd_stop(helper);
}

static int64_t helper_next_start(const void *helper)
{
    return virtiofsd_next_start(helper);
}

static const char *helper_last_words(void *helper)
{
    return virtiofsd_last_words(helper);
}

static void helper_free(void *helper)
{
    virtiofsd_free(helper);
}

const VhostHelperOps virtiofsd_helper_ops = {
    .name = "virtiofsd",
    .start = helper_start,
    .stop = helper_stop,
    .next_start = helper_next_start,
    .last_words = helper_last_words,
    .free = helper_free,
};
