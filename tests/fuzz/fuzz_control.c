/* What a client may say: any bytes, cut into messages, checked against the tables that
 * hutch has.  Checked is that cutting does not depend on how the bytes arrive, that every
 * message is answered by one reply that is JSON, and that what was refused has not run.
 *
 * Input: one byte of modes, one of how many bytes arrive at a time, then what is said; or
 * with MODE_COMMAND, one of which command it is, then its arguments: an object without
 * its braces, so that no byte is spent on reaching the table. */
#include <stdlib.h>
#include <string.h>

#include "src/control/frame.h"
#include "src/control/parts.h"
#include "src/control/request.h"

enum { MODE_NEGOTIATED = 1, MODE_READONLY = 2, MODE_COMMAND = 4 };
enum { HEADER = 2, MAX_MESSAGE = 600 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

/* Those of the protocol itself, and those that make parts of devices that never come,
 * need no machine; the others are not carried out. */
static bool may_run(const ControlCommand *command)
{
    static const char *const parts[] = {"netdev_add",     "netdev_del",   "chardev-add",
                                        "chardev-remove", "blockdev-del", NULL};

    for (const ControlCommand *c = control_protocol_table.commands; c->name; c++)
        if (c == command)
            return true;
    return g_strv_contains(parts, command->name);
}

static void check_reply(json_t *reply)
{
    char *text = json_dumps(reply, 0);
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;
    json_t *error = json_object_get(reply, "error");

    check(json_equal(again, reply));
    check(!error != !json_object_get(reply, "return"));
    check(!error || (json_is_string(json_object_get(error, "class")) &&
                     json_is_string(json_object_get(error, "desc"))));
    json_decref(again);
    free(text);
}

static Parts parts;

static void answer(const GString *text, RequestRights *rights)
{
    static const bool ending;
    static const ControlCall context = {.ending = &ending, .parts = &parts};
    Request *r = request_new(text->str, text->len, *rights, &context);

    if (!r->reply) {
        check(r->command && !r->command->refused);
        check(!rights->readonly || r->command->flags & CONTROL_QUERY);
        check(rights->negotiated || r->command->flags & CONTROL_EARLY);
        check(!r->command->args == !r->args);
        if (may_run(r->command))
            request_run(r);
    }
    if (r->reply)
        check_reply(r->reply);
    rights->negotiated = r->call.negotiated;
    request_free(r);
}

/* A hash of where messages begin and end. */
static uint64_t cut(const char *text, size_t len, size_t step, RequestRights *rights)
{
    uint64_t hash = 0;
    Frame f;

    frame_init(&f, MAX_MESSAGE);
    for (size_t at = 0; at < len;) {
        g_autoptr(GError) error = NULL;
        size_t used = 0, part = MIN(step, len - at);
        FrameResult result = frame_take(&f, text + at, part, &used, &error);

        check(used <= part && (used == part || result != FRAME_MORE));
        check((result == FRAME_BAD) == (error != NULL));
        check(f.text->len <= MAX_MESSAGE);
        at += used;
        if (result != FRAME_MORE)
            hash = (hash * 31 + at) * 31 + result;
        if (result == FRAME_VALUE && rights)
            answer(f.text, rights);
    }
    frame_finish(&f);
    return hash;
}

static const ControlCommand *nth_command(unsigned n)
{
    for (;;)
        for (const ControlTable *const *t = control_tables; *t; t++)
            for (const ControlCommand *c = (*t)->commands; c->name; c++)
                if (n-- == 0)
                    return c;
}

/* Twice, because the second netdev of a name is another case than the first. */
static void call(const uint8_t *data, size_t size, RequestRights rights)
{
    g_autoptr(GString) text = g_string_new(NULL);

    rights.negotiated = true;
    g_string_printf(text, "{\"execute\": \"%s\", \"arguments\": {",
                    nth_command(data[0])->name);
    g_string_append_len(text, (const char *)data + 1, (gssize)size - 1);
    g_string_append(text, "}}");
    answer(text, &rights);
    answer(text, &rights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    RequestRights rights;
    const char *text = (const char *)data + HEADER;
    size_t step;

    if (size <= HEADER)
        return 0;
    rights = (RequestRights){data[0] & MODE_NEGOTIATED, data[0] & MODE_READONLY};
    step = 1 + data[1] % 32;
    if (data[0] & MODE_COMMAND)
        call(data + 1, size - 1, rights);
    else
        check(cut(text, size - HEADER, step, &rights) ==
              cut(text, size - HEADER, size, NULL));
    parts_clear(&parts);
    return 0;
}
