/* A state in words, for `hutch snapshot inspect` and `diff`: JSON from the same tables
 * that load it. */
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#include "state_private.h"
#include "util/bits.h"

enum { BLOB_IN_FULL = 4096 };

static json_t *describe_struct(const StateTable *t, const void *s);

static json_t *describe_integer(uint64_t value)
{
    char text[sizeof("0xffffffffffffffff")];

    if (value <= INT64_MAX)
        return json_integer(value);
    g_snprintf(text, sizeof(text), "0x%" PRIx64, value);
    return json_string(text);
}

static json_t *describe_bytes(const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    g_autofree char *text = g_malloc(2 * size + 1);

    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    return json_stringn_nocheck(text, 2 * size);
}

static json_t *describe_blob(const StateBlob *blob)
{
    char sum[sizeof("0xffffffff")];

    if (blob->size <= BLOB_IN_FULL)
        return describe_bytes(blob->data, blob->size);
    g_snprintf(sum, sizeof(sum), "0x%08lx", crc32_z(0, blob->data, blob->size));
    return json_pack("{s:I,s:s}", "size", (json_int_t)blob->size, "crc32", sum);
}

static json_t *describe_element(const StateField *f, const void *p)
{
    switch (f->type) {
    case STATE_U8:
    case STATE_U16:
    case STATE_U32:
    case STATE_U64:
        return describe_integer(load_le(p, f->size));
    case STATE_I64:
        return json_integer((json_int_t)load_le64(p));
    case STATE_BOOL:
        return json_boolean(load_le(p, f->size));
    case STATE_BYTES:
        return describe_bytes(p, f->size);
    case STATE_TEXT:
        return json_string(p);
    case STATE_BLOB:
        return describe_blob(p);
    case STATE_STRUCT:
        return describe_struct(f->of, p);
    case STATE_PAD:
        break;
    }
    return NULL;
}

static json_t *describe_field(const StateField *f, const void *s)
{
    const uint8_t *first = (const uint8_t *)s + f->offset;
    uint32_t n = state_used(f, s);
    json_t *list;

    if (f->count <= 1 && !f->used)
        return describe_element(f, first);
    if (f->type == STATE_U8) /* an array of registers or of a FIFO's bytes */
        return describe_bytes(first, n);
    list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, describe_element(f, first + i * f->size));
    return list;
}

static json_t *describe_struct(const StateTable *t, const void *s)
{
    json_t *fields = json_object();

    for (const StateField *f = t->fields; f->name; f++)
        if (f->type != STATE_PAD)
            json_object_set_new(fields, f->name, describe_field(f, s));
    return fields;
}

static json_t *describe_section(const Section *section, const StateTable *t)
{
    json_t *ret = json_pack("{s:s,s:i}", "kind", section->kind, "version",
                            (int)section->version);
    g_autofree void *s = t ? g_malloc(t->size) : NULL;
    g_autoptr(GError) error = NULL;

    if (t && state_fill(section, t, s, &error)) {
        json_object_set_new(ret, "fields", describe_struct(t, s));
        state_clear(t, s);
        return ret;
    }
    json_object_set_new(ret, "size", json_integer(section->size));
    if (error)
        json_object_set_new(ret, "error", json_string(error->message));
    return ret;
}

const StateTable *state_find_table(const StateTable *const *tables, const char *kind)
{
    for (; *tables; tables++)
        if (strcmp((*tables)->name, kind) == 0)
            return *tables;
    return NULL;
}

json_t *state_describe(const StateReader *r, const StateTable *const *tables)
{
    json_t *ret = json_object();

    for (unsigned i = 0; i < r->sections->len; i++) {
        const Section *section = &g_array_index(r->sections, Section, i);
        const StateTable *t = state_find_table(tables, section->kind);

        json_object_set_new(ret, section->name, describe_section(section, t));
    }
    return ret;
}
