/* The table of metrics, and the text that Prometheus reads. */
#include "control/metrics.h"

#include <string.h>

/* ---- the text, read back --------------------------------------------------------------
 */

/* Checks the whole text by the rules of the format and returns the samples: "name{a="b"}"
 * with the labels as they stand -> its value. */
static GHashTable *read_back(const char *text)
{
    g_autoptr(GHashTable)
        families = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GHashTable *samples = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", 0);
    g_autofree char *family = g_strdup("?");

    g_assert_true(!*text || g_str_has_suffix(text, "\n"));
    for (char **l = lines; l[0] && l[1]; l++) {
        char *space = strrchr(*l, ' ');

        if (g_str_has_prefix(*l, "# HELP ")) {
            g_auto(GStrv) words = g_strsplit(*l, " ", 4);
            g_autofree char *type = g_strdup_printf("# TYPE %s ", words[2]);

            g_assert_true(g_str_has_prefix(l[1], type)); /* HELP, then TYPE */
            g_free(family);
            family = g_strdup(words[2]);
            g_assert_true(g_hash_table_add(families, g_strdup(family))); /* once */
            l++;
            continue;
        }
        g_assert_true(g_str_has_prefix(*l, family));
        g_assert_nonnull(space);
        *space = '\0';
        g_assert_true(g_hash_table_insert(samples, g_strdup(*l), g_strdup(space + 1)));
    }
    return samples;
}

static GHashTable *samples_of(json_t *const *vms, unsigned n)
{
    g_autofree char *text = metrics_text(vms, n);

    for (unsigned i = 0; i < n; i++)
        json_decref(vms[i]);
    return read_back(text);
}

/* Consumes nothing; the value of that sample. */
static void has(GHashTable *samples, const char *sample, const char *value)
{
    g_assert_cmpstr(g_hash_table_lookup(samples, sample), ==, value);
}

/* {"vm": name, "metrics": [{...}]} */
static json_t *vm_with(const char *name, const char *metrics)
{
    json_t *list = json_loads(metrics, 0, NULL);

    g_assert_nonnull(list);
    return json_pack("{s:s?, s:o}", "vm", name, "metrics", list);
}

#define GAUGE(name, samples)                                                             \
    "{\"name\":\"" name "\",\"type\":\"gauge\",\"unit\":\"\",\"help\":\"H\","            \
    "\"samples\":" samples "}"

static void a_sample_has_its_labels_and_the_name_of_its_vm(void)
{
    json_t *vm = vm_with("web", "[" GAUGE("a", "[{\"labels\":{\"x\":\"1\",\"y\":\"2\"},"
                                               "\"value\":5}]") "]");
    g_autoptr(GHashTable) s = samples_of(&vm, 1);

    has(s, "a{vm=\"web\",x=\"1\",y=\"2\"}", "5");
}

static void a_vm_without_a_name_has_no_such_label(void)
{
    json_t *vm = vm_with(NULL, "[" GAUGE("a", "[{\"labels\":{},\"value\":1.5}]") "]");
    g_autoptr(GHashTable) s = samples_of(&vm, 1);

    has(s, "a", "1.5");
}

static void labels_are_escaped(void)
{
    json_t *vm = vm_with("q\"b\\n\n",
                         "[" GAUGE("a", "[{\"labels\":{},\"value\":1}]") "]");
    g_autoptr(GHashTable) s = samples_of(&vm, 1);

    has(s, "a{vm=\"q\\\"b\\\\n\\n\"}", "1");
    g_assert_cmpuint(g_hash_table_size(s), ==, 1);
}

static void samples_of_many_vms_stand_under_one_type_line(void)
{
    json_t *vms[] = {
        vm_with("one", "[" GAUGE("a", "[{\"labels\":{},\"value\":1}]") "," GAUGE(
                           "b", "[{\"labels\":{},\"value\":2}]") "]"),
        vm_with("two", "[" GAUGE("b", "[{\"labels\":{},\"value\":3}]") "," GAUGE(
                           "c", "[{\"labels\":{},\"value\":4}]") "]"),
    };
    g_autoptr(GHashTable) s = samples_of(vms, 2);

    has(s, "a{vm=\"one\"}", "1");
    has(s, "b{vm=\"one\"}", "2");
    has(s, "b{vm=\"two\"}", "3");
    has(s, "c{vm=\"two\"}", "4");
}

static void a_histogram_has_its_buckets_sum_and_count(void)
{
    json_t *vm = vm_with("v", "[{\"name\":\"h\",\"type\":\"histogram\",\"samples\":[{"
                              "\"labels\":{\"op\":\"read\"},\"count\":3,\"sum\":0.25,"
                              "\"buckets\":[{\"le\":1.024e-6,\"count\":1},"
                              "{\"le\":0.5,\"count\":2}]}]}]");
    g_autoptr(GHashTable) s = samples_of(&vm, 1);

    has(s, "h_bucket{vm=\"v\",op=\"read\",le=\"1.024e-06\"}", "1");
    has(s, "h_bucket{vm=\"v\",op=\"read\",le=\"0.5\"}", "2");
    has(s, "h_bucket{vm=\"v\",op=\"read\",le=\"+Inf\"}", "3");
    has(s, "h_sum{vm=\"v\",op=\"read\"}", "0.25");
    has(s, "h_count{vm=\"v\",op=\"read\"}", "3");
}

/* A monitor may be another version, or no monitor. */
static void what_is_not_as_it_should_be_is_left_out(void)
{
    static const char *const nonsense[] = {
        "[]",
        "[1, null, {}]",
        "[" GAUGE("a b", "[{\"labels\":{},\"value\":1}]") "]",
        "[" GAUGE("a\\nevil 1", "[{\"labels\":{},\"value\":1}]") "]",
        "[" GAUGE("a", "7") "]",
        "[" GAUGE("a", "[7, {}, {\"labels\":3,\"value\":\"x\"}]") "]",
        "[{\"name\":\"a\",\"type\":\"gauge\\n\",\"samples\":[{\"value\":1}]}]",
        "[{\"name\":\"a\",\"type\":\"histogram\",\"samples\":[{\"buckets\":[1,{}]}]}]",
        "[" GAUGE("a", "[{\"labels\":{\"x\":1,\"b c\":\"d\"}}]") "]",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(nonsense); i++) {
        json_t *vm = vm_with("v", nonsense[i]);
        g_autoptr(GHashTable) s = samples_of(&vm, 1);

        g_assert_cmpuint(g_hash_table_size(s), ==, 0);
    }
}

/* ---- the table ------------------------------------------------------------------------
 */

static void every_metric_is_described(void)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    for (unsigned i = 0; i < METRICS; i++) {
        const Metric *m = &metric_table[i];
        bool total = g_str_has_suffix(m->name, "_total");

        g_assert_true(g_str_has_prefix(m->name, "hutch_"));
        g_assert_true(g_hash_table_add(names, (void *)m->name));
        g_assert_true(m->help && g_str_has_suffix(m->help, "."));
        g_assert_true(total == (m->type == METRIC_COUNTER));
        g_assert_nonnull(metric_type_name(m->type));
        g_assert_nonnull(m->unit);
        if (*m->unit) /* Prometheus: the unit is the name's suffix, before _total */
            g_assert_nonnull(strstr(m->name, m->unit));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/control/metrics/" #name, name)
    TEST(a_sample_has_its_labels_and_the_name_of_its_vm);
    TEST(a_vm_without_a_name_has_no_such_label);
    TEST(labels_are_escaped);
    TEST(samples_of_many_vms_stand_under_one_type_line);
    TEST(a_histogram_has_its_buckets_sum_and_count);
    TEST(what_is_not_as_it_should_be_is_left_out);
    TEST(every_metric_is_described);
    return g_test_run();
}
