/* The proof, for tests, that a table leaves nothing of its struct out and keeps the rules
 * that the rest of this layer relies on. */
#include <string.h>

#include "state_private.h"

enum { MAX_DEPTH = 8 };

static bool tiles(const StateTable *t, unsigned depth, GError **error);

static bool bad(const StateTable *t, const StateField *f, GError **error,
                const char *what)
{
    return fail(error, VM_ERROR_INVALID, "table '%s', field '%s': %s", t->name, f->name,
                what);
}

static size_t size_of(StateType type)
{
    switch (type) {
    case STATE_U8:
    case STATE_BOOL:
        return 1;
    case STATE_U16:
        return 2;
    case STATE_U32:
        return 4;
    case STATE_U64:
    case STATE_I64:
        return 8;
    case STATE_BLOB:
        return sizeof(StateBlob);
    case STATE_BYTES:
    case STATE_TEXT:
    case STATE_STRUCT:
    case STATE_PAD:
        break;
    }
    return 0; /* any */
}

static bool check_type(const StateTable *t, const StateField *f, unsigned depth,
                       GError **error)
{
    size_t size = size_of(f->type);

    if (size && f->size != size)
        return bad(t, f, error, "its member has not the size of its type");
    if (!f->size)
        return bad(t, f, error, "its member has no size");
    if (f->type <= STATE_U64 && size < 8 && f->max >> 8 * size)
        return bad(t, f, error, "`max` is more than its type can hold");
    if (f->max && f->min > f->max)
        return bad(t, f, error, "`min` is more than `max`");
    if (f->type == STATE_BLOB && (!f->max || f->max > STATE_MAX_SECTION))
        return bad(t, f, error, "a blob needs a `max` that a section can hold");
    if ((f->type == STATE_STRUCT) != (f->of != NULL))
        return bad(t, f, error, "`of` is for structs, and they need it");
    if (f->of && f->of->size != f->size)
        return bad(t, f, error, "its member has not the size that `of` says");
    return !f->of || tiles(f->of, depth + 1, error);
}

static bool check_identity(const StateTable *t, const StateField *f, GError **error)
{
    if (!f->tag || f->tag == UINT16_MAX)
        return bad(t, f, error, "it has no tag");
    if (f->since > t->version)
        return bad(t, f, error, "`since` is later than the table's version");
    for (const StateField *other = t->fields; other != f; other++) {
        if (other->type != STATE_PAD && other->tag == f->tag)
            return bad(t, f, error, "its tag is another field's too");
        if (other->type != STATE_PAD && strcmp(other->name, f->name) == 0)
            return bad(t, f, error, "there are two of that name");
    }
    return true;
}

static bool cover(const StateTable *t, const StateField *f, uint8_t *covered,
                  size_t start, size_t len, GError **error)
{
    if (start > t->size || len > t->size - start)
        return bad(t, f, error, "it is not inside the struct");
    for (size_t i = start; i < start + len; i++)
        if (covered[i]++)
            return fail(error, VM_ERROR_INVALID,
                        "table '%s', field '%s': byte %zu of the struct is another's too",
                        t->name, f->name, i);
    return true;
}

/* The number of used elements belongs to the first array that has it. */
static bool owns_used(const StateTable *t, const StateField *f)
{
    for (const StateField *other = t->fields; other != f; other++)
        if (other->used == f->used)
            return false;
    return f->used;
}

static bool cover_field(const StateTable *t, const StateField *f, uint8_t *covered,
                        GError **error)
{
    if (!cover(t, f, covered, f->offset, f->size * MAX(f->count, 1), error))
        return false;
    return !owns_used(t, f) || cover(t, f, covered, f->used - 1, sizeof(uint32_t), error);
}

/* The member before a byte that nobody has, for the sentence. */
static const char *member_before(const StateTable *t, size_t at)
{
    const StateField *best = NULL;

    for (const StateField *f = t->fields; f->name; f++)
        if (f->offset < at && (!best || f->offset > best->offset))
            best = f;
    return best ? best->name : "the beginning";
}

static bool tiles(const StateTable *t, unsigned depth, GError **error)
{
    g_autofree uint8_t *covered = g_malloc0(t->size);
    unsigned n = 0;

    if (depth > MAX_DEPTH)
        return fail(error, VM_ERROR_INVALID, "table '%s': it is in itself", t->name);
    if (!t->version || !t->name[0] || strlen(t->name) > STATE_MAX_NAME)
        return fail(error, VM_ERROR_INVALID, "table '%s': no version, or no name",
                    t->name);
    for (const StateField *f = t->fields; f->name; f++, n++) {
        if (f->type != STATE_PAD &&
            (!check_identity(t, f, error) || !check_type(t, f, depth, error)))
            return false;
        if (!cover_field(t, f, covered, error))
            return false;
    }
    if (n > STATE_MAX_FIELDS)
        return fail(error, VM_ERROR_INVALID, "table '%s': it has more than %d fields",
                    t->name, STATE_MAX_FIELDS);
    for (size_t i = 0; i < t->size; i++)
        if (!covered[i])
            return fail(
                error, VM_ERROR_INVALID,
                "table '%s': byte %zu of the struct belongs to no field; it comes "
                "after '%s'",
                t->name, i, member_before(t, i));
    return true;
}

bool state_tiles(const StateTable *t, GError **error)
{
    return tiles(t, 0, error);
}
