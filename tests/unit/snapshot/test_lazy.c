/* Guest RAM that comes while it is used: right whatever the way, and never zeroes for
 * what cannot be had. */
#include "snapshot/lazy.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "core/gmlost.h"
#include "memory_folder.h"
#include "snapshot/serve.h"
#include "snapshot/working_set.h"
#include "src/snapshot/memory_private.h"
#include "src/snapshot/uffd.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/unixsocket.h"

enum { LIMIT_MS = 60 * 1000 };

/* ---- helpers --------------------------------------------------------------------------
 */

static uint8_t *ram; /* what it is to be */

/* Snapshot 0, of which every fourth page and the last MiB are zero. */
static void make_full(bool zstd)
{
    SnapMemoryWriter *w = begin(0, false, zstd);

    memset(ram, 0, FOLDER_RAM);
    for (uint64_t p = 0; p < PAGES - 256; p++)
        write_version(w, p, 0, ram);
    end(w, 0, false);
}

static char *memory_path(const char *name)
{
    g_autofree char *folder = folder_of(0);

    return folder_file(folder, name);
}

typedef struct Vm {
    GuestMem gm;
    SnapMemory *memory;
    RemoteSnapshot *remote;
    LazyMemory *lazy;
} Vm;

static void start_empty(Vm *v)
{
    GuestMemOptions o = {.size = FOLDER_RAM};
    g_autoptr(GError) error = NULL;

    *v = (Vm){0};
    g_assert_true(gm_init(&v->gm, &o, NULL));
    gm_guard(&v->gm, &error);
    g_assert_no_error(error);
}

/* From snapshot 0, or from an address. */
static void start(Vm *v, const char *address)
{
    g_autofree char *folder = folder_of(0);
    g_autoptr(GError) error = NULL;

    start_empty(v);
    if (address)
        v->remote = remote_open(address, &error);
    else
        v->memory = snap_memory_open(folder, &error);
    g_assert_no_error(error);
    v->lazy = lazy_open(v->memory, v->remote, &v->gm, &error);
    g_assert_no_error(error);
}

static void end_vm(Vm *v)
{
    lazy_close(v->lazy);
    snap_memory_close(v->memory);
    remote_close(v->remote);
    gm_finish(&v->gm);
}

static void expect_page(const Vm *v, uint64_t page)
{
    g_assert_cmpmem(v->gm.base + page * PAGE, PAGE, ram + page * PAGE, PAGE);
}

static void wait_whole(Vm *v)
{
    int64_t limit = clock_ns() + LIMIT_MS * 1000000ll;
    LazyFigures f;

    do {
        g_usleep(1000);
        lazy_figures(v->lazy, &f);
        g_assert_cmpint(clock_ns(), <, limit);
    } while (!f.whole);
}

static void expect_all(Vm *v)
{
    for (uint64_t page = PAGES; page-- > 0;) /* against the filler's order */
        expect_page(v, page);
    wait_whole(v);
    g_assert_cmpmem(v->gm.base, FOLDER_RAM, ram, FOLDER_RAM);
}

/* A thread that reads a page, as a vCPU might. */
typedef struct Reader {
    Vm *v;
    uint64_t page;
    pthread_t thread;
    bool done; /* atomic */
    uint8_t got[PAGE];
} Reader;

static void *reader_thread(void *opaque)
{
    Reader *r = opaque;

    memcpy(r->got, r->v->gm.base + r->page * PAGE, PAGE);
    __atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void reader_start(Reader *r, Vm *v, uint64_t page)
{
    *r = (Reader){.v = v, .page = page};
    g_assert_cmpint(pthread_create(&r->thread, NULL, reader_thread, r), ==, 0);
}

static void reader_finish(Reader *r)
{
    pthread_join(r->thread, NULL);
    g_assert_cmpmem(r->got, PAGE, ram + r->page * PAGE, PAGE);
}

/* Until the machine would hear of it; a new string. */
static char *wait_lost(Vm *v)
{
    struct pollfd p = {v->gm.lost->fd, POLLIN, 0};

    g_assert_cmpint(poll(&p, 1, LIMIT_MS), ==, 1);
    return gm_lost_take(&v->gm);
}

static void expect_lost(Vm *v, Reader *r, const char *why)
{
    g_autofree char *said = wait_lost(v);

    g_assert_nonnull(said);
    if (!strstr(said, why))
        g_error("'%s' is not in: %s", why, said);
    g_assert_false(__atomic_load_n(&r->done, __ATOMIC_ACQUIRE));
}

/* ---- a server in a process of its own -------------------------------------------------
 */

static void tell_ready(void *opaque, const char *address)
{
    int *fd = opaque;

    if (write(*fd, address, strlen(address) + 1) < 0)
        _exit(3);
    close(*fd);
}

/* *ret_address, if wanted: where it listens. */
static pid_t serve(const char *listen, char **ret_address)
{
    g_autofree char *folder = folder_of(0);
    char at[256] = "";
    int fds[2];
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    pid = fork();
    if (pid == 0) {
        g_autoptr(GError) error = NULL;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        if (!snapshot_serve(folder, listen, tell_ready, &fds[1], &error))
            g_printerr("serve: %s\n", error->message);
        _exit(error ? 1 : 0);
    }
    close(fds[1]);
    g_assert_cmpint(read(fds[0], at, sizeof(at) - 1), >, 0);
    close(fds[0]);
    if (ret_address)
        *ret_address = g_strdup(at);
    return pid;
}

static void end_server(pid_t pid, int signal)
{
    int status;

    kill(pid, signal);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (signal == SIGTERM)
        g_assert_cmpint(status, ==, 0);
}

static char *unix_address(void)
{
    return g_strdup_printf("unix:%s/serve.sock", base);
}

/* ---- it is right ----------------------------------------------------------------------
 */

static bool can(void)
{
    g_autoptr(GError) error = NULL;

    if (lazy_possible(&error))
        return true;
    g_test_skip(error->message);
    return false;
}

static void pages_come_when_they_are_wanted_and_then_all_of_them(void)
{
    for (int zstd = 0; zstd < 2 && can(); zstd++) {
        LazyFigures f;
        Vm v;

        make_full(zstd);
        start(&v, NULL);
        expect_all(&v);
        lazy_figures(v.lazy, &f);
        g_assert_cmpuint(f.faults, >, 0);
        end_vm(&v);
    }
}

static void what_the_guest_wrote_is_not_replaced(void)
{
    Vm v;

    if (!can())
        return;
    make_full(false);
    start(&v, NULL);
    for (uint64_t page = 0; page < PAGES; page += 3)
        memset(v.gm.base + page * PAGE + 8, 0xee, 16);
    wait_whole(&v);
    for (uint64_t page = 0; page < PAGES; page += 3)
        memset(ram + page * PAGE + 8, 0xee, 16);
    g_assert_cmpmem(v.gm.base, FOLDER_RAM, ram, FOLDER_RAM);
    end_vm(&v);
}

static void many_threads_may_want_the_same_pages(void)
{
    enum { N = 16 };
    static Reader readers[N];
    Vm v;

    for (int round = 0; round < 10 && can(); round++) {
        make_full(round % 2);
        start(&v, NULL);
        for (unsigned i = 0; i < N; i++)
            reader_start(&readers[i], &v, (uint64_t)(round * 97 + i / 4 * 13) % PAGES);
        for (unsigned i = 0; i < N; i++)
            reader_finish(&readers[i]);
        end_vm(&v);
    }
}

/* A reset: nothing of the snapshot may come back. */
static void cleared_ram_stays_clear(void)
{
    Vm v;

    for (int round = 0; round < 20 && can(); round++) {
        make_full(true);
        start(&v, NULL);
        expect_page(&v, 5);
        g_usleep((gulong)round * 2000); /* before, while and after it is filled */
        gm_clear(&v.gm);
        for (uint64_t at = 0; at < FOLDER_RAM; at += 64)
            g_assert_cmpuint(v.gm.base[at], ==, 0);
        end_vm(&v);
    }
}

static void what_is_served_is_what_is_restored(void)
{
    static const bool tcp[] = {false, true};

    for (unsigned i = 0; i < G_N_ELEMENTS(tcp) && can(); i++) {
        g_autofree char *listen = tcp[i] ? g_strdup("tcp:127.0.0.1:0") : unix_address();
        g_autofree char *address = NULL, *text = NULL;
        pid_t pid;
        Vm v;

        make_full(true);
        pid = serve(listen, &address);
        start(&v, address);
        text = folder_file(remote_folder(v.remote), SNAP_STATE);
        g_assert_true(g_file_test(text, G_FILE_TEST_IS_REGULAR));
        expect_all(&v);
        end_server(pid, SIGTERM); /* it is not needed any more */
        g_assert_cmpmem(v.gm.base, FOLDER_RAM, ram, FOLDER_RAM);
        end_vm(&v);
        g_assert_false(g_file_test(text, G_FILE_TEST_EXISTS));
    }
}

/* ---- what cannot be had ---------------------------------------------------------------
 */

static void a_file_cut_off_stops_who_reads_until_it_is_back(void)
{
    enum { PAGE_CUT = PAGES - 300 };
    g_autofree char *path = NULL, *data = NULL;
    Reader r;
    gsize len;
    Vm v;

    if (!can())
        return;
    make_full(false);
    path = memory_path(SNAP_MEMORY);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    start(&v, NULL);
    g_assert_cmpint(truncate(path, 4096), ==, 0);
    reader_start(&r, &v, PAGE_CUT);
    expect_lost(&v, &r, path);
    gm_retry(&v.gm); /* too early */
    expect_lost(&v, &r, path);
    {
        autofd fd = open(path, O_WRONLY);

        g_assert_cmpint(pwrite(fd, data, len, 0), ==, (gssize)len);
    }
    gm_retry(&v.gm);
    reader_finish(&r);
    expect_all(&v);
    end_vm(&v);
}

/* Of which SEEK_DATA says that nothing but zeroes follows. */
static void a_file_cut_off_before_anything_came_is_not_all_zeroes(void)
{
    g_autofree char *path = NULL, *data = NULL, *folder = folder_of(0);
    g_autoptr(GError) error = NULL;
    Reader r;
    gsize len;
    Vm v;

    if (!can())
        return;
    make_full(false);
    path = memory_path(SNAP_MEMORY);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    start_empty(&v);
    v.memory = snap_memory_open(folder, NULL);
    g_assert_cmpint(truncate(path, 0), ==, 0);
    v.lazy = lazy_open(v.memory, NULL, &v.gm, &error);
    g_assert_no_error(error);
    g_usleep(100 * 1000); /* the filler has looked; if it has not, nothing is found out */
    reader_start(&r, &v, 700);
    expect_lost(&v, &r, path);
    {
        autofd fd = open(path, O_WRONLY);

        g_assert_cmpint(pwrite(fd, data, len, 0), ==, (gssize)len);
    }
    gm_retry(&v.gm);
    reader_finish(&r);
    expect_all(&v);
    end_vm(&v);
}

static void a_mapped_file_cut_off_stops_who_reads_until_it_is_back(void)
{
    g_autofree char *path = NULL, *data = NULL, *folder = folder_of(0);
    g_autoptr(GError) error = NULL;
    Reader r;
    gsize len;
    Vm v;

    make_full(false);
    path = memory_path(SNAP_MEMORY);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    start_empty(&v);
    v.memory = snap_memory_open(folder, &error);
    g_assert_no_error(error);
    g_assert_true(snap_memory_map(v.memory, &v.gm, NULL));
    g_assert_cmpint(truncate(path, 100 * PAGE), ==, 0);
    expect_page(&v, 99);
    reader_start(&r, &v, 100);
    expect_lost(&v, &r, "cut off");
    gm_retry(&v.gm);
    expect_lost(&v, &r, "cut off");
    {
        autofd fd = open(path, O_WRONLY);

        g_assert_cmpint(pwrite(fd, data, len, 0), ==, (gssize)len);
    }
    gm_retry(&v.gm);
    reader_finish(&r);
    end_vm(&v);
}

static void a_bus_error_elsewhere_ends_the_process_as_before(void)
{
    if (g_test_subprocess()) {
        g_autofree char *path = g_strdup_printf("%s/other", base);
        autofd fd = open(path, O_RDWR | O_CREAT, 0600);
        volatile uint8_t *at;
        Vm v;

        start_empty(&v);
        at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
        folder_remove(base);
        g_assert_cmpint(at[0], ==, 0);
        return;
    }
    g_test_trap_subprocess(NULL, 0, (GTestSubprocessFlags)0);
    g_test_trap_assert_failed();
}

static void a_server_that_dies_stops_who_reads_until_it_is_back(void)
{
    g_autofree char *address = unix_address();
    Reader r;
    pid_t pid;
    Vm v;

    if (!can())
        return;
    make_full(false);
    pid = serve(address, NULL);
    start(&v, address);
    end_server(pid, SIGKILL);
    reader_start(&r, &v, PAGES - 300);
    expect_lost(&v, &r, address);
    pid = serve(address, NULL);
    gm_retry(&v.gm);
    reader_finish(&r);
    expect_all(&v);
    end_vm(&v);
    end_server(pid, SIGTERM);
}

static void another_snapshot_behind_the_address_is_refused(void)
{
    g_autofree char *address = unix_address();
    Reader r;
    pid_t pid;
    Vm v;

    if (!can())
        return;
    make_full(false);
    pid = serve(address, NULL);
    start(&v, address);
    end_server(pid, SIGKILL);
    make_full(false); /* with an id of its own */
    pid = serve(address, NULL);
    reader_start(&r, &v, PAGES - 300);
    expect_lost(&v, &r, "another snapshot");
    end_server(pid, SIGTERM);
    /* Nobody gives what is wanted any more: only the end of the process ends that wait.
     */
    gm_clear(&v.gm);
    memset(ram, 0, FOLDER_RAM);
    reader_finish(&r);
    end_vm(&v);
}

/* ---- the working set ------------------------------------------------------------------
 */

static void wait_for_file(const char *path)
{
    int64_t limit = clock_ns() + LIMIT_MS * 1000000ll;

    while (access(path, F_OK) < 0) {
        g_usleep(5000);
        g_assert_cmpint(clock_ns(), <, limit);
    }
}

static WorkingSet *start_mapped(Vm *v)
{
    g_autofree char *folder = folder_of(0);

    start_empty(v);
    v->memory = snap_memory_open(folder, NULL);
    g_assert_true(snap_memory_map(v->memory, &v->gm, NULL));
    return working_set_start(folder, &v->gm);
}

static unsigned resident(const Vm *v, uint64_t page, unsigned n)
{
    autofd fd = open("/proc/self/pagemap", O_RDONLY);
    unsigned found = 0;

    for (unsigned i = 0; i < n; i++) {
        uint64_t entry;

        g_assert_cmpint(
            pread(fd, &entry, 8, (off_t)(((uintptr_t)v->gm.base / PAGE + page + i) * 8)),
            ==, 8);
        found += entry >> 63;
    }
    return found;
}

static void first_pages_are_recorded_and_read_ahead(void)
{
    g_autofree char *path = NULL;
    int64_t limit = clock_ns() + LIMIT_MS * 1000000ll;
    WorkingSet *w;
    Vm v;

    make_full(false);
    path = memory_path(SNAP_WORKING_SET);
    w = start_mapped(&v);
    g_assert_nonnull(w);
    for (uint64_t page = 512; page < 640; page++)
        expect_page(&v, page);
    v.gm.base[700 * PAGE] = 1; /* what is written counts, too */
    wait_for_file(path);
    working_set_close(w);
    end_vm(&v);

    w = start_mapped(&v);
    g_assert_nonnull(w);
    while (resident(&v, 512, 128) < 128 || resident(&v, 700, 1) < 1) {
        g_usleep(1000);
        g_assert_cmpint(clock_ns(), <, limit);
    }
    g_assert_cmpuint(resident(&v, 1400, 128), ==, 0);
    g_assert_cmpmem(v.gm.base, FOLDER_RAM, ram, FOLDER_RAM);
    working_set_close(w);
    end_vm(&v);
}

/* Though what lies around it is in the page cache, and would come with it. */
static void what_is_recorded_is_what_was_touched(void)
{
    g_autofree char *path = NULL, *folder = folder_of(0);
    g_autoptr(GArray) runs = NULL;
    uint64_t recorded = 0;
    WorkingSet *w;
    Vm v;
    int fd;

    make_full(false);
    path = memory_path(SNAP_WORKING_SET);
    w = start_mapped(&v);
    for (uint64_t page = 128; page < 1152; page += 16)
        expect_page(&v, page);
    wait_for_file(path);
    working_set_close(w);
    runs = memory_runs_load(folder, SNAP_WORKING_SET, PAGES, NULL);
    g_assert_nonnull(runs);
    for (unsigned i = 0; i < runs->len; i++)
        recorded += g_array_index(runs, MemoryRun, i).count;
    fd = uffd_touch_alone(v.gm.base, FOLDER_RAM);
    if (fd >= 0)
        g_assert_cmpuint(recorded, ==, 64);
    else
        g_test_message("not on this host: %" G_GUINT64_FORMAT " pages", recorded);
    fd_close(&fd);
    end_vm(&v);
}

/* Whatever it says, RAM is the snapshot's; and it may end at any time. */
static void a_hostile_working_set_changes_nothing(void)
{
    g_autofree char *path = NULL;
    WorkingSet *w;
    Vm v;

    make_full(false);
    path = memory_path(SNAP_WORKING_SET);
    for (unsigned i = 0; i < 20; i++) {
        g_autofree char *noise = g_malloc(4096);

        for (unsigned n = 0; n < 4096; n++)
            noise[n] = (char)rand();
        if (i)
            g_assert_true(g_file_set_contents(path, noise, i * 200, NULL));
        else
            g_assert_cmpint(symlink("/etc/passwd", path), ==, 0);
        w = start_mapped(&v);
        if (i % 2)
            g_assert_cmpmem(v.gm.base, FOLDER_RAM, ram, FOLDER_RAM);
        gm_finish(&v.gm); /* first, as when a machine ends */
        working_set_close(w);
        snap_memory_close(v.memory);
        unlink(path);
    }
}

/* ---- hostile peers --------------------------------------------------------------------
 */

static int connect_to(const char *address)
{
    int fd = unix_connect(address + strlen("unix:"), NULL);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

/* What is sent after a hello that is right; the server must hang up. */
static void hangs_up_on(const char *address, const void *data, size_t len, bool hello)
{
    autofd fd = connect_to(address);
    uint8_t buf[4096] = "HUTCHSNP\1\0\0\0\0\0\0";
    ssize_t n;

    if (hello) {
        g_assert_cmpint(write(fd, buf, 16), ==, 16);
        g_assert_cmpint(recv(fd, buf, 16, MSG_WAITALL), ==, 16);
    }
    g_assert_cmpint(send(fd, data, len, MSG_NOSIGNAL), ==, (gssize)len);
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        ;
    g_assert_true(n == 0 || errno == ECONNRESET);
}

static void put_request(uint8_t *to, uint32_t type, uint64_t at, uint32_t n,
                        uint32_t file)
{
    memcpy(to, "snap", 4);
    store_le32(to + 4, type);
    store_le64(to + 8, at);
    store_le32(to + 16, n);
    store_le32(to + 20, file);
}

/* Status and size of the answer. */
static uint32_t ask(int fd, const uint8_t *request, uint32_t *ret_len)
{
    static uint8_t buf[4 << 20];

    g_assert_cmpint(write(fd, request, 24), ==, 24);
    g_assert_cmpint(recv(fd, buf, 16, MSG_WAITALL), ==, 16);
    *ret_len = load_le32(buf + 8);
    g_assert_cmpuint(*ret_len, <=, sizeof(buf));
    if (*ret_len)
        g_assert_cmpint(recv(fd, buf + 16, *ret_len, MSG_WAITALL), ==, (gssize)*ret_len);
    return load_le32(buf + 4);
}

static void a_server_answers_hostile_clients_within_bounds(void)
{
    static const struct {
        uint32_t type, n, file;
        uint64_t at;
        uint32_t status, len;
    } cases[] = {
        {2, 0, 0, 0, 1, 0},           {2, 513, 0, 0, 1, 0},
        {2, UINT32_MAX, 0, 0, 1, 0},  {2, 2, 0, PAGES - 1, 1, 0},
        {2, 1, 0, UINT64_MAX, 1, 0},  {2, 512, 0, UINT64_MAX - 255, 1, 0},
        {1, 10, 3, 0, 1, 0},          {1, 10, UINT32_MAX, 0, 1, 0},
        {1, 10, 1, UINT64_MAX, 1, 0}, {1, 10, 0, UINT64_MAX, 1, 0},
        {1, 10, 1, INT64_MAX, 1, 0},  {1, 10, 0, INT64_MAX, 0, 0},
        {1, UINT32_MAX, 2, 0, 0, 11}, {3, 0, 0, UINT64_MAX, 0, 16},
        {3, 0, 0, PAGES, 0, 16},      {1, 0, 0, 0, 0, 0},
    };
    g_autofree char *address = unix_address();
    uint8_t bad[24], greeting[16] = "HUTCHSNP\1\0\0\0\0\0\0";
    uint32_t len;
    autofd fd = -1;
    pid_t pid;

    make_full(false);
    pid = serve(address, NULL);
    hangs_up_on(address, "GET / HTTP/1.0\r\n\r\n", 18, false);
    put_request(bad, 4, 0, 1, 0);
    hangs_up_on(address, bad, sizeof(bad), true);
    put_request(bad, 0, 0, 1, 0);
    hangs_up_on(address, bad, sizeof(bad), true);
    put_request(bad, UINT32_MAX, 0, 1, 0);
    hangs_up_on(address, bad, sizeof(bad), true);
    memset(bad, 0xff, sizeof(bad));
    hangs_up_on(address, bad, sizeof(bad), true);
    fd = connect_to(address);
    g_assert_cmpint(write(fd, greeting, 16), ==, 16);
    g_assert_cmpint(recv(fd, greeting, 16, MSG_WAITALL), ==, 16);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        put_request(bad, cases[i].type, cases[i].at, cases[i].n, cases[i].file);
        g_assert_cmpuint(ask(fd, bad, &len), ==, cases[i].status);
        if (!cases[i].status)
            g_assert_cmpuint(len, ==, cases[i].len);
        else
            g_assert_cmpuint(len, <=, 512);
    }
    for (unsigned i = 0; i < 100; i++) { /* more than there is room for */
        int extra = connect_to(address);

        if (i % 2)
            close(extra);
        else
            g_assert_cmpint(fcntl(extra, F_SETFD, FD_CLOEXEC), ==, 0);
    }
    put_request(bad, 3, 0, 0, 0);
    g_assert_cmpuint(ask(fd, bad, &len), ==, 0);
    end_server(pid, SIGTERM);
}

/* A server that says what it is told to, after a hello that is right. */
typedef struct Liar {
    UnixListener listener;
    const uint8_t *data;
    size_t len;
    pthread_t thread;
} Liar;

static void *liar_thread(void *opaque)
{
    Liar *liar = opaque;
    struct pollfd p = {liar->listener.fd, POLLIN, 0};
    uint8_t buf[40] = "HUTCHSNP\1\0\0\0\0\0\0";
    int fd;

    g_assert_cmpint(poll(&p, 1, LIMIT_MS), ==, 1);
    fd = accept(liar->listener.fd, NULL, NULL);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, buf, 16), ==, 16);
    g_assert_cmpint(recv(fd, buf, 40, MSG_WAITALL), ==, 40);
    if (send(fd, liar->data, liar->len, MSG_NOSIGNAL) < 0)
        g_test_message("it hung up first");
    close(fd);
    return NULL;
}

static void expect_liar_refused(const uint8_t *data, size_t len)
{
    g_autofree char *address = g_strdup_printf("unix:%s/liar.sock", base);
    Liar liar = {.data = data, .len = len};
    g_autoptr(GError) error = NULL;

    g_assert_true(unix_listen(&liar.listener, address + 5, 4, NULL));
    g_assert_cmpint(pthread_create(&liar.thread, NULL, liar_thread, &liar), ==, 0);
    g_assert_null(remote_open(address, &error));
    g_assert_nonnull(error);
    for (const char *c = error->message; *c; c++)
        g_assert_cmpint(*c, >=, ' ');
    pthread_join(liar.thread, NULL);
    unix_unlisten(&liar.listener);
}

static void a_client_refuses_what_makes_no_sense(void)
{
    static const struct {
        uint32_t magic, status, len, type;
    } replies[] = {
        {0, 0, 4, 1},
        {0x70616e73, 2, 4, 1},
        {0x70616e73, 0, UINT32_MAX, 1},
        {0x70616e73, 0, 4, 2},
        {0x70616e73, 0, (1 << 20) + 1, 1},
        {0x70616e73, 1, 513, 1},
        {0x70616e73, 1, 4, 1},   /* a sentence of control characters */
        {0x70616e73, 0, 4, 1},   /* no manifest */
        {0x70616e73, 0, 100, 1}, /* cut off */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(replies); i++) {
        uint8_t reply[20] = {0};

        store_le32(reply, replies[i].magic);
        store_le32(reply + 4, replies[i].status);
        store_le32(reply + 8, replies[i].len);
        store_le32(reply + 12, replies[i].type);
        memcpy(reply + 16, "\033[2J", 4);
        expect_liar_refused(reply, sizeof(reply));
    }
}

static void addresses_that_are_none_are_refused(void)
{
    static const char *const bad[] = {"tcp:",    "tcp:127.0.0.1", "tcp:127.0.0.1:none",
                                      "tcp::80", "http:x",        "unix:/nowhere/at/all"};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_null(remote_open(bad[i], NULL));
    g_assert_true(remote_is_address("unix:a"));
    g_assert_true(remote_is_address("tcp:a:1"));
    g_assert_false(remote_is_address("web"));
    g_assert_false(remote_is_address("./unix:a"));
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    make_base();
    ram = g_malloc0(FOLDER_RAM);
#define TEST(name) g_test_add_func("/lazy/" #name, name)
    TEST(pages_come_when_they_are_wanted_and_then_all_of_them);
    TEST(what_the_guest_wrote_is_not_replaced);
    TEST(many_threads_may_want_the_same_pages);
    TEST(cleared_ram_stays_clear);
    TEST(what_is_served_is_what_is_restored);
    TEST(a_file_cut_off_stops_who_reads_until_it_is_back);
    TEST(a_file_cut_off_before_anything_came_is_not_all_zeroes);
    TEST(a_mapped_file_cut_off_stops_who_reads_until_it_is_back);
    TEST(a_bus_error_elsewhere_ends_the_process_as_before);
    TEST(a_server_that_dies_stops_who_reads_until_it_is_back);
    TEST(another_snapshot_behind_the_address_is_refused);
    TEST(first_pages_are_recorded_and_read_ahead);
    TEST(what_is_recorded_is_what_was_touched);
    TEST(a_hostile_working_set_changes_nothing);
    TEST(a_server_answers_hostile_clients_within_bounds);
    TEST(a_client_refuses_what_makes_no_sense);
    TEST(addresses_that_are_none_are_refused);
    status = g_test_run();
    folder_remove(base);
    g_free(base);
    g_free(ram);
    return status;
}
