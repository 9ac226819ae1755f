/* Saved state: what is written is read back the same, and what is damaged, foreign, newer
 * or hostile is refused by section and field. */
#include <string.h>

#include "state/state.h"
#include "sums.h"
#include "util/bits.h"

typedef struct Entry {
    uint32_t id;
    uint16_t flags;
    uint8_t pad[2];
} Entry;

typedef struct Sample {
    uint64_t wide;
    int64_t negative;
    uint32_t n_entries;
    uint16_t half;
    uint8_t byte;
    bool on;
    uint8_t fifo[4];
    char label[12];
    uint16_t words[3];
    uint8_t raw[7];
    uint32_t n_pairs;
    uint32_t left[4], right[4];
    Entry entries[5];
    Entry one;
    StateBlob blob;
    void *pointer;
} Sample;

static const StateField entry_fields[] = {
    STATE_FIELD(Entry, id, 1, U32, .max = 1000),
    STATE_FIELD(Entry, flags, 2, U16),
    STATE_SKIP(Entry, pad),
    {},
};
static const StateTable entry_table = {
    .name = "entry", .version = 1, .size = sizeof(Entry), .fields = entry_fields};

static bool sample_check(const void *p, GError **error)
{
    const Sample *s = p;

    return s->half != 0xdead || fail(error, VM_ERROR_CORRUPT, "half is dead");
}

static const StateField sample_fields[] = {
    STATE_FIELD(Sample, wide, 1, U64),
    STATE_FIELD(Sample, negative, 2, I64),
    STATE_LIST(Sample, entries, n_entries, 3, &entry_table),
    STATE_FIELD(Sample, half, 4, U16),
    STATE_FIELD(Sample, byte, 5, U8, .min = 3, .max = 127, .help = "small"),
    STATE_FIELD(Sample, on, 6, BOOL),
    STATE_INTS(Sample, fifo, 7, U8),
    STATE_STRING(Sample, label, 8),
    STATE_INTS(Sample, words, 9, U16, .max = 500),
    STATE_RAW(Sample, raw, 10),
    STATE_INTS(Sample, left, 11, U32, .used = STATE_USED_AT(Sample, n_pairs)),
    STATE_INTS(Sample, right, 12, U32, .used = STATE_USED_AT(Sample, n_pairs)),
    STATE_NESTED(Sample, one, 13, &entry_table),
    STATE_DATA(Sample, blob, 14, 64),
    STATE_HOLE(Sample, raw, n_pairs),
    STATE_HOLE(Sample, one, blob),
    STATE_SKIP(Sample, pointer),
    {},
};
static const StateTable sample_table = {.name = "sample",
                                        .version = 2,
                                        .size = sizeof(Sample),
                                        .fields = sample_fields,
                                        .check = sample_check};
static const StateTable *const tables[] = {&entry_table, &sample_table, NULL};

static uint8_t blob_bytes[] = {1, 2, 3, 4, 5};

static Sample sample(void)
{
    return (Sample){
        .wide = UINT64_MAX - 1,
        .negative = -5,
        .n_entries = 2,
        .half = 0x1234,
        .byte = 77,
        .on = true,
        .fifo = {9, 8, 7, 6},
        .label = "caf\xc3\xa9",
        .words = {500, 0, 1},
        .raw = {255, 0, 1, 2, 3, 4},
        .n_pairs = 3,
        .left = {1, 2, 3},
        .right = {4, 5, 6},
        .entries = {{.id = 10, .flags = 1}, {.id = 20, .flags = 2}},
        .one = {.id = 30},
        .blob = {blob_bytes, sizeof(blob_bytes)},
    };
}

static GBytes *write_one(const char *name, const StateTable *t, const void *s)
{
    StateWriter *w = state_writer_new();
    g_autoptr(GError) error = NULL;
    GBytes *bytes;

    state_put(w, name, t, s);
    bytes = state_writer_end(w, &error);
    g_assert_no_error(error);
    return bytes;
}

static StateReader *read_bytes(GBytes *bytes)
{
    g_autoptr(GError) error = NULL;
    StateReader *r = state_reader_new(bytes, &error);

    g_assert_no_error(error);
    return r;
}

static void assert_error(const GError *error, VmErrorCode code, const char *part)
{
    g_assert_error(error, VM_ERROR, (int)code);
    if (!strstr(error->message, part))
        g_error("'%s' does not say '%s'", error->message, part);
}

/* ---- whole files ----------------------------------------------------------------------
 */

static void what_is_written_is_read_back(void)
{
    Sample s = sample(), back;
    g_autoptr(GBytes) bytes = write_one("sample0", &sample_table, &s), again = NULL;
    g_autoptr(StateReader) r = read_bytes(bytes);
    g_autoptr(GError) error = NULL;

    g_assert_true(state_has(r, "sample0"));
    g_assert_false(state_has(r, "sample1"));
    g_assert_true(state_get(r, "sample0", &sample_table, &back, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(back.blob.data, back.blob.size, blob_bytes, sizeof(blob_bytes));
    again = write_one("sample0", &sample_table, &back);
    g_assert_true(g_bytes_equal(bytes, again));
    g_assert_cmpint(back.negative, ==, -5);
    g_assert_cmpuint(back.n_entries, ==, 2);
    g_assert_cmpuint(back.entries[1].id, ==, 20);
    g_assert_cmpuint(back.n_pairs, ==, 3);
    g_assert_cmpuint(back.right[2], ==, 6);
    g_assert_cmpstr(back.label, ==, s.label);
    g_assert_true(state_reader_done(r, &error));
    state_clear(&sample_table, &back);
    g_assert_null(back.blob.data);
    g_assert_cmpuint(back.wide, ==, 0);
}

static void a_section_that_nobody_takes_is_refused(void)
{
    Sample s = sample();
    g_autoptr(GBytes) bytes = write_one("ghost7", &sample_table, &s);
    g_autoptr(StateReader) r = read_bytes(bytes);
    g_autoptr(GError) error = NULL;

    g_assert_false(state_reader_done(r, &error));
    assert_error(error, VM_ERROR_CORRUPT, "'ghost7' (sample)");
}

static void a_section_that_is_missing_or_of_another_kind_is_refused(void)
{
    Entry e = {.id = 1}, back;
    g_autoptr(GBytes) bytes = write_one("e", &entry_table, &e);
    g_autoptr(StateReader) r = read_bytes(bytes);
    g_autoptr(GError) error = NULL;
    Sample s;

    g_assert_false(state_get(r, "f", &entry_table, &back, &error));
    assert_error(error, VM_ERROR_CORRUPT, "'f' (entry) is missing");
    g_clear_error(&error);
    g_assert_false(state_get(r, "e", &sample_table, &s, &error));
    assert_error(error, VM_ERROR_CORRUPT, "it is the state of a 'entry'");
}

/* Any byte that is flipped, and any length that is cut, shows. */
static void a_damaged_file_is_refused_whole(void)
{
    Sample s = sample();
    g_autoptr(GBytes) bytes = write_one("sample0", &sample_table, &s);
    size_t size;
    const uint8_t *p = g_bytes_get_data(bytes, &size);
    g_autofree uint8_t *copy = g_malloc(size + 1);

    for (size_t i = 0; i < size; i++) {
        memcpy(copy, p, size);
        copy[i] ^= 1 << i % 8;
        g_autoptr(GBytes) bad = g_bytes_new(copy, size), cut = g_bytes_new(p, i);
        g_autoptr(GError) error = NULL, error2 = NULL;

        g_assert_null(state_reader_new(bad, &error));
        g_assert_nonnull(error);
        g_assert_null(state_reader_new(cut, &error2));
        g_assert_nonnull(error2);
    }
    memcpy(copy, p, size);
    copy[size] = 0;
    g_autoptr(GBytes) longer = g_bytes_new(copy, size + 1);
    g_autoptr(GError) error = NULL;
    g_assert_null(state_reader_new(longer, &error));
    assert_error(error, VM_ERROR_CORRUPT, "1 bytes follow its end");
}

/* A sum is no signature: who can write the file can write the right sum. */
static void hostile_files_with_right_sums_do_no_harm(void)
{
    Sample s = sample();
    g_autoptr(GBytes) bytes = write_one("sample0", &sample_table, &s);
    size_t size, start = 12, end;
    const uint8_t *p = g_bytes_get_data(bytes, &size);
    g_autofree uint8_t *copy = g_malloc(size);

    end = size - 8;
    for (unsigned round = 0; round < 20000; round++) {
        Sample back;
        unsigned changes = g_test_rand_int_range(1, 4);

        memcpy(copy, p, size);
        while (changes--)
            copy[g_test_rand_int_range(start + 12, end)] = g_test_rand_int_range(0, 256);
        state_fix_sums(copy, size);
        g_autoptr(GBytes) hostile = g_bytes_new(copy, size);
        g_autoptr(StateReader) r = state_reader_new(hostile, NULL);
        if (r && state_get(r, "sample0", &sample_table, &back, NULL)) {
            g_assert_cmpuint(back.byte, <=, 127);
            g_assert_cmpuint(back.n_entries, <=, 5);
            state_clear(&sample_table, &back);
        }
        if (r)
            json_decref(state_describe(r, tables));
    }
}

static void what_could_not_be_loaded_is_not_written(void)
{
    StateWriter *w;
    g_autoptr(GError) error = NULL;
    Sample s = sample();

    s.byte = 200;
    w = state_writer_new();
    state_put(w, "a", &sample_table, &s);
    g_assert_null(state_writer_end(w, &error));
    assert_error(error, VM_ERROR_CORRUPT,
                 "state, section 'a', field 'byte': 200 is more than 127");
    g_clear_error(&error);

    s.byte = 3;
    w = state_writer_new();
    state_put(w, "a", &sample_table, &s);
    state_put(w, "a", &sample_table, &s);
    g_assert_null(state_writer_end(w, &error));
    assert_error(error, VM_ERROR_INVALID, "section 'a': there are two");
    g_clear_error(&error);

    w = state_writer_new();
    state_put(w, "no\nname", &sample_table, &s);
    g_assert_null(state_writer_end(w, &error));
    assert_error(error, VM_ERROR_INVALID, "printable");
}

/* ---- values and versions --------------------------------------------------------------
 */

/* The same struct as another hutch would describe it: written by one table, read by the
 * other. */
static void transfer(const StateTable *from, const void *s, const StateTable *to,
                     void *ret, GError **error)
{
    g_autoptr(GBytes) bytes = write_one("x", from, s);
    g_autoptr(StateReader) r = read_bytes(bytes);

    state_get(r, "x", to, ret, error);
}

typedef struct Small {
    uint32_t a, b;
} Small;

static const StateField small_old[] = {
    STATE_FIELD(Small, a, 1, U32), STATE_SKIP(Small, b), {}};
static const StateField small_new[] = {
    STATE_FIELD(Small, a, 1, U32), STATE_FIELD(Small, b, 2, U32, .since = 2), {}};
static const StateField small_must[] = {
    STATE_FIELD(Small, a, 1, U32), STATE_FIELD(Small, b, 2, U32), {}};
static const StateTable old_table = {"small", 1, sizeof(Small), small_old, NULL};
static const StateTable new_table = {"small", 2, sizeof(Small), small_new, NULL};
static const StateTable must_table = {"small", 1, sizeof(Small), small_must, NULL};

static void an_older_section_loads_and_what_came_later_is_zero(void)
{
    Small s = {1, 2}, back;
    g_autoptr(GError) error = NULL;

    transfer(&old_table, &s, &new_table, &back, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(back.a, ==, 1);
    g_assert_cmpuint(back.b, ==, 0);
}

static void a_field_that_is_missing_is_refused(void)
{
    Small s = {1, 2}, back;
    g_autoptr(GError) error = NULL;

    transfer(&old_table, &s, &must_table, &back, &error);
    assert_error(error, VM_ERROR_CORRUPT, "section 'x', field 'b': it is missing");
    g_assert_cmpuint(back.a, ==, 0);
}

static void a_newer_section_is_refused_by_the_tag_that_is_not_known(void)
{
    Small s = {1, 2}, back;
    g_autoptr(GError) error = NULL;

    transfer(&new_table, &s, &old_table, &back, &error);
    assert_error(error, VM_ERROR_UNSUPPORTED, "section 'x': the field with tag 2");
    assert_error(error, VM_ERROR_UNSUPPORTED, "made by a newer hutch");
    g_clear_error(&error);
    transfer(&must_table, &s, &old_table, &back, &error);
    assert_error(error, VM_ERROR_CORRUPT, "no field with tag 2");
}

/* ---- each refusal, by a table that is a little different -------------------------- */

typedef struct Refusal {
    StateField field; /* in place of the one with its tag */
    const char *says;
} Refusal;

static const Refusal refusals[] = {
    {STATE_FIELD(Sample, byte, 5, U8, .max = 70), "field 'byte': 77 is more than 70"},
    {STATE_FIELD(Sample, byte, 5, U8, .min = 80), "field 'byte': 77 is less than 80"},
    {STATE_FIELD(Sample, byte, 5, BOOL), "field 'byte': 77 is more than 1"},
    {STATE_FIELD(Sample, half, 5, U16), "field 'half': it cannot have 1 bytes"},
    {STATE_FIELD(Sample, byte, 4, U8),
     "field 'byte': it has 2 elements, and must have 1"},
    {STATE_INTS(Sample, words, 9, U16, .max = 400), "field 'words[0]': 500 is more"},
    {STATE_INTS(Sample, words, 7, U16), "it has 2 elements, and must have 3"},
    {STATE_DATA(Sample, blob, 14, 4), "it has 5 bytes, and may have 0 to 4"},
    {STATE_DATA(Sample, blob, 14, 64, .min = 6), "and may have 6 to 64"},
    {STATE_STRING(Sample, label, 7), "field 'label': it cannot have 4 bytes"},
    {STATE_NESTED(Sample, one, 10, &entry_table), "field 'one': it cannot have 7 bytes"},
    {{.tag = 11,
      .name = "left",
      .type = STATE_U32,
      .offset = offsetof(Sample, left),
      .size = 4,
      .count = 2,
      .used = STATE_USED_AT(Sample, n_pairs)},
     "it has 3 elements, and may have at most 2"},
    {STATE_INTS(Sample, right, 11, U32, .used = STATE_USED_AT(Sample, n_entries)),
     "it has 3 elements, and 'entries' has 2"},
};

static void values_that_do_not_fit_are_refused_by_field(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(refusals); i++) {
        StateField fields[G_N_ELEMENTS(sample_fields)];
        StateTable t = sample_table;
        Sample s = sample(), back;
        g_autoptr(GError) error = NULL;

        memcpy(fields, sample_fields, sizeof(fields));
        for (StateField *f = fields; f->name; f++)
            if (f->tag == refusals[i].field.tag)
                *f = refusals[i].field;
        t.fields = fields;
        transfer(&sample_table, &s, &t, &back, &error);
        assert_error(error, VM_ERROR_CORRUPT, refusals[i].says);
    }
}

static void nested_fields_are_named_by_their_path(void)
{
    static const StateField narrow_fields[] = {
        STATE_FIELD(Entry, id, 1, U32, .max = 15),
        STATE_FIELD(Entry, flags, 2, U16),
        {},
    };
    static const StateTable narrow = {"entry", 1, sizeof(Entry), narrow_fields, NULL};
    static const StateField fields[] = {
        STATE_LIST(Sample, entries, n_entries, 3, &narrow), {}};
    static const StateTable writer = {"sample", 2, sizeof(Sample), &sample_fields[2],
                                      NULL};
    static const StateTable reader = {"sample", 2, sizeof(Sample), fields, NULL};
    StateField only[2] = {sample_fields[2]};
    StateTable w = writer;
    Sample s = sample(), back;
    g_autoptr(GError) error = NULL;

    w.fields = only;
    transfer(&w, &s, &reader, &back, &error);
    assert_error(error, VM_ERROR_CORRUPT,
                 "section 'x', field 'entries[1].id': 20 is more than 15");
}

static void a_check_that_fails_is_named_by_its_section(void)
{
    StateTable lax = sample_table;
    Sample s = sample(), back;
    g_autoptr(GError) error = NULL;

    lax.check = NULL;
    s.half = 0xdead;
    transfer(&lax, &s, &sample_table, &back, &error);
    assert_error(error, VM_ERROR_CORRUPT, "state, section 'x': half is dead");
    g_assert_null(back.blob.data); /* it had been read before */
}

/* ---- looking --------------------------------------------------------------------------
 */

static void a_state_is_described_in_words(void)
{
    static const StateTable *const few[] = {&entry_table, NULL};
    Sample s = sample();
    g_autoptr(GBytes) bytes = write_one("sample0", &sample_table, &s);
    g_autoptr(StateReader) r = read_bytes(bytes);
    json_t *all = state_describe(r, tables), *some = state_describe(r, few), *section, *f;

    section = json_object_get(all, "sample0");
    f = json_object_get(section, "fields");
    g_assert_cmpstr(json_get_text(section, "kind"), ==, "sample");
    g_assert_cmpint(json_integer_value(json_object_get(f, "byte")), ==, 77);
    g_assert_cmpint(json_integer_value(json_object_get(f, "negative")), ==, -5);
    g_assert_cmpstr(json_get_text(f, "fifo"), ==, "09080706");
    g_assert_cmpstr(json_get_text(f, "wide"), ==, "0xfffffffffffffffe");
    g_assert_cmpstr(json_get_text(f, "blob"), ==, "0102030405");
    g_assert_true(json_is_true(json_object_get(f, "on")));
    g_assert_cmpuint(json_array_size(json_object_get(f, "entries")), ==, 2);
    g_assert_null(json_object_get(f, "pointer"));
    section = json_object_get(some, "sample0");
    g_assert_null(json_object_get(section, "fields"));
    g_assert_cmpint(json_integer_value(json_object_get(section, "size")), >, 100);
    json_decref(all);
    json_decref(some);
}

static void a_forgotten_byte_is_found(void)
{
    g_autoptr(GError) error = NULL;

    state_tiles(&sample_table, &error);
    g_assert_no_error(error);

    for (unsigned i = 0; i + 1 < G_N_ELEMENTS(sample_fields); i++) {
        StateField fields[G_N_ELEMENTS(sample_fields)];
        StateTable t = sample_table;

        memcpy(fields, sample_fields, sizeof(fields));
        memmove(fields + i, fields + i + 1, sizeof(fields) - (i + 1) * sizeof(fields[0]));
        t.fields = fields;
        /* Without 'left', 'right' still has their count; each has bytes of its own. */
        g_assert_false(state_tiles(&t, &error));
        assert_error(error, VM_ERROR_INVALID, "belongs to no field");
        g_clear_error(&error);
    }
}

static void a_table_against_the_rules_is_found(void)
{
    static const struct {
        StateField second;
        const char *says;
    } bad[] = {
        {STATE_FIELD(Small, b, 1, U32), "its tag is another field's too"},
        {STATE_FIELD(Small, b, 0, U32), "it has no tag"},
        {STATE_FIELD(Small, b, 2, U16), "has not the size of its type"},
        {STATE_FIELD(Small, b, 2, U32, .since = 3), "later than the table's version"},
        {STATE_FIELD(Small, b, 2, U32, .max = 1ull << 32), "more than its type can hold"},
        {STATE_FIELD(Small, a, 2, U32), "there are two of that name"},
        {{.tag = 2, .name = "b", .type = STATE_BYTES, .offset = 2, .size = 4},
         "is another's too"},
        {STATE_FIELD(Small, b, 2, U32, .min = 9, .max = 8), "`min` is more than `max`"},
        {{.tag = 2, .name = "b", .type = STATE_BYTES, .offset = 8, .size = 4},
         "it is not inside the struct"},
        {STATE_NESTED(Small, b, 2, &entry_table), "the size that `of` says"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        const StateField fields[] = {STATE_FIELD(Small, a, 1, U32), bad[i].second, {}};
        const StateTable t = {"small", 2, sizeof(Small), fields, NULL};
        g_autoptr(GError) error = NULL;

        g_assert_false(state_tiles(&t, &error));
        assert_error(error, VM_ERROR_INVALID, bad[i].says);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/round-trip", what_is_written_is_read_back);
    g_test_add_func("/state/untaken", a_section_that_nobody_takes_is_refused);
    g_test_add_func("/state/missing",
                    a_section_that_is_missing_or_of_another_kind_is_refused);
    g_test_add_func("/state/damaged", a_damaged_file_is_refused_whole);
    g_test_add_func("/state/hostile", hostile_files_with_right_sums_do_no_harm);
    g_test_add_func("/state/unwritable", what_could_not_be_loaded_is_not_written);
    g_test_add_func("/state/older", an_older_section_loads_and_what_came_later_is_zero);
    g_test_add_func("/state/missing-field", a_field_that_is_missing_is_refused);
    g_test_add_func("/state/newer",
                    a_newer_section_is_refused_by_the_tag_that_is_not_known);
    g_test_add_func("/state/values", values_that_do_not_fit_are_refused_by_field);
    g_test_add_func("/state/path", nested_fields_are_named_by_their_path);
    g_test_add_func("/state/check", a_check_that_fails_is_named_by_its_section);
    g_test_add_func("/state/describe", a_state_is_described_in_words);
    g_test_add_func("/state/tiles", a_forgotten_byte_is_found);
    g_test_add_func("/state/table-rules", a_table_against_the_rules_is_found);
    return g_test_run();
}
