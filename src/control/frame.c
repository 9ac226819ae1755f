/* See src/control/frame.h.
 *
 * Getting back in step after an error is the heart of it.  A byte that cannot be in a
 * value there ends the value: the error is told, and what comes next begins a new one.
 * So a client may send 0xFF, which no JSON text has, to be sure of that (QMP,
 * "Errors").  A value that is too long or too deep is refused at once, but its bytes are
 * still followed to its end, so that its tail is not taken for another value. */
#include "src/control/frame.h"

#include <string.h>

enum { KEPT_SIZE = 16 * 1024 }; /* of the buffer, between values */

void frame_init(Frame *f, size_t max_size)
{
    *f = (Frame){.text = g_string_new(NULL), .max_size = max_size};
}

void frame_finish(Frame *f)
{
    if (f->text)
        g_string_free(f->text, TRUE);
    f->text = NULL;
}

static void begin(Frame *f)
{
    if (f->text->allocated_len > KEPT_SIZE) {
        g_string_free(f->text, TRUE);
        f->text = g_string_new(NULL);
    }
    g_string_truncate(f->text, 0);
    f->depth = 0;
    f->in_string = f->escaped = f->in_word = f->skipping = false;
}

static bool is_space(unsigned char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_word(unsigned char c)
{
    return g_ascii_isalnum(c) || c == '-' || c == '+' || c == '.';
}

static FrameResult stray(unsigned char c, GError **error)
{
    fail(error, VM_ERROR_INVALID, "JSON: a byte 0x%02x has no place there", c);
    return FRAME_BAD;
}

static FrameResult in_string(Frame *f, unsigned char c, GError **error)
{
    if (c < 0x20 || c >= 0xfe)
        return stray(c, error);
    if (f->escaped)
        f->escaped = false;
    else if (c == '\\')
        f->escaped = true;
    else if (c == '"')
        f->in_string = false;
    return f->in_string || f->depth ? FRAME_MORE : FRAME_VALUE;
}

static FrameResult in_brackets(Frame *f, unsigned char c, GError **error)
{
    if (c == '"')
        f->in_string = true;
    else if (c == '{' || c == '[')
        f->depth++;
    else if (c == '}' || c == ']')
        return --f->depth ? FRAME_MORE : FRAME_VALUE;
    else if (!is_space(c) && !is_word(c) && c != ',' && c != ':')
        return stray(c, error);
    return FRAME_MORE;
}

static FrameResult at_start(Frame *f, unsigned char c, GError **error)
{
    if (is_word(c))
        f->in_word = true;
    else if (c == '"' || c == '{' || c == '[')
        return in_brackets(f, c, error);
    else
        return stray(c, error);
    return FRAME_MORE;
}

static FrameResult step(Frame *f, unsigned char c, GError **error)
{
    if (f->in_string)
        return in_string(f, c, error);
    if (f->depth)
        return in_brackets(f, c, error);
    return at_start(f, c, error);
}

/* What is too much is refused once, then only followed. */
static FrameResult keep(Frame *f, unsigned char c, GError **error)
{
    g_string_append_c(f->text, (char)c);
    if (f->depth > FRAME_MAX_NESTING)
        fail(error, VM_ERROR_INVALID, "JSON: nested deeper than %d", FRAME_MAX_NESTING);
    else if (f->text->len > f->max_size)
        fail(error, VM_ERROR_INVALID, "JSON: a value longer than %zu bytes", f->max_size);
    else
        return FRAME_MORE;
    f->skipping = true;
    g_string_truncate(f->text, 0);
    return FRAME_BAD;
}

/* One byte that is not the end of a word. */
static FrameResult take_byte(Frame *f, unsigned char c, GError **error)
{
    FrameResult result = FRAME_MORE;

    if (!f->in_string && !f->depth && !f->in_word) {
        if (is_space(c))
            return FRAME_MORE;
        begin(f); /* the value that was there has been read */
    }
    if (!f->in_word)
        result = step(f, c, f->skipping ? NULL : error);
    if (result == FRAME_BAD) {
        bool told = f->skipping;

        begin(f);
        return told ? FRAME_MORE : FRAME_BAD;
    }
    if (!f->skipping && keep(f, c, error) == FRAME_BAD)
        return FRAME_BAD;
    return result;
}

FrameResult frame_take(Frame *f, const char *bytes, size_t len, size_t *used,
                       GError **error)
{
    FrameResult result = FRAME_MORE;
    size_t at = 0;

    while (result == FRAME_MORE && at < len) {
        if (f->in_word && !is_word((unsigned char)bytes[at])) {
            f->in_word = false;
            result = FRAME_VALUE;
        } else {
            result = take_byte(f, (unsigned char)bytes[at++], error);
        }
        if (result == FRAME_VALUE && f->skipping) {
            f->skipping = false;
            result = FRAME_MORE;
        }
    }
    *used = at;
    return result;
}
