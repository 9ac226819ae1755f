/* Where one JSON value ends in a stream of bytes (RFC 8259), without parsing it twice:
 * brackets are counted and strings are seen, the rest is the parser's to judge. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "util/bits.h"
#include "util/error.h"

enum { FRAME_MAX_NESTING = 128 };

typedef struct Frame {
    GString *text;   /* of the value so far */
    size_t max_size; /* bytes of one value */
    unsigned depth;  /* of open brackets */
    bool in_string, escaped;
    bool in_word;  /* a number, true, false or null that stands alone */
    bool skipping; /* refused already; its end is still looked for */
} Frame;

typedef enum { FRAME_MORE, FRAME_VALUE, FRAME_BAD } FrameResult;

void frame_init(Frame *f, size_t max_size);
void frame_finish(Frame *f);

/* Takes bytes up to the end of one value and says in *used how many.  VALUE: f->text is
 * the value until the next call.  BAD: what there was of a value is dropped, for the
 * reason in `error`; the next call goes on behind it.  MORE: all bytes are used. */
FrameResult frame_take(Frame *f, const char *bytes, size_t len, size_t *used,
                       GError **error);
