/* What a client may say: any bytes, cut into messages, checked against the tables that
 * hutch has.  Checked is that cutting does not depend on how the bytes arrive, that every
 * message is answered by one reply that is JSON, and that what was refused has not run.
 *
 * Input: one byte of modes, one of how many bytes arrive at a time, then what is said. */
#include <stdlib.h>
#include <string.h>

#include "src/control/frame.h"
#include "src/control/request.h"

enum { MODE_NEGOTIATED = 1, MODE_READONLY = 2 };
enum { HEADER = 2, MAX_MESSAGE = 600 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

/* Commands of the protocol itself need no machine; the others are not carried out. */
static bool may_run(const ControlCommand *command)
{
    for (const ControlCommand *c = control_protocol_table.commands; c->name; c++)
        if (c == command)
            return true;
    return false;
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

static void answer(const GString *text, RequestRights *rights)
{
    static const bool ending;
    static const ControlCall context = {.ending = &ending};
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    RequestRights rights;
    const char *text = (const char *)data + HEADER;
    size_t step;

    if (size <= HEADER)
        return 0;
    rights = (RequestRights){data[0] & MODE_NEGOTIATED, data[0] & MODE_READONLY};
    step = 1 + data[1] % 32;
    check(cut(text, size - HEADER, step, &rights) ==
          cut(text, size - HEADER, size, NULL));
    return 0;
}
