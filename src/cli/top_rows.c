/* hutch top's figures: from two answers of a VM to a row of the table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/ask.h"
#include "control/metrics.h"
#include "control/place.h"
#include "src/cli/top.h"
#include "util/json.h"

enum { LIMIT_MS = 1000 };

/* ---- figures --------------------------------------------------------------------------
 */

/* Which samples of which metric add up to which figure; a NULL label: all of them. */
static const struct {
    MetricId metric;
    const char *label, *value;
    size_t offset;
} sources[] = {
    {METRIC_CPU, NULL, NULL, offsetof(TopFigures, cpu)},
    {METRIC_VCPU_CPU, NULL, NULL, offsetof(TopFigures, vcpu)},
    {METRIC_VCPU_EXITS, NULL, NULL, offsetof(TopFigures, exits)},
    {METRIC_DISK_BYTES, "op", "read", offsetof(TopFigures, disk_read)},
    {METRIC_DISK_BYTES, "op", "write", offsetof(TopFigures, disk_write)},
    {METRIC_NET_BYTES, "direction", "rx", offsetof(TopFigures, net_rx)},
    {METRIC_NET_BYTES, "direction", "tx", offsetof(TopFigures, net_tx)},
    {METRIC_RESIDENT, NULL, NULL, offsetof(TopFigures, resident)},
    {METRIC_PRIVATE, NULL, NULL, offsetof(TopFigures, private_)},
    {METRIC_SHARED, NULL, NULL, offsetof(TopFigures, shared)},
    {METRIC_SWAPPED, NULL, NULL, offsetof(TopFigures, swapped)},
};

static json_t *samples_of(json_t *metrics, MetricId id)
{
    json_t *metric;
    size_t i;

    json_array_foreach(json_object_get(metrics, "metrics"), i, metric)
    {
        if (g_str_equal(json_get_text(metric, "name"), metric_table[id].name))
            return json_object_get(metric, "samples");
    }
    return NULL;
}

static double sum(json_t *samples, const char *label, const char *value)
{
    double all = 0;
    json_t *sample;
    size_t i;

    json_array_foreach(samples, i, sample)
    {
        json_t *labels = json_object_get(sample, "labels");

        if (!label || g_str_equal(json_get_text(labels, label), value))
            all += json_number_value(json_object_get(sample, "value"));
    }
    return all;
}

/* It goes to a terminal: words only. */
static void copy_state(char *to, size_t size, const char *state)
{
    g_strlcpy(to, *state ? state : "?", size);
    g_strcanon(to, "abcdefghijklmnopqrstuvwxyz-?", '?');
}

void top_figures(json_t *metrics, int64_t at_ns, TopFigures *ret)
{
    json_t *state = json_array_get(samples_of(metrics, METRIC_STATE), 0);

    *ret = (TopFigures){.at_ns = at_ns};
    copy_state(ret->state, sizeof(ret->state),
               json_get_text(json_object_get(state, "labels"), "state"));
    for (unsigned i = 0; i < G_N_ELEMENTS(sources); i++)
        *(double *)((char *)ret + sources[i].offset) = sum(
            samples_of(metrics, sources[i].metric), sources[i].label, sources[i].value);
}

/* ---- rows -----------------------------------------------------------------------------
 */

static double rate(double before, double now, double seconds)
{
    return seconds > 0 && now > before ? (now - before) / seconds : 0;
}

void top_row(const char *name, const TopFigures *before, const TopFigures *now,
             TopRow *ret)
{
    double s = (double)(now->at_ns - before->at_ns) / 1e9;

    *ret = (TopRow){
        .name = g_strdup(name),
        .cpu = 100 * rate(before->cpu, now->cpu, s),
        .vcpu = 100 * rate(before->vcpu, now->vcpu, s),
        .resident = now->resident,
        .private_ = now->private_,
        .shared = now->shared,
        .swapped = now->swapped,
        .disk_read = rate(before->disk_read, now->disk_read, s),
        .disk_write = rate(before->disk_write, now->disk_write, s),
        .net_rx = rate(before->net_rx, now->net_rx, s),
        .net_tx = rate(before->net_tx, now->net_tx, s),
        .exits = rate(before->exits, now->exits, s),
    };
    g_strlcpy(ret->state, now->state, sizeof(ret->state));
}

static double weight(const TopRow *r, TopOrder order)
{
    switch (order) {
    case TOP_BY_CPU:
        return r->cpu;
    case TOP_BY_MEMORY:
        return r->resident;
    case TOP_BY_DISK:
        return r->disk_read + r->disk_write;
    case TOP_BY_NET:
        return r->net_rx + r->net_tx;
    }
    return 0;
}

static gint compare(gconstpointer a, gconstpointer b, gpointer order)
{
    double x = weight(a, *(const TopOrder *)order);
    double y = weight(b, *(const TopOrder *)order);

    if (x != y)
        return x > y ? -1 : 1;
    return strcmp(((const TopRow *)a)->name, ((const TopRow *)b)->name);
}

void top_sort(GArray *rows, TopOrder order)
{
    g_array_sort_with_data(rows, compare, &order);
}

static void clear_row(void *row)
{
    g_free(((TopRow *)row)->name);
}

GArray *top_rows_new(void)
{
    GArray *rows = g_array_new(FALSE, TRUE, sizeof(TopRow));

    g_array_set_clear_func(rows, clear_row);
    return rows;
}

/* ---- all VMs --------------------------------------------------------------------------
 */

struct Top {
    GHashTable *last; /* name -> TopFigures */
};

Top *top_new(void)
{
    Top *t = g_new0(Top, 1);

    t->last = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return t;
}

void top_free(Top *t)
{
    if (!t)
        return;
    g_hash_table_destroy(t->last);
    g_free(t);
}

/* What the VM says now goes into `next`, and its row to the others.  One that does not
 * answer is shown as such. */
static void add_row(Top *t, const ControlAnswer *a, bool known, GHashTable *next,
                    GArray *rows)
{
    TopFigures *before = g_hash_table_lookup(t->last, a->vm);
    TopFigures *now = g_new0(TopFigures, 1);
    bool hangs = g_error_matches(a->error, VM_ERROR, VM_ERROR_BUSY);
    TopRow row;

    if (a->error && !hangs) {
        g_free(now); /* it has ended */
        return;
    }
    top_figures(a->value, g_get_monotonic_time() * 1000, now);
    if (hangs)
        g_strlcpy(now->state, "no-answer", sizeof(now->state));
    if (before || hangs || !known) {
        top_row(a->vm, before && !hangs ? before : now, now, &row);
        g_array_append_val(rows, row);
    }
    if (hangs)
        g_free(now);
    else
        g_hash_table_insert(next, g_strdup(a->vm), now);
}

bool top_sample(Top *t, bool known, GArray *rows, GError **error)
{
    g_auto(GStrv) names = place_list(error);
    unsigned n = names ? g_strv_length(names) : 0;
    g_autofree ControlAnswer *answers = g_new0(ControlAnswer, n);
    GHashTable *next;

    if (!names)
        return false;
    next = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_array_set_size(rows, 0);
    for (unsigned i = 0; i < n; i++)
        answers[i].vm = names[i];
    control_ask(answers, n, "x-hutch-query-metrics", LIMIT_MS);
    for (unsigned i = 0; i < n; i++)
        add_row(t, &answers[i], known, next, rows);
    g_hash_table_destroy(t->last);
    t->last = next;
    control_answers_clear(answers, n);
    return true;
}

/* ---- showing --------------------------------------------------------------------------
 */

/* Four characters for any number: "0", "999", "1.2K", "12K", "512M". */
static char *short_number(double value, double unit)
{
    static const char units[] = " KMGTP";
    unsigned i = 0;

    for (; value >= 999.5 && i < strlen(units) - 1; i++)
        value /= unit;
    if (!i)
        return g_strdup_printf("%.0f", value);
    return g_strdup_printf(value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[i]);
}

typedef enum { COLUMN_PERCENT, COLUMN_BYTES, COLUMN_NUMBER } ColumnKind;

static const struct {
    const char *title, *json;
    ColumnKind kind;
    size_t offset;
    int order; /* the order that it is for; -1: none */
} columns[] = {
    {"CPU%", "cpu_percent", COLUMN_PERCENT, offsetof(TopRow, cpu), TOP_BY_CPU},
    {"VCPU%", "vcpu_percent", COLUMN_PERCENT, offsetof(TopRow, vcpu), -1},
    {"MEM", "memory_resident_bytes", COLUMN_BYTES, offsetof(TopRow, resident),
     TOP_BY_MEMORY},
    {"SHARED", "memory_shared_bytes", COLUMN_BYTES, offsetof(TopRow, shared), -1},
    {"PRIVATE", "memory_private_bytes", COLUMN_BYTES, offsetof(TopRow, private_), -1},
    {"SWAP", "memory_swapped_bytes", COLUMN_BYTES, offsetof(TopRow, swapped), -1},
    {"READ/s", "disk_read_bytes_per_second", COLUMN_BYTES, offsetof(TopRow, disk_read),
     TOP_BY_DISK},
    {"WRITE/s", "disk_write_bytes_per_second", COLUMN_BYTES, offsetof(TopRow, disk_write),
     TOP_BY_DISK},
    {"RX/s", "net_rx_bytes_per_second", COLUMN_BYTES, offsetof(TopRow, net_rx),
     TOP_BY_NET},
    {"TX/s", "net_tx_bytes_per_second", COLUMN_BYTES, offsetof(TopRow, net_tx),
     TOP_BY_NET},
    {"EXITS/s", "exits_per_second", COLUMN_NUMBER, offsetof(TopRow, exits), -1},
};

static double cell(const TopRow *row, unsigned column)
{
    return *(const double *)((const char *)row + columns[column].offset);
}

static char *cell_text(const TopRow *row, unsigned column)
{
    double value = cell(row, column);

    switch (columns[column].kind) {
    case COLUMN_PERCENT:
        return g_strdup_printf("%.1f", value);
    case COLUMN_BYTES:
        return short_number(value, 1024);
    case COLUMN_NUMBER:
        return short_number(value, 1000);
    }
    return NULL;
}

/* Cut to `width` characters, which may be of several bytes. */
static void end_line(GString *out, size_t from, unsigned width)
{
    glong len = g_utf8_strlen(out->str + from, -1);

    if (width && len > (glong)width)
        g_string_truncate(
            out, (gsize)(g_utf8_offset_to_pointer(out->str + from, width) - out->str));
    g_string_append_c(out, '\n');
}

static void put_padded(GString *out, const char *text, unsigned width, bool left)
{
    unsigned len = (unsigned)g_utf8_strlen(text, -1);

    if (left)
        g_string_append(out, text);
    for (; len < width; len++)
        g_string_append_c(out, ' ');
    if (!left)
        g_string_append(out, text);
}

static unsigned name_width(const GArray *rows)
{
    unsigned width = 8;

    for (unsigned i = 0; i < rows->len; i++)
        width = MAX(width,
                    (unsigned)g_utf8_strlen(g_array_index(rows, TopRow, i).name, -1));
    return MIN(width, 24);
}

static unsigned column_width(unsigned column)
{
    return MAX((unsigned)strlen(columns[column].title) + 2, 6);
}

char *top_table(const GArray *rows, TopOrder order, unsigned width)
{
    GString *out = g_string_new(NULL);
    unsigned names = name_width(rows);

    put_padded(out, "NAME", names, true);
    g_string_append(out, "  ");
    put_padded(out, "STATE", 9, true);
    for (unsigned c = 0; c < G_N_ELEMENTS(columns); c++) {
        g_autofree char *title = g_strconcat(columns[c].order == (int)order ? "*" : "",
                                             columns[c].title, NULL);

        put_padded(out, title, column_width(c), false);
    }
    end_line(out, 0, width);
    for (unsigned i = 0; i < rows->len; i++) {
        const TopRow *row = &g_array_index(rows, TopRow, i);
        size_t from = out->len;

        put_padded(out, row->name, names, true);
        g_string_append(out, "  ");
        put_padded(out, row->state, 9, true);
        for (unsigned c = 0; c < G_N_ELEMENTS(columns); c++) {
            g_autofree char *text = cell_text(row, c);

            put_padded(out, text, column_width(c), false);
        }
        end_line(out, from, width);
    }
    return g_string_free(out, FALSE);
}

json_t *top_json(const GArray *rows)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < rows->len; i++) {
        const TopRow *row = &g_array_index(rows, TopRow, i);
        json_t *object = json_pack("{s:s, s:s}", "name", row->name, "state", row->state);

        for (unsigned c = 0; c < G_N_ELEMENTS(columns); c++)
            json_object_set_new(object, columns[c].json, json_real(cell(row, c)));
        json_array_append_new(all, object);
    }
    return all;
}
