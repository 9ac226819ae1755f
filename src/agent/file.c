/* Files in the guest, by the agent's guest-file commands.  Bytes travel as base64. */
#include <string.h>

#include "src/agent/agent_private.h"

bool agent_open(Agent *a, const char *path, const char *mode, int64_t *ret,
                GError **error)
{
    json_t *arguments = json_pack("{s:s, s:s}", "path", path, "mode", mode);
    json_t *handle;
    bool ok;

    if (!arguments)
        return fail(error, VM_ERROR_INVALID,
                    "VM '%s': a file's name is not UTF-8, and its guest agent takes "
                    "nothing else",
                    a->link.vm);
    handle = agent_call(a, "guest-file-open", arguments, error);
    if (!handle)
        return false;
    ok = json_is_integer(handle);
    *ret = json_integer_value(handle);
    json_decref(handle);
    return ok || agent_fail(a, error, "gives no sensible file handle");
}

static json_t *with_handle(int64_t handle)
{
    return json_pack("{s:I}", "handle", (json_int_t)handle);
}

bool agent_close(Agent *a, int64_t handle, GError **error)
{
    return agent_tell(a, "guest-file-close", with_handle(handle), error);
}

bool agent_read(Agent *a, int64_t handle, void *buf, size_t size, size_t *ret_len,
                bool *ret_end, GError **error)
{
    json_t *arguments = with_handle(handle), *piece;
    g_autofree guchar *bytes = NULL;
    int64_t count;
    bool ok;

    size = MIN(size, AGENT_PIECE);
    json_object_set_new(arguments, "count", json_integer((json_int_t)size));
    piece = agent_call(a, "guest-file-read", arguments, error);
    if (!piece)
        return false;
    ok = agent_get_int(a, piece, "count", 0, (int64_t)size, &count, error) &&
         agent_get_bool(a, piece, "eof", ret_end, error) &&
         (bytes = agent_get_bytes(a, piece, "buf-b64", size, ret_len, error));
    json_decref(piece);
    if (!ok)
        return false;
    if ((size_t)count != *ret_len)
        return agent_fail(a, error, "says %d bytes and gives %zu", (int)count, *ret_len);
    memcpy(buf, bytes, *ret_len);
    return true;
}

static bool write_piece(Agent *a, int64_t handle, const guchar *buf, size_t len,
                        size_t *ret_len, GError **error)
{
    g_autofree char *text = g_base64_encode(buf, len);
    json_t *arguments = with_handle(handle), *done;
    int64_t count;
    bool ok;

    json_object_set_new(arguments, "buf-b64", json_string_nocheck(text));
    done = agent_call(a, "guest-file-write", arguments, error);
    ok = done && agent_get_int(a, done, "count", 1, (int64_t)len, &count, error);
    json_decref(done);
    *ret_len = ok ? (size_t)count : 0;
    return ok;
}

bool agent_write(Agent *a, int64_t handle, const void *buf, size_t len, GError **error)
{
    while (len) {
        size_t done;

        if (!write_piece(a, handle, buf, MIN(len, AGENT_PIECE), &done, error))
            return false;
        buf = (const char *)buf + done;
        len -= done;
    }
    return true;
}
