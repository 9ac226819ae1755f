/* See tests/unit/agent/fake.h. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/lock.h"
#include "util/unixsocket.h"

enum { MAX_FILES = 64 };

struct Fake {
    const FakeLie *lies;
    char *folder, *path;
    UnixListener listener;
    pthread_t thread;
    bool stop; /* atomic */
    FILE *files[MAX_FILES];
    GPtrArray *folders;  /* that the commands were told of */
    GHashTable *counts;  /* under the lock */
    GHashTable *outputs; /* process id: its captured output */
    Lock lock;
};

/* ---- what it can ------------------------------------------------------------------ */

static json_t *error_reply(const char *desc)
{
    return json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc", desc);
}

static json_t *ok(json_t *value)
{
    return json_pack("{s:o}", "return", value);
}

static const char *text_of(json_t *args, const char *key)
{
    return json_string_value(json_object_get(args, key));
}

static void become(json_t *args, int in, int out)
{
    json_t *list = json_object_get(args, "arg");
    char **argv = g_new0(char *, json_array_size(list) + 2);

    argv[0] = (char *)text_of(args, "path");
    for (size_t i = 0; i < json_array_size(list); i++)
        argv[i + 1] = (char *)json_string_value(json_array_get(list, i));
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], argv);
    _exit(99);
}

static void note_folder(Fake *f, json_t *args)
{
    const char *text = json_string_value(json_array_get(json_object_get(args, "arg"), 3));

    if (text && g_str_has_prefix(text, "/tmp/hutch-"))
        g_ptr_array_add(f->folders, g_strdup(text));
}

bool fake_has_folders(const Fake *f)
{
    for (unsigned i = 0; i < f->folders->len; i++)
        if (g_file_test(g_ptr_array_index(f->folders, i), G_FILE_TEST_EXISTS))
            return true;
    return false;
}

/* Of commands whose client believed a lie. */
static void remove_folders(Fake *f)
{
    for (unsigned i = 0; i < f->folders->len; i++) {
        const char *argv[] = {"rm", "-rf", g_ptr_array_index(f->folders, i), NULL};

        g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                     NULL, NULL, NULL);
    }
    g_ptr_array_unref(f->folders);
}

static json_t *do_exec(Fake *f, json_t *args)
{
    g_autofree char *found = g_find_program_in_path(text_of(args, "path"));
    const char *input = text_of(args, "input-data");
    int output = open(f->folder, O_TMPFILE | O_RDWR, 0600);
    int in = open(f->folder, O_TMPFILE | O_RDWR, 0600);
    gsize len = 0;
    g_autofree guchar *bytes = input ? g_base64_decode(input, &len) : NULL;
    pid_t pid;

    if (!found) {
        close(in);
        close(output);
        return error_reply("Guest agent command failed, error was 'no such program'");
    }
    g_assert_cmpint(pwrite(in, bytes ? bytes : (guchar *)"", len, 0), ==, (gssize)len);
    note_folder(f, args);
    pid = fork();
    if (pid == 0)
        become(args, in, output);
    close(in);
    g_hash_table_insert(
        f->outputs, GINT_TO_POINTER(pid),
        GINT_TO_POINTER(json_is_true(json_object_get(args, "capture-output")) ? output
                                                                              : -output));
    return ok(json_pack("{s:i}", "pid", (int)pid));
}

static void add_output(json_t *ret, int fd)
{
    struct stat st;
    guchar *bytes;

    if (fd < 0 || fstat(fd, &st) < 0 || !st.st_size)
        return;
    bytes = g_malloc((gsize)st.st_size);
    if (pread(fd, bytes, (size_t)st.st_size, 0) == st.st_size) {
        g_autofree char *text = g_base64_encode(bytes, (gsize)st.st_size);

        json_object_set_new(ret, "out-data", json_string(text));
    }
    g_free(bytes);
}

static json_t *do_status(Fake *f, json_t *args)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(args, "pid"));
    json_t *ret;
    int status, fd;

    if (!g_hash_table_contains(f->outputs, GINT_TO_POINTER(pid)))
        return error_reply("Invalid parameter 'pid'");
    if (waitpid(pid, &status, WNOHANG) == 0)
        return ok(json_pack("{s:b}", "exited", false));
    ret = json_pack("{s:b}", "exited", true);
    if (WIFSIGNALED(status))
        json_object_set_new(ret, "signal", json_integer(WTERMSIG(status)));
    else
        json_object_set_new(ret, "exitcode", json_integer(WEXITSTATUS(status)));
    fd = GPOINTER_TO_INT(g_hash_table_lookup(f->outputs, GINT_TO_POINTER(pid)));
    add_output(ret, fd);
    close(abs(fd));
    g_hash_table_remove(f->outputs, GINT_TO_POINTER(pid));
    return ok(ret);
}

static json_t *do_open(Fake *f, json_t *args)
{
    for (int i = 0; i < MAX_FILES; i++) {
        if (f->files[i])
            continue;
        f->files[i] = fopen(text_of(args, "path"), text_of(args, "mode"));
        return f->files[i] ? ok(json_integer(1000 + i)) : error_reply(strerror(errno));
    }
    return error_reply("too many files");
}

static FILE **file_of(Fake *f, json_t *args)
{
    json_int_t i = json_integer_value(json_object_get(args, "handle")) - 1000;

    return i >= 0 && i < MAX_FILES && f->files[i] ? &f->files[i] : NULL;
}

static json_t *do_read(Fake *f, json_t *args)
{
    size_t count = (size_t)json_integer_value(json_object_get(args, "count"));
    FILE **file = file_of(f, args);
    g_autofree guchar *buf = g_malloc(count + 1);
    g_autofree char *text = NULL;
    json_t *ret;
    size_t n;

    if (!file)
        return error_reply("handle not found");
    n = fread(buf, 1, count, *file);
    ret = json_pack("{s:I, s:b}", "count", (json_int_t)n, "eof", feof(*file) != 0);
    clearerr(*file);
    text = g_base64_encode(buf, n);
    if (n)
        json_object_set_new(ret, "buf-b64", json_string(text));
    return ok(ret);
}

static json_t *do_write(Fake *f, json_t *args)
{
    FILE **file = file_of(f, args);
    gsize len;
    g_autofree guchar *bytes = g_base64_decode(text_of(args, "buf-b64"), &len);

    if (!file)
        return error_reply("handle not found");
    len = fwrite(bytes, 1, len, *file);
    return ok(json_pack("{s:I, s:b}", "count", (json_int_t)len, "eof", false));
}

static json_t *do_close(Fake *f, json_t *args)
{
    FILE **file = file_of(f, args);

    if (!file)
        return error_reply("handle not found");
    fclose(*file);
    *file = NULL;
    return ok(json_object());
}

static json_t *do_sync(Fake *f, json_t *args)
{
    return ok(json_incref(json_object_get(args, "id")));
}

static json_t *do_ping(Fake *f, json_t *args)
{
    return ok(json_object());
}

static json_t *do_info(Fake *f, json_t *args);

static const struct {
    const char *name;
    json_t *(*run)(Fake *f, json_t *args);
} commands[] = {
    {"guest-sync-delimited", do_sync}, {"guest-ping", do_ping},
    {"guest-info", do_info},           {"guest-exec", do_exec},
    {"guest-exec-status", do_status},  {"guest-file-open", do_open},
    {"guest-file-read", do_read},      {"guest-file-write", do_write},
    {"guest-file-close", do_close},
};

static json_t *do_info(Fake *f, json_t *args)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++)
        json_array_append_new(
            list, json_pack("{s:s, s:b}", "name", commands[i].name, "enabled", true));
    return ok(json_pack("{s:s, s:o}", "version", "7.2.0", "supported_commands", list));
}

/* ---- the line --------------------------------------------------------------------- */

/* False: the client is gone. */
static bool say(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

static unsigned add_count(Fake *f, const char *command)
{
    unsigned n;

    lock_acquire(&f->lock);
    n = GPOINTER_TO_UINT(g_hash_table_lookup(f->counts, command));
    g_hash_table_insert(f->counts, g_strdup(command), GUINT_TO_POINTER(n + 1));
    lock_release(&f->lock);
    return n;
}

static bool lie(int fd, const FakeLie *l)
{
    const char *text = l->text ? l->text : "";

    switch (l->deed) {
    case FAKE_SAY:
        return say(fd, text, strlen(text)) && say(fd, "\n", 1);
    case FAKE_HALF:
        return say(fd, text, strlen(text));
    case FAKE_SILENT:
        return true;
    case FAKE_FLOOD:
        while (say(fd, text, strlen(text)))
            ;
        return false;
    case FAKE_CLOSE:
        return false;
    }
    return false;
}

static bool answer(Fake *f, int fd, const char *line)
{
    json_t *message = json_loads(line, 0, NULL), *reply = NULL;
    const char *command = json_string_value(json_object_get(message, "execute"));
    unsigned before = command ? add_count(f, command) : 0;
    char *text;
    bool more;

    for (const FakeLie *l = f->lies; command && l && l->command; l++)
        if (g_str_equal(l->command, command) && before >= l->after) {
            json_decref(message);
            return lie(fd, l);
        }
    for (unsigned i = 0; command && i < G_N_ELEMENTS(commands); i++)
        if (g_str_equal(commands[i].name, command))
            reply = commands[i].run(f, json_object_get(message, "arguments"));
    if (!reply)
        reply = error_reply("there is no such command");
    text = json_dumps(reply, JSON_COMPACT);
    more = (!command || !g_str_equal(command, "guest-sync-delimited") ||
            say(fd, "\xff", 1)) &&
           say(fd, text, strlen(text)) && say(fd, "\n", 1);
    free(text);
    json_decref(reply);
    json_decref(message);
    return more;
}

static void serve(Fake *f, int fd)
{
    g_autoptr(GString) in = g_string_new(NULL);
    char buf[65536];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
        char *end, *mark;

        g_string_append_len(in, buf, n);
        while ((mark = memchr(in->str, 0xff, in->len)))
            g_string_erase(in, 0, mark - in->str + 1);
        while ((end = memchr(in->str, '\n', in->len))) {
            *end = '\0';
            if (!answer(f, fd, in->str))
                return;
            g_string_erase(in, 0, end - in->str + 1);
        }
    }
}

static void *run(void *opaque)
{
    Fake *f = opaque;

    while (!__atomic_load_n(&f->stop, __ATOMIC_SEQ_CST)) {
        autofd fd = accept(f->listener.fd, NULL, NULL);

        if (fd >= 0)
            serve(f, fd);
    }
    return NULL;
}

/* ---- life-cycle ------------------------------------------------------------------- */

Fake *fake_new(const FakeLie *lies)
{
    Fake *f = g_new0(Fake, 1);

    f->lies = lies;
    f->folders = g_ptr_array_new_with_free_func(g_free);
    f->folder = g_dir_make_tmp("hutch-agent-XXXXXX", NULL);
    f->path = g_build_filename(f->folder, "agent.sock", NULL);
    f->counts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    f->outputs = g_hash_table_new(NULL, NULL);
    lock_init(&f->lock);
    g_assert_true(unix_listen(&f->listener, f->path, 4, NULL));
    g_assert_true(fd_set_nonblock(f->listener.fd, false, NULL));
    g_assert_cmpint(pthread_create(&f->thread, NULL, run, f), ==, 0);
    return f;
}

void fake_free(Fake *f)
{
    g_autofree char *lock = g_build_filename(f->folder, "agent.lock", NULL);

    __atomic_store_n(&f->stop, true, __ATOMIC_SEQ_CST);
    shutdown(f->listener.fd, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    for (unsigned i = 0; i < MAX_FILES; i++)
        if (f->files[i])
            fclose(f->files[i]);
    unix_unlisten(&f->listener);
    remove_folders(f);
    unlink(lock);
    rmdir(f->folder);
    g_hash_table_unref(f->counts);
    g_hash_table_unref(f->outputs);
    lock_finish(&f->lock);
    g_free(f->folder);
    g_free(f->path);
    g_free(f);
}

const char *fake_path(const Fake *f)
{
    return f->path;
}

unsigned fake_count(Fake *f, const char *command)
{
    unsigned n;

    lock_acquire(&f->lock);
    n = GPOINTER_TO_UINT(g_hash_table_lookup(f->counts, command));
    lock_release(&f->lock);
    return n;
}
