/* See src/agent/process.h. */
#include "src/agent/process.h"

#include "util/ioloop.h"

enum { LOOK_MS = 5, MAX_PID = 0x7fffffff, MAX_SIGNAL = 64 };

json_t *process_script(const char *script, ...)
{
    json_t *ret = json_pack("[s, s, s]", "-c", script, "sh");
    const char *argument;
    va_list ap;

    va_start(ap, script);
    while ((argument = va_arg(ap, const char *)))
        json_array_append_new(ret, json_string(argument));
    va_end(ap);
    return ret;
}

bool process_start(Agent *a, const char *path, json_t *arguments, const void *input,
                   size_t input_len, bool capture, int64_t *ret, GError **error)
{
    json_t *all = json_pack("{s:s, s:o, s:b}", "path", path, "arg", arguments,
                            "capture-output", capture);
    json_t *started;
    bool ok;

    if (input_len) {
        g_autofree char *text = g_base64_encode(input, input_len);

        json_object_set_new(all, "input-data", json_string_nocheck(text));
    }
    started = agent_call(a, "guest-exec", all, error);
    ok = started && agent_get_int(a, started, "pid", 1, MAX_PID, ret, error);
    json_decref(started);
    return ok;
}

/* ---- how it is ------------------------------------------------------------------------
 */

/* WIFEXITED or WIFSIGNALED, in the agent's words. */
static bool read_status(Agent *a, const json_t *told, Process *p, GError **error)
{
    int64_t number;

    if (json_object_get(told, "signal")) {
        if (!agent_get_int(a, told, "signal", 1, MAX_SIGNAL, &number, error))
            return false;
        p->status = 128 + (int)number;
        return true;
    }
    if (!agent_get_int(a, told, "exitcode", 0, 255, &number, error))
        return false;
    p->status = (int)number;
    return true;
}

static bool read_output(Agent *a, const json_t *told, Process *p, GError **error)
{
    static const char *const keys[] = {"out-data", "err-data"};

    for (unsigned i = 0; i < 2; i++) {
        p->data[i] = agent_get_bytes(a, told, keys[i], PROCESS_MAX_CAPTURE, &p->len[i],
                                     error);
        if (!p->data[i])
            return false;
    }
    p->truncated = json_is_true(json_object_get(told, "out-truncated")) ||
                   json_is_true(json_object_get(told, "err-truncated"));
    return true;
}

bool process_look(Agent *a, int64_t pid, Process *ret, GError **error)
{
    json_t *told = agent_call(a, "guest-exec-status",
                              json_pack("{s:I}", "pid", (json_int_t)pid), error);
    bool ok;

    *ret = (Process){0};
    if (!told)
        return false;
    ok = agent_get_bool(a, told, "exited", &ret->ended, error) &&
         (!ret->ended ||
          (read_status(a, told, ret, error) && read_output(a, told, ret, error)));
    json_decref(told);
    if (!ok)
        process_clear(ret);
    return ok;
}

void process_clear(Process *p)
{
    g_free(p->data[0]);
    g_free(p->data[1]);
    *p = (Process){0};
}

bool process_wait(Agent *a, int64_t pid, int *ret_status, GError **error)
{
    int64_t deadline_ns = clock_ns() + a->timeout_ms * (int64_t)1000000;

    do {
        Process p;
        bool ended;

        if (!process_look(a, pid, &p, error))
            return false;
        *ret_status = p.status;
        ended = p.ended;
        process_clear(&p);
        if (ended)
            return true;
        agent_sleep(a, LOOK_MS);
    } while (clock_ns() < deadline_ns);
    return agent_fail(a, error, "does not see the end of a small command");
}
