/* Exchanges with a guest's agent (QEMU's docs/interop/qemu-ga): a command and its reply,
 * each a line of JSON.
 *
 * Nothing on the line says which reply belongs to which command, and there may be replies
 * to what others have asked and not waited for.  So each turn begins with
 * guest-sync-delimited: byte 0xFF, at which the agent drops what it had of a message, and
 * a random number, which it returns behind a 0xFF of its own.  What comes before that is
 * dropped.  After anything that went wrong, the next call begins a new turn. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "src/agent/agent_private.h"
#include "util/ioloop.h"

enum {
    MAX_TEXT = 300,      /* bytes of the guest's words in a message of ours */
    MAX_COMMANDS = 1024, /* that guest-info may list */
    MAX_VALUES = 65536,  /* in one reply; each costs us some hundred bytes */
    BYTES_PER_MS = 100,  /* a slow guest still carries so much */
    SLEEP_STEP_MS = 10,
};

static int64_t in_ms(int64_t ms)
{
    return clock_ns() + ms * 1000000;
}

/* ---- what the guest said
 * ----------------------------------------------------------------
 */

char *agent_text(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(
        text ? text : "", (gssize)strnlen(text ? text : "", MAX_TEXT));

    for (char *p = valid; *p; p = g_utf8_next_char(p))
        if (!g_unichar_isprint(g_utf8_get_char(p)))
            memset(p, ' ', (size_t)(g_utf8_next_char(p) - p));
    return g_steal_pointer(&valid);
}

bool agent_fail(const Agent *a, GError **error, const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return fail(error, VM_ERROR_CORRUPT, "VM '%s': its guest agent %s", a->link.vm, what);
}

bool agent_get_int(const Agent *a, const json_t *object, const char *key, int64_t min,
                   int64_t max, int64_t *ret, GError **error)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max)
        return agent_fail(a, error, "gives no sensible '%s'", key);
    *ret = json_integer_value(value);
    return true;
}

bool agent_get_bool(const Agent *a, const json_t *object, const char *key, bool *ret,
                    GError **error)
{
    const json_t *value = json_object_get(object, key);

    *ret = json_is_true(value);
    return json_is_boolean(value) || agent_fail(a, error, "gives no sensible '%s'", key);
}

guchar *agent_get_bytes(const Agent *a, const json_t *object, const char *key, size_t max,
                        size_t *ret_len, GError **error)
{
    const json_t *value = json_object_get(object, key);
    const char *text = value ? json_string_value(value) : "";
    guchar *bytes;

    *ret_len = 0;
    if (!text || strlen(text) % 4 ||
        strspn(text,
               "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") !=
            strlen(text)) {
        agent_fail(a, error, "gives no sensible '%s'", key);
        return NULL;
    }
    bytes = *text ? g_base64_decode(text, ret_len) : g_malloc0(1);
    if (*ret_len <= max)
        return bytes;
    g_free(bytes);
    agent_fail(a, error, "gives more bytes than were asked for");
    return NULL;
}

/* ---- one exchange ---------------------------------------------------------------------
 */

static bool fail_silent(const Agent *a, GError **error)
{
    return fail(error, VM_ERROR_BUSY,
                "VM '%s': its guest agent does not answer within %.3g s; is "
                "qemu-guest-agent installed and running in the guest?",
                a->link.vm, a->timeout_ms / 1000.0);
}

/* Takes `message`.  *deadline_ns moves on with what there is to carry. */
static bool send_message(Agent *a, const char *prefix, json_t *message,
                         int64_t *deadline_ns, GError **error)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    g_autofree char *bytes = text ? g_strconcat(prefix, text, "\n", NULL) : NULL;
    size_t len = bytes ? strlen(bytes) : 0;

    free(text);
    json_decref(message);
    if (!bytes)
        return fail(error, VM_ERROR_INVALID,
                    "VM '%s': what its guest agent is to be told is not UTF-8",
                    a->link.vm);
    *deadline_ns += (int64_t)(len / BYTES_PER_MS) * 1000000;
    return link_send(&a->link, bytes, len, *deadline_ns, error);
}

static bool is_reply(const json_t *reply)
{
    return json_is_object(reply) && (json_object_get(reply, "return") ||
                                     json_is_object(json_object_get(reply, "error")));
}

/* NULL: it is no JSON, or so much of it that 48 MiB of text would be gigabytes of values.
 * What a long reply is long of is one text, of base64, and has none of these in it. */
static json_t *parse(const char *line, size_t len)
{
    size_t values = 0;

    for (size_t i = 0; i < len; i++)
        values += line[i] == ',' || line[i] == '[' || line[i] == '{';
    /* Which is content with 2048 levels. */
    return values <= MAX_VALUES ? json_loadb(line, len, 0, NULL) : NULL;
}

/* A new reference to the whole reply.  NULL without an error: the deadline is over. */
static json_t *next_reply(Agent *a, int64_t deadline_ns, GError **error)
{
    const char *line;
    json_t *reply;
    size_t len;

    if (!link_line(&a->link, &line, &len, deadline_ns, error))
        return NULL;
    reply = parse(line, len);
    if (is_reply(reply))
        return reply;
    json_decref(reply);
    agent_fail(a, error, "says what is no answer");
    return NULL;
}

/* ---- beginning a turn -----------------------------------------------------------------
 */

static json_int_t random_id(void)
{
    uint32_t id;

    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        id = g_random_int();
    return id;
}

/* False without an error: the deadline is over.  Answers to what others asked are passed
 * over, however many there are. */
static bool synchronise(Agent *a, int64_t deadline_ns, GError **error)
{
    json_int_t id = random_id();
    json_t *message = json_pack("{s:s, s:{s:I}}", "execute", "guest-sync-delimited",
                                "arguments", "id", id);
    bool same = false;

    if (!send_message(a, "\xff", message, &deadline_ns, error))
        return false;
    while (!same) {
        const char *line;
        json_t *reply, *value;
        size_t len;

        if (!link_skip(&a->link, deadline_ns, error) ||
            !link_line(&a->link, &line, &len, deadline_ns, error))
            return false;
        reply = parse(line, len);
        value = json_object_get(reply, "return");
        same = json_is_integer(value) && json_integer_value(value) == id;
        json_decref(reply);
    }
    return true;
}

static bool begin_turn(Agent *a, GError **error)
{
    int64_t deadline_ns = in_ms(a->timeout_ms);
    g_autoptr(GError) inner = NULL;

    if (a->link.fd >= 0)
        return true;
    if (!link_open(&a->link, deadline_ns, error))
        return false;
    if (synchronise(a, deadline_ns, &inner))
        return true;
    link_close(&a->link);
    if (!inner)
        return fail_silent(a, error);
    g_propagate_error(error, g_steal_pointer(&inner));
    return false;
}

/* ---- calling --------------------------------------------------------------------------
 */

static bool fail_refused(Agent *a, const json_t *refusal, const char *command,
                         GError **error)
{
    const char *class = json_string_value(json_object_get(refusal, "class"));
    const char *desc = json_string_value(json_object_get(refusal, "desc"));
    g_autofree char *why = agent_text(desc ? desc : "it does not say why");

    return fail(error,
                class && g_str_equal(class, "CommandNotFound") ? VM_ERROR_UNSUPPORTED
                                                               : VM_ERROR_INVALID,
                "VM '%s': its guest agent refuses %s: %s", a->link.vm, command, why);
}

json_t *agent_call(Agent *a, const char *command, json_t *arguments, GError **error)
{
    json_t *message = json_pack("{s:s}", "execute", command);
    json_t *reply = NULL, *result;
    g_autoptr(GError) inner = NULL;
    int64_t deadline_ns;

    if (arguments)
        json_object_set_new(message, "arguments", arguments);
    if (!begin_turn(a, error)) {
        json_decref(message);
        return NULL;
    }
    deadline_ns = in_ms(a->timeout_ms);
    if (send_message(a, "", message, &deadline_ns, &inner))
        reply = next_reply(a, deadline_ns, &inner);
    if (!reply) {
        link_close(&a->link);
        if (inner)
            g_propagate_error(error, g_steal_pointer(&inner));
        else
            fail_silent(a, error);
        return NULL;
    }
    result = json_incref(json_object_get(reply, "return"));
    if (!result)
        fail_refused(a, json_object_get(reply, "error"), command, error);
    json_decref(reply);
    if (!a->held && link_wanted(&a->link))
        link_close(&a->link);
    return result;
}

bool agent_tell(Agent *a, const char *command, json_t *arguments, GError **error)
{
    json_t *result = agent_call(a, command, arguments, error);

    json_decref(result);
    return result != NULL;
}

void agent_release(Agent *a)
{
    if (!a->held)
        link_close(&a->link);
}

void agent_sleep(Agent *a, int ms)
{
    for (; ms > 0; ms -= SLEEP_STEP_MS) {
        if (!a->held && link_wanted(&a->link))
            link_close(&a->link);
        g_usleep((gulong)MIN(ms, SLEEP_STEP_MS) * 1000);
    }
}

/* ---- what it can ----------------------------------------------------------------------
 */

static void list_commands(Agent *a)
{
    json_t *info = agent_call(a, "guest-info", NULL, NULL);
    json_t *all = json_object_get(info, "supported_commands");

    a->commands = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (size_t i = 0; i < MIN(json_array_size(all), MAX_COMMANDS); i++) {
        const json_t *one = json_array_get(all, i);
        const char *name = json_string_value(json_object_get(one, "name"));

        if (name && json_is_true(json_object_get(one, "enabled")))
            g_hash_table_add(a->commands, g_strdup(name));
    }
    json_decref(info);
}

bool agent_can(Agent *a, const char *command)
{
    if (!a->commands)
        list_commands(a);
    return g_hash_table_contains(a->commands, command);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

Agent *agent_connect(const char *vm, int timeout_ms, GError **error)
{
    g_autoptr(Agent) a = g_new0(Agent, 1);

    a->timeout_ms = timeout_ms;
    if (!link_init(&a->link, vm, error) || !begin_turn(a, error))
        return NULL;
    return g_steal_pointer(&a);
}

void agent_free(Agent *a)
{
    if (!a)
        return;
    if (a->commands)
        g_hash_table_unref(a->commands);
    link_finish(&a->link);
    g_free(a);
}
