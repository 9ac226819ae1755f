/* The file around the sections.  All integers are little-endian and nothing is padded:
 *
 *     magic[8]  u32 format
 *     { u32 'SECT'  u32 crc  u32 size  u16 version  u8 name_len  u8 kind_len
 *       name  kind  fields[size] } ...
 *     u32 'LAST'  u32 number of sections
 *
 * The sum is CRC-32 as in zlib and Ethernet, over all of the section that follows it.  So
 * every byte of a file is either compared or summed, and one that was cut short has no
 * end. */
#include <string.h>
#include <zlib.h>

#include "state_private.h"
#include "util/bits.h"

static const uint8_t magic[8] = {0x89, 'H', 'V', 'S', '\r', '\n', 0x1a, '\n'};

enum {
    HEADER_SIZE = sizeof(magic) + 4,
    SECTION_HEADER = 16,
    SUM_AT = 4, /* offsets in a section's header */
    SIZE_AT = 8,
    VERSION_AT = 12,
    NAME_LEN_AT = 14,
    KIND_LEN_AT = 15,
    SUMMED_FROM = SIZE_AT,
    END_SIZE = 8,
};
#define MARK_SECTION 0x54434553u /* "SECT" */
#define MARK_LAST    0x5453414cu /* "LAST" */

/* Names are printed in sentences and compared as text. */
static bool is_name(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!g_ascii_isgraph(name[i]) || name[i] == '\'' || name[i] == '"')
            return false;
    return len >= 1 && len <= STATE_MAX_NAME;
}

/* ---- writing ------------------------------------------------------------------------
 */

struct StateWriter {
    GByteArray *out;
    GHashTable *names; /* owned texts */
    GError *error;     /* the first */
};

static void append_u32(GByteArray *out, uint32_t value)
{
    g_byte_array_append(out, (const uint8_t *)&value, sizeof(value));
}

StateWriter *state_writer_new(void)
{
    StateWriter *w = g_new0(StateWriter, 1);

    w->out = g_byte_array_sized_new(64 * KIB);
    w->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_byte_array_append(w->out, magic, sizeof(magic));
    append_u32(w->out, STATE_FORMAT);
    return w;
}

void state_writer_free(StateWriter *w)
{
    if (!w)
        return;
    if (w->out)
        g_byte_array_free(w->out, true);
    g_hash_table_destroy(w->names);
    g_clear_error(&w->error);
    g_free(w);
}

static bool name_section(StateWriter *w, const char *section, const StateTable *t,
                         GError **error)
{
    if (!is_name(section, strlen(section)) || !is_name(t->name, strlen(t->name)))
        return fail(error, VM_ERROR_INVALID,
                    "state, section '%s' of kind '%s': names have 1 to %d printable "
                    "characters",
                    section, t->name, STATE_MAX_NAME);
    if (!g_hash_table_add(w->names, g_strdup(section)))
        return fail(error, VM_ERROR_INVALID, "state, section '%s': there are two",
                    section);
    if (g_hash_table_size(w->names) > STATE_MAX_SECTIONS)
        return fail(error, VM_ERROR_INVALID,
                    "state, section '%s': there are more than %d sections", section,
                    STATE_MAX_SECTIONS);
    return true;
}

static bool append_section(StateWriter *w, const char *section, const StateTable *t,
                           const void *s, GError **error)
{
    Where at = {.name = section, .index = -1};
    uint8_t header[SECTION_HEADER] = {0};
    size_t start = w->out->len, fields;

    if (!name_section(w, section, t, error) || !state_check(t, s, &at, error))
        return false;

    g_byte_array_append(w->out, header, sizeof(header));
    g_byte_array_append(w->out, (const uint8_t *)section, strlen(section));
    g_byte_array_append(w->out, (const uint8_t *)t->name, strlen(t->name));
    fields = w->out->len;
    state_encode(t, s, w->out);
    if (w->out->len - fields > STATE_MAX_SECTION ||
        w->out->len > STATE_MAX_FILE - END_SIZE)
        return fail_at(&at, error, VM_ERROR_UNSUPPORTED,
                       "%zu bytes are more than a section or the file may have",
                       w->out->len - fields);

    uint8_t *p = w->out->data + start;
    store_le32(p, MARK_SECTION);
    store_le32(p + SIZE_AT, w->out->len - fields);
    store_le16(p + VERSION_AT, t->version);
    p[NAME_LEN_AT] = strlen(section);
    p[KIND_LEN_AT] = strlen(t->name);
    store_le32(p + SUM_AT,
               crc32_z(0, p + SUMMED_FROM, w->out->len - start - SUMMED_FROM));
    return true;
}

void state_put(StateWriter *w, const char *section, const StateTable *t, const void *s)
{
    if (!w->error)
        append_section(w, section, t, s, &w->error);
}

GBytes *state_writer_end(StateWriter *w, GError **error)
{
    GBytes *bytes = NULL;

    if (w->error) {
        g_propagate_error(error, g_steal_pointer(&w->error));
    } else {
        append_u32(w->out, MARK_LAST);
        append_u32(w->out, g_hash_table_size(w->names));
        bytes = g_byte_array_free_to_bytes(g_steal_pointer(&w->out));
    }
    state_writer_free(w);
    return bytes;
}

/* ---- reading: framing -----------------------------------------------------------------
 */

static bool read_header(const uint8_t *p, size_t size, GError **error)
{
    if (size > STATE_MAX_FILE)
        return fail(error, VM_ERROR_CORRUPT,
                    "state: %zu bytes are more than the %d that a state may have", size,
                    STATE_MAX_FILE);
    if (size < HEADER_SIZE || memcmp(p, magic, sizeof(magic)) != 0)
        return fail(error, VM_ERROR_CORRUPT, "state: this is no state file of hutch");
    if (load_le32(p + sizeof(magic)) != STATE_FORMAT)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "state: its format is %u and this hutch knows %d; use the hutch that "
                    "made it, or a newer one",
                    load_le32(p + sizeof(magic)), STATE_FORMAT);
    return true;
}

static bool cut_short(size_t at, GError **error)
{
    return fail(error, VM_ERROR_CORRUPT,
                "state: the file is cut short in what begins at byte %zu; copy it again",
                at);
}

/* Reads the section at *at, which is then behind it. */
static bool read_section(const uint8_t *base, size_t size, size_t *at, Section *ret,
                         GError **error)
{
    const uint8_t *p = base + *at;
    size_t left = size - *at, name_len, kind_len, whole;

    if (left < SECTION_HEADER)
        return cut_short(*at, error);
    name_len = p[NAME_LEN_AT];
    kind_len = p[KIND_LEN_AT];
    *ret = (Section){.version = load_le16(p + VERSION_AT),
                     .size = load_le32(p + SIZE_AT)};
    if (ret->size > STATE_MAX_SECTION || name_len > STATE_MAX_NAME ||
        kind_len > STATE_MAX_NAME)
        return fail(error, VM_ERROR_CORRUPT,
                    "state: the section at byte %zu is damaged: its sizes are beyond "
                    "their limits",
                    *at);
    whole = SECTION_HEADER + name_len + kind_len + ret->size;
    if (left < whole)
        return cut_short(*at, error);
    if (crc32_z(0, p + SUMMED_FROM, whole - SUMMED_FROM) != load_le32(p + SUM_AT))
        return fail(error, VM_ERROR_CORRUPT,
                    "state: the section at byte %zu is damaged: its CRC-32 is wrong",
                    *at);
    if (!is_name((const char *)p + SECTION_HEADER, name_len) ||
        !is_name((const char *)p + SECTION_HEADER + name_len, kind_len))
        return fail(error, VM_ERROR_CORRUPT,
                    "state: the section at byte %zu has a name that is none", *at);
    memcpy(ret->name, p + SECTION_HEADER, name_len);
    memcpy(ret->kind, p + SECTION_HEADER + name_len, kind_len);
    ret->bytes = p + whole - ret->size;
    *at += whole;
    return true;
}

static bool read_end(const uint8_t *p, size_t left, const GArray *sections,
                     GError **error)
{
    if (load_le32(p + 4) != sections->len)
        return fail(error, VM_ERROR_CORRUPT,
                    "state: it says that it has %u sections, and has %u",
                    load_le32(p + 4), sections->len);
    if (left != END_SIZE)
        return fail(error, VM_ERROR_CORRUPT, "state: %zu bytes follow its end",
                    left - END_SIZE);
    return true;
}

static bool read_all(StateReader *r, GError **error)
{
    size_t size, at = HEADER_SIZE;
    const uint8_t *p = g_bytes_get_data(r->bytes, &size);

    if (!read_header(p, size, error))
        return false;
    for (;;) {
        Section section;

        if (size - at < END_SIZE)
            return cut_short(at, error);
        if (load_le32(p + at) == MARK_LAST)
            return read_end(p + at, size - at, r->sections, error);
        if (load_le32(p + at) != MARK_SECTION)
            return fail(error, VM_ERROR_CORRUPT,
                        "state: it is damaged at byte %zu, where a section should begin",
                        at);
        if (r->sections->len == STATE_MAX_SECTIONS)
            return fail(error, VM_ERROR_CORRUPT, "state: it has more than %d sections",
                        STATE_MAX_SECTIONS);
        if (!read_section(p, size, &at, &section, error))
            return false;
        g_array_append_val(r->sections, section);
    }
}

static bool index_names(StateReader *r, GError **error)
{
    for (unsigned i = 0; i < r->sections->len; i++) {
        Section *section = &g_array_index(r->sections, Section, i);

        if (!g_hash_table_insert(r->by_name, section->name, GUINT_TO_POINTER(i + 1)))
            return fail(error, VM_ERROR_CORRUPT, "state, section '%s': there are two",
                        section->name);
    }
    return true;
}

StateReader *state_reader_new(GBytes *bytes, GError **error)
{
    StateReader *r = g_new0(StateReader, 1);

    r->bytes = g_bytes_ref(bytes);
    r->sections = g_array_new(false, false, sizeof(Section));
    r->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    if (!read_all(r, error) || !index_names(r, error)) {
        state_reader_free(r);
        return NULL;
    }
    return r;
}

void state_reader_free(StateReader *r)
{
    if (!r)
        return;
    g_hash_table_destroy(r->by_name);
    g_array_free(r->sections, true);
    g_bytes_unref(r->bytes);
    g_free(r);
}

/* ---- reading: sections ----------------------------------------------------------------
 */

static Section *find(const StateReader *r, const char *name)
{
    unsigned i = GPOINTER_TO_UINT(g_hash_table_lookup(r->by_name, name));

    return i ? &g_array_index(r->sections, Section, i - 1) : NULL;
}

bool state_has(const StateReader *r, const char *section)
{
    return find(r, section) != NULL;
}

bool state_fill(const Section *section, const StateTable *t, void *ret, GError **error)
{
    Where at = {.name = section->name, .index = -1};

    memset(ret, 0, t->size);
    if (strcmp(section->kind, t->name) != 0)
        return fail_at(&at, error, VM_ERROR_CORRUPT,
                       "it is the state of a '%s', and a '%s' is here; restore into the "
                       "machine that it was made of",
                       section->kind, t->name);
    if (state_decode(t, section->version, section->bytes, section->size, ret, &at,
                     error) &&
        state_check(t, ret, &at, error))
        return true;
    state_clear(t, ret);
    return false;
}

bool state_get(StateReader *r, const char *name, const StateTable *t, void *ret,
               GError **error)
{
    Section *section = find(r, name);

    memset(ret, 0, t->size);
    if (!section)
        return fail(error, VM_ERROR_CORRUPT,
                    "state: the section '%s' (%s) is missing; restore into the machine "
                    "that the state was made of",
                    name, t->name);
    section->asked_for = true;
    return state_fill(section, t, ret, error);
}

bool state_reader_done(const StateReader *r, GError **error)
{
    for (unsigned i = 0; i < r->sections->len; i++) {
        const Section *section = &g_array_index(r->sections, Section, i);

        if (!section->asked_for)
            return fail(error, VM_ERROR_CORRUPT,
                        "state: nothing in this machine takes the section '%s' (%s); it "
                        "was made of another machine, or by a newer hutch",
                        section->name, section->kind);
    }
    return true;
}
