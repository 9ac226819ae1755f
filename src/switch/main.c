/* The program: `hutch-switch NETWORK`, which hutch starts as network/place.h says. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "network/place.h"
#include "src/switch/join.h"
#include "src/switch/life.h"
#include "src/switch/port_stream.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/logfile.h"

enum { FIRST_FD = 3 };

/* Whatever goes wrong here goes on: it is defence in depth. */
static void drop_what_is_not_needed(void)
{
    struct rlimit files;

    syscall(SYS_close_range, FIRST_FD, ~0u, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    umask(0077);
    setsid();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* three for each port */
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* What we say is what the starter's user reads. */
static void say(const char *line)
{
    printf("%s\n", line);
    fflush(stdout);
}

static bool open_log(const char *name, LogFile *log, GError **error)
{
    g_autofree char *path = network_place(name, NETWORK_LOG, error);

    if (!path || !logfile_open(log, path, error))
        return false;
    log_set_file(log);
    return true;
}

/* Nobody hears us from here on. */
static void close_stdout(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (fd >= 0) {
        dup2(fd, STDIN_FILENO);
        dup2(fd, STDOUT_FILENO);
        close(fd);
    }
}

static bool start(Switch *sw, Life *life, GError **error)
{
    if (!join_listen(sw, error) || !life_watch(life, sw, error))
        return false;
    port_stream_connect_again(sw);
    return true;
}

static bool serve(const char *name, NetworkConfig *config, Life *life, GError **error)
{
    Switch *sw = switch_new(name, config, error);
    bool fine = sw && start(sw, life, error);

    if (fine) {
        say("ready");
        close_stdout();
        ioloop_run(sw->loop);
    }
    switch_free(sw);
    return fine;
}

static bool run(const char *name, GError **error)
{
    LogFile log = {.folder_fd = -1, .fd = -1};
    NetworkConfig *config = network_load(name, error);
    Life life = {.lock_fd = -1, .signal_fd = -1, .start_fd = -1};
    bool fine = false;

    if (!config)
        return false;
    if (!life_begin(&life, name, error) || !open_log(name, &log, error))
        param_free(&network_params, config);
    else
        fine = serve(name, config, &life, error);
    life_end(&life);
    log_set_file(NULL);
    logfile_close(&log);
    return fine;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) why = NULL;

    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: hutch-switch NETWORK\n"
                        "hutch starts it when a VM joins the network.\n");
        return 2;
    }
    drop_what_is_not_needed();
    if (run(argv[1], &why))
        return 0;
    say(why->message);
    return 1;
}
