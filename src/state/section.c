/* The fields of one section, to bytes and back, by their table:
 *
 *     { u16 tag  u32 len  value[len] } ...
 *
 * The value of integers, bools, bytes and texts is their elements one after the other; of
 * a blob, its bytes; of structs
 *
 *     u16 version of their table, { u32 len  fields[len] } for each element
 *
 * Tags may come in any order, each once. */
#include <inttypes.h>
#include <string.h>

#include "state_private.h"
#include "util/bits.h"

enum { FIELD_HEADER = 6, LEN_SIZE = 4, VERSION_SIZE = 2 };

/* ---- sentences ------------------------------------------------------------------------
 */

static void append_path(const Where *at, GString *path)
{
    if (at->up && at->up->up) {
        append_path(at->up, path);
        g_string_append_c(path, '.');
    }
    g_string_append(path, at->name);
    if (at->index >= 0)
        g_string_append_printf(path, "[%" PRId64 "]", at->index);
}

static char *describe_place(const Where *at)
{
    const Where *section = at;
    g_autoptr(GString) path = g_string_new(NULL);

    while (section->up)
        section = section->up;
    if (section == at)
        return g_strdup_printf("state, section '%s'", section->name);
    append_path(at, path);
    return g_strdup_printf("state, section '%s', field '%s'", section->name, path->str);
}

bool fail_at(const Where *at, GError **error, VmErrorCode code, const char *fmt, ...)
{
    g_autofree char *place = describe_place(at), *text = NULL;
    va_list args;

    va_start(args, fmt);
    text = g_strdup_vprintf(fmt, args);
    va_end(args);
    return fail(error, code, "%s: %s", place, text);
}

static bool prefix_at(const Where *at, GError **error)
{
    g_autofree char *place = describe_place(at);

    g_prefix_error(error, "%s: ", place);
    return false;
}

/* ---- values ---------------------------------------------------------------------------
 */

static uint32_t capacity(const StateField *f)
{
    return MAX(f->count, 1);
}

uint32_t state_used(const StateField *f, const void *s)
{
    return f->used ? load_le32((const uint8_t *)s + f->used - 1) : capacity(f);
}

static bool check_integer(const StateField *f, uint64_t value, const Where *at,
                          GError **error)
{
    uint64_t max = f->max ? f->max : f->type == STATE_BOOL ? 1 : ones(f->size);

    if (value > max)
        return fail_at(at, error, VM_ERROR_CORRUPT, "%" PRIu64 " is more than %" PRIu64,
                       value, max);
    if (value < f->min)
        return fail_at(at, error, VM_ERROR_CORRUPT, "%" PRIu64 " is less than %" PRIu64,
                       value, f->min);
    return true;
}

static bool check_text(const StateField *f, const char *text, const Where *at,
                       GError **error)
{
    size_t len = strnlen(text, f->size);

    if (len == f->size || !g_utf8_validate(text, len, NULL))
        return fail_at(at, error, VM_ERROR_CORRUPT, "it is no text");
    for (size_t i = 0; i < len; i++)
        if (g_ascii_iscntrl(text[i]))
            return fail_at(at, error, VM_ERROR_CORRUPT,
                           "there are control characters in it");
    for (size_t i = len; i < f->size; i++)
        if (text[i])
            return fail_at(at, error, VM_ERROR_CORRUPT, "something follows its end");
    return true;
}

static bool check_blob(const StateField *f, const StateBlob *blob, const Where *at,
                       GError **error)
{
    if (blob->size > f->max || blob->size < f->min)
        return fail_at(at, error, VM_ERROR_CORRUPT,
                       "it has %u bytes, and may have %" PRIu64 " to %" PRIu64,
                       blob->size, f->min, f->max);
    return true;
}

static bool check_element(const StateField *f, const void *p, const Where *at,
                          GError **error)
{
    switch (f->type) {
    case STATE_U8:
    case STATE_U16:
    case STATE_U32:
    case STATE_U64:
    case STATE_BOOL:
        return check_integer(f, load_le(p, f->size), at, error);
    case STATE_TEXT:
        return check_text(f, p, at, error);
    case STATE_BLOB:
        return check_blob(f, p, at, error);
    case STATE_STRUCT:
        return state_check(f->of, p, at, error);
    case STATE_I64:
    case STATE_BYTES:
    case STATE_PAD:
        break;
    }
    return true;
}

bool state_check(const StateTable *t, const void *s, const Where *at, GError **error)
{
    for (const StateField *f = t->fields; f->name; f++) {
        uint32_t used = f->type == STATE_PAD ? 0 : state_used(f, s);
        Where field = {at, f->name, -1};

        if (used > capacity(f))
            return fail_at(&field, error, VM_ERROR_CORRUPT,
                           "%u elements are more than %u", used, capacity(f));
        for (uint32_t i = 0; i < used; i++) {
            field.index = f->count > 1 || f->used ? (int64_t)i : -1;
            if (!check_element(f, (const uint8_t *)s + f->offset + i * f->size, &field,
                               error))
                return false;
        }
    }
    return !t->check || t->check(s, error) || prefix_at(at, error);
}

void state_clear(const StateTable *t, void *s)
{
    for (const StateField *f = t->fields; f->name; f++)
        for (uint32_t i = 0; i < capacity(f); i++) {
            void *p = (uint8_t *)s + f->offset + i * f->size;

            if (f->type == STATE_BLOB)
                g_free(((StateBlob *)p)->data);
            else if (f->type == STATE_STRUCT)
                state_clear(f->of, p);
        }
    memset(s, 0, t->size);
}

/* ---- to bytes -------------------------------------------------------------------------
 */

static void append(GByteArray *out, const void *p, size_t len)
{
    g_byte_array_append(out, p, len);
}

/* Space for a length, which is filled in when what it counts is there. */
static size_t begin_len(GByteArray *out)
{
    static const uint8_t none[LEN_SIZE];

    append(out, none, sizeof(none));
    return out->len;
}

static void end_len(GByteArray *out, size_t begin)
{
    store_le32(out->data + begin - LEN_SIZE, out->len - begin);
}

static void encode_structs(const StateField *f, const void *first, uint32_t n,
                           GByteArray *out)
{
    append(out, &f->of->version, VERSION_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        size_t begin = begin_len(out);

        state_encode(f->of, (const uint8_t *)first + i * f->size, out);
        end_len(out, begin);
    }
}

void state_encode(const StateTable *t, const void *s, GByteArray *out)
{
    for (const StateField *f = t->fields; f->name; f++) {
        const void *p = (const uint8_t *)s + f->offset;
        size_t begin;

        if (f->type == STATE_PAD)
            continue;
        append(out, &f->tag, sizeof(f->tag));
        begin = begin_len(out);
        if (f->type == STATE_STRUCT)
            encode_structs(f, p, state_used(f, s), out);
        else if (f->type == STATE_BLOB)
            append(out, ((const StateBlob *)p)->data, ((const StateBlob *)p)->size);
        else
            append(out, p, f->size * state_used(f, s));
        end_len(out, begin);
    }
}

/* ---- from bytes: hostile ones ---------------------------------------------------------
 */

/* Stores the number of elements that were found, or compares it with what another array
 * of the same length had. */
static bool set_used(const StateTable *t, const StateField *f, uint64_t n, void *s,
                     const uint64_t *seen, const Where *at, GError **error)
{
    uint8_t *used = (uint8_t *)s + f->used - 1;

    if (!f->used ? n != capacity(f) : n > capacity(f))
        return fail_at(at, error, VM_ERROR_CORRUPT,
                       "it has %" PRIu64 " elements, and %s %u", n,
                       f->used ? "may have at most" : "must have", capacity(f));
    if (!f->used)
        return true;
    for (unsigned i = 0; t->fields[i].name; i++) {
        bool other = &t->fields[i] != f && t->fields[i].used == f->used;

        if (other && (seen[i / 64] & BIT64(i % 64)) && load_le32(used) != n)
            return fail_at(at, error, VM_ERROR_CORRUPT,
                           "it has %" PRIu64 " elements, and '%s' has %u", n,
                           t->fields[i].name, load_le32(used));
    }
    store_le32(used, n);
    return true;
}

/* How many structs there are, or UINT64_MAX if their lengths do not fit.  Each takes
 * bytes of the file, so counting them is no more work than reading it. */
static uint64_t count_structs(const uint8_t *bytes, size_t size)
{
    uint64_t n = 0;

    for (size_t at = VERSION_SIZE; at < size; n++) {
        if (size - at < LEN_SIZE || size - at - LEN_SIZE < load_le32(bytes + at))
            return UINT64_MAX;
        at += LEN_SIZE + load_le32(bytes + at);
    }
    return size < VERSION_SIZE ? UINT64_MAX : n;
}

/* As many as count_structs() found. */
static bool decode_structs(const StateField *f, const uint8_t *bytes, uint8_t *ret,
                           uint64_t n, Where *at, GError **error)
{
    uint16_t version = load_le16(bytes);

    bytes += VERSION_SIZE;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t len = load_le32(bytes);

        at->index = f->count > 1 || f->used ? (int64_t)i : -1;
        if (!state_decode(f->of, version, bytes + LEN_SIZE, len, ret + i * f->size, at,
                          error))
            return false;
        bytes += LEN_SIZE + len;
    }
    return true;
}

static bool decode_blob(const StateField *f, const uint8_t *bytes, size_t size,
                        StateBlob *ret, const Where *at, GError **error)
{
    StateBlob found = {.size = size};

    if (!check_blob(f, &found, at, error))
        return false;
    if (size) {
        ret->data = g_malloc(size);
        memcpy(ret->data, bytes, size);
    }
    ret->size = size;
    return true;
}

static bool decode_field(const StateTable *t, const StateField *f, const uint8_t *bytes,
                         size_t size, void *s, const uint64_t *seen, Where *at,
                         GError **error)
{
    uint8_t *ret = (uint8_t *)s + f->offset;
    uint64_t n = f->type == STATE_STRUCT ? count_structs(bytes, size) : size / f->size;

    if (f->type == STATE_BLOB)
        return decode_blob(f, bytes, size, (StateBlob *)ret, at, error);
    if (n == UINT64_MAX || (f->type != STATE_STRUCT && size % f->size))
        return fail_at(at, error, VM_ERROR_CORRUPT, "it cannot have %zu bytes", size);
    if (!set_used(t, f, n, s, seen, at, error))
        return false;
    if (f->type == STATE_STRUCT)
        return decode_structs(f, bytes, ret, n, at, error);
    memcpy(ret, bytes, size);
    return true;
}

/* The index of a tag's field in the table; -1: there is none. */
static int find_tag(const StateTable *t, uint16_t tag)
{
    for (unsigned i = 0; t->fields[i].name; i++)
        if (t->fields[i].type != STATE_PAD && t->fields[i].tag == tag)
            return i;
    return -1;
}

static bool unknown_tag(const StateTable *t, uint16_t version, uint16_t tag,
                        const Where *at, GError **error)
{
    if (version > t->version)
        return fail_at(at, error, VM_ERROR_UNSUPPORTED,
                       "the field with tag %u is not known here: it was made by a newer "
                       "hutch ('%s' version %u, and this one knows %u); restore it there",
                       tag, t->name, version, t->version);
    return fail_at(at, error, VM_ERROR_CORRUPT, "there is no field with tag %u in a '%s'",
                   tag, t->name);
}

static bool check_missing(const StateTable *t, uint16_t version, const uint64_t *seen,
                          const Where *at, GError **error)
{
    for (unsigned i = 0; t->fields[i].name; i++) {
        const StateField *f = &t->fields[i];
        bool there = f->type == STATE_PAD || (seen[i / 64] & BIT64(i % 64));
        Where field = {at, f->name, -1};

        if (!there && f->since <= version)
            return fail_at(&field, error, VM_ERROR_CORRUPT, "it is missing");
    }
    return true;
}

bool state_decode(const StateTable *t, uint16_t version, const uint8_t *bytes,
                  size_t size, void *ret, const Where *at, GError **error)
{
    uint64_t seen[STATE_MAX_FIELDS / 64] = {0};

    if (!version)
        return fail_at(at, error, VM_ERROR_CORRUPT, "it has no version");
    for (size_t done = 0, len; done < size; done += FIELD_HEADER + len) {
        const uint8_t *p = bytes + done;
        int i;

        if (size - done < FIELD_HEADER)
            return fail_at(at, error, VM_ERROR_CORRUPT, "its last field is cut short");
        len = load_le32(p + sizeof(uint16_t));
        i = find_tag(t, load_le16(p));
        if (i < 0)
            return unknown_tag(t, version, load_le16(p), at, error);

        Where field = {at, t->fields[i].name, -1};
        if (len > size - done - FIELD_HEADER)
            return fail_at(&field, error, VM_ERROR_CORRUPT, "it is cut short");
        if (seen[i / 64] & BIT64(i % 64))
            return fail_at(&field, error, VM_ERROR_CORRUPT, "it is there twice");
        if (!decode_field(t, &t->fields[i], p + FIELD_HEADER, len, ret, seen, &field,
                          error))
            return false;
        seen[i / 64] |= BIT64(i % 64);
    }
    return check_missing(t, version, seen, at, error);
}
