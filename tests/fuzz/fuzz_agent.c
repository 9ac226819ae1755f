/* What a guest's agent may say: any bytes, in answer to a question.  Checked is that what
 * comes through is within its bounds, and that a refusal is one printable sentence.
 *
 * Input: one byte that chooses the question, then all that the agent says. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "src/agent/process.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

static bool ask_addresses(Agent *a, GError **error)
{
    json_t *all = agent_addresses(a, error), *one;
    bool ok = all != NULL;
    size_t i;

    check(json_array_size(all) <= 64);
    json_array_foreach(all, i, one)
        check(json_is_string(json_object_get(one, "name")) &&
              json_array_size(json_object_get(one, "addresses")) <= 64);
    json_decref(all);
    return ok;
}

static bool ask_process(Agent *a, GError **error)
{
    Process p;
    bool ok = process_look(a, 1, &p, error);

    check(!ok || (p.status >= 0 && p.status <= 255));
    check(!p.ended || (p.data[0] && p.data[1]));
    process_clear(&p);
    return ok;
}

static bool ask_start(Agent *a, GError **error)
{
    int64_t pid;
    bool ok = process_start(a, "x", json_array(), NULL, 0, false, &pid, error);

    check(!ok || pid > 0);
    return ok;
}

static bool ask_file(Agent *a, GError **error)
{
    char buf[100];
    size_t len = 0;
    bool end, ok = agent_read(a, 1, buf, sizeof(buf), &len, &end, error);

    check(!ok || len <= sizeof(buf));
    return ok;
}

static bool ask_freeze(Agent *a, GError **error)
{
    unsigned n = 0;
    bool ok = agent_thaw(a, &n, error);

    check(n <= 1000 * 1000);
    return ok;
}

static bool ask_commands(Agent *a, GError **error)
{
    agent_can(a, "guest-exec");
    check(g_hash_table_size(a->commands) <= 1024);
    g_hash_table_unref(a->commands);
    return true;
}

static bool (*const questions[])(Agent *a, GError **error) = {
    ask_addresses, ask_process, ask_start, ask_file, ask_freeze, ask_commands,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    Agent a = {.link = {.vm = (char *)"x",
                        .path = (char *)"",
                        .lock_path = (char *)"",
                        .lock_fd = -1},
               .timeout_ms = 1000};
    int pair[2];

    if (!size || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return 0;
    a.link.fd = pair[0];
    a.link.in = g_string_new(NULL);
    check(send(pair[1], data + 1, size - 1, MSG_DONTWAIT) == (ssize_t)size - 1);
    shutdown(pair[1], SHUT_WR); /* that is all */
    if (!questions[*data % G_N_ELEMENTS(questions)](&a, &error)) {
        check(error && g_utf8_validate(error->message, -1, NULL));
        check(!strpbrk(error->message, "\n\r\033\177"));
    }
    fd_close(&a.link.fd);
    close(pair[1]);
    g_string_free(a.link.in, TRUE);
    return 0;
}
