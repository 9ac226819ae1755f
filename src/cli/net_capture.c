/* hutch net capture: the frames of a network or a port, as a pcap file.
 *
 * The switch makes the file, and this writes it on, only whole records, so that what was
 * captured until an interrupt can be read. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "network/place.h"
#include "src/cli/interrupt.h"
#include "src/cli/net.h"
#include "util/fd.h"
#include "util/json.h"
#include "util/log.h"

enum {
    FILE_HEADER = 24,   /* pcap's own */
    RECORD_HEADER = 16, /* seconds, fraction, bytes that follow, bytes there were */
    LENGTH_AT = 8,
    MAX_RECORD = 1 << 18,
    MAX_ANSWER = 1 << 16,
};

typedef struct CaptureArgs {
    char *output, *filter;
    uint64_t count, snaplen;
} CaptureArgs;

#define CAPTURE_ROW(key_, letter_, type_, member_, ...)                                  \
    {                                                                                    \
        .key = key_, .letter = letter_, .type = type_,                                   \
        .offset = offsetof(CaptureArgs, member_), ##__VA_ARGS__                          \
    }

const ParamTable net_capture_args = {
    .size = sizeof(CaptureArgs),
    .desc =
        (const ParamDesc[]){
            CAPTURE_ROW("output", 'o', PARAM_PATH, output, .arg = "FILE", .def = "-",
                        .help = "where to; - is standard output"),
            CAPTURE_ROW("filter", 'f', PARAM_STRING, filter, .arg = "EXPRESSION",
                        .help = "which frames, as tcpdump has it: 'tcp port 80'"),
            CAPTURE_ROW("count", 'c', PARAM_UINT, count, .arg = "N",
                        .help = "end after so many frames; 0: never"),
            CAPTURE_ROW("snaplen", 's', PARAM_UINT, snaplen, .arg = "BYTES", .max = 65535,
                        .help = "at most so much of each frame; 0: all"),
            {0}},
};

const char net_capture_about[] =
    "It goes on until it is interrupted, --count frames came, or the network is down.  "
    "To watch: hutch net capture blue | wireshark -k -i -";

/* ---- the connection -------------------------------------------------------------------
 */

static char *request(const NetTarget *t, const CaptureArgs *args)
{
    json_t *arguments = net_arguments(t), *message;
    g_autofree char *line = NULL;
    char *text;

    if (args->filter)
        json_object_set_new(arguments, "filter", json_string(args->filter));
    if (args->count)
        json_object_set_new(arguments, "count", json_integer((json_int_t)args->count));
    if (args->snaplen)
        json_object_set_new(arguments, "snaplen",
                            json_integer((json_int_t)args->snaplen));
    message = json_pack("{s:s, s:o}", "execute", "capture", "arguments", arguments);
    text = json_dumps(message, JSON_COMPACT);
    line = g_strconcat(text, "\n", NULL);
    free(text);
    json_decref(message);
    return g_steal_pointer(&line);
}

/* A byte at a time, for the file begins right behind the line. */
static bool read_answer(int fd, const char *network, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    json_t *answer;
    char c = 0;
    bool ok;

    while (c != '\n' && line->len < MAX_ANSWER && read(fd, &c, 1) == 1)
        g_string_append_c(line, c);
    answer = json_loads(line->str, 0, NULL);
    ok = json_object_get(answer, "return") ||
         fail(error, VM_ERROR_INVALID, "network '%s': %s", network,
              answer ? json_get_text(json_object_get(answer, "error"), "desc")
                     : "its switch does not answer");
    json_decref(answer);
    return ok;
}

/* -1 on failure. */
static int start(const NetTarget *t, const CaptureArgs *args, GError **error)
{
    g_autofree char *line = request(t, args);
    autofd fd = -1;

    if (!network_is_up(t->network)) {
        fail(error, VM_ERROR_BUSY, "network '%s' is not in use: no VM is on it now",
             t->network);
        return -1;
    }
    fd = network_join(t->network, NETWORK_CONTROL, error);
    if (fd < 0 || !fd_write_all(fd, line, strlen(line), error) ||
        !read_answer(fd, t->network, error))
        return -1;
    return fd_steal(&fd);
}

/* ---- the file -------------------------------------------------------------------------
 */

/* How many bytes at the beginning are whole; counts their records. */
static size_t whole(const GByteArray *in, bool *header, uint64_t *frames)
{
    size_t at = 0;

    if (!*header) {
        if (in->len < FILE_HEADER)
            return 0;
        *header = true;
        at = FILE_HEADER;
    }
    while (in->len - at >= RECORD_HEADER) {
        uint32_t len;

        memcpy(&len, in->data + at + LENGTH_AT, sizeof(len));
        if (len > MAX_RECORD || in->len - at - RECORD_HEADER < len)
            break;
        at += RECORD_HEADER + len;
        ++*frames;
    }
    return at;
}

static bool copy(int from, int to, uint64_t *frames, GError **error)
{
    g_autoptr(GByteArray) in = g_byte_array_new();
    uint8_t part[64 * 1024];
    bool header = false;

    for (;;) {
        ssize_t n = read(from, part, sizeof(part));
        size_t ready;

        if (n < 0 && errno == EINTR && !interrupt_signal())
            continue;
        if (n <= 0)
            return n == 0 || interrupt_signal() ||
                   fail_errno(error, "hear from the switch");
        g_byte_array_append(in, part, (guint)n);
        ready = whole(in, &header, frames);
        if (!fd_write_all(to, in->data, ready, error)) {
            g_prefix_error(error, "write the capture: ");
            return false;
        }
        g_byte_array_remove_range(in, 0, (guint)ready);
        if (in->len > MAX_RECORD + RECORD_HEADER)
            return fail(error, VM_ERROR_CORRUPT, "the switch sends no pcap file");
    }
}

static int open_output(const char *path, GError **error)
{
    int fd;

    if (g_str_equal(path, "-")) {
        if (!isatty(STDOUT_FILENO))
            return dup(STDOUT_FILENO);
        fail(error, VM_ERROR_INVALID,
             "a capture is no text for a terminal: give --output FILE, or a pipe");
        return -1;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        fail_errno(error, "open '%s'", path);
    return fd;
}

bool net_act_capture(void *options, char **names, int *status, GError **error)
{
    const CaptureArgs *args = options;
    autofd from = -1, to = -1;
    uint64_t frames = 0;
    NetTarget t;
    bool ok;

    if (!net_target(names[0], names[1], &t, error))
        return false;
    interrupt_watch();
    from = start(&t, args, error);
    to = from < 0 ? -1 : open_output(args->output, error);
    interrupt_shuts(from);
    ok = to >= 0 && copy(from, to, &frames, error);
    interrupt_shuts(-1);
    if (ok)
        log_info("%" G_GUINT64_FORMAT " frames", frames);
    net_target_clear(&t);
    return ok;
}
