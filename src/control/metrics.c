/* The table of metrics, and their text for Prometheus; contract in control/metrics.h. */
#include "control/metrics.h"

#include <string.h>

#include "util/json.h"

const Metric metric_table[METRICS] = {
    [METRIC_STATE] = {"hutch_vm_state",
                      METRIC_GAUGE,
                      "",
                      "1 for the state that the VM is in.",
                      {"state"}},
    [METRIC_UPTIME] = {"hutch_vm_uptime_seconds", METRIC_GAUGE, "seconds",
                       "Time since the VM was started, stopped or not."},
    [METRIC_RESETS] = {"hutch_vm_resets_total", METRIC_COUNTER, "",
                       "Resets of the VM, by the guest or from outside."},
    [METRIC_CPU] = {"hutch_cpu_seconds_total",
                    METRIC_COUNTER,
                    "seconds",
                    "Processor time of the monitor and its guest.",
                    {"mode"}},
    [METRIC_THREAD_CPU] = {"hutch_thread_cpu_seconds_total",
                           METRIC_COUNTER,
                           "seconds",
                           "Processor time of the monitor's threads of that name which "
                           "are alive.",
                           {"thread"}},
    [METRIC_VCPU_CPU] = {"hutch_vcpu_cpu_seconds_total",
                         METRIC_COUNTER,
                         "seconds",
                         "Processor time of a vCPU, guest and emulation.",
                         {"vcpu"}},
    [METRIC_VCPU_EXITS] = {"hutch_vcpu_exits_total",
                           METRIC_COUNTER,
                           "",
                           "Returns of KVM_RUN to the monitor; exits that the kernel "
                           "handles are not among them.",
                           {"vcpu", "reason"}},
    [METRIC_RAM] = {"hutch_memory_guest_bytes", METRIC_GAUGE, "bytes",
                    "RAM that the guest was given."},
    [METRIC_RESIDENT] = {"hutch_memory_resident_bytes", METRIC_GAUGE, "bytes",
                         "Memory of the monitor and its guest that is in RAM."},
    [METRIC_PRIVATE] = {"hutch_memory_private_bytes", METRIC_GAUGE, "bytes",
                        "Of it, anonymous memory, which is the VM's own unless KSM "
                        "merged it."},
    [METRIC_SHARED] = {"hutch_memory_shared_bytes", METRIC_GAUGE, "bytes",
                       "Of it, memory of files and memfds, which others may map too."},
    [METRIC_SWAPPED] = {"hutch_memory_swapped_bytes", METRIC_GAUGE, "bytes",
                        "Memory of the monitor and its guest that is in swap."},
    [METRIC_FAULTS] = {"hutch_page_faults_total",
                       METRIC_COUNTER,
                       "",
                       "Page faults of the monitor and its guest; major ones waited for "
                       "a disk.",
                       {"kind"}},
    [METRIC_SWITCHES] = {"hutch_context_switches_total",
                         METRIC_COUNTER,
                         "",
                         "Times that a thread slept (voluntary) or was preempted.",
                         {"kind"}},
    [METRIC_QUEUE_REQUESTS] = {"hutch_queue_requests_total",
                               METRIC_COUNTER,
                               "",
                               "Requests taken from a virtqueue.",
                               {"device", "queue"}},
    [METRIC_QUEUE_BYTES] = {"hutch_queue_bytes_total",
                            METRIC_COUNTER,
                            "bytes",
                            "Bytes of requests that were returned, headers too: from the "
                            "driver, and to it.",
                            {"device", "queue", "direction"}},
    [METRIC_QUEUE_KICKS] = {"hutch_queue_kicks_total",
                            METRIC_COUNTER,
                            "",
                            "Notifications by the driver that woke the I/O thread.",
                            {"device", "queue"}},
    [METRIC_QUEUE_INTERRUPTS] = {"hutch_queue_interrupts_total",
                                 METRIC_COUNTER,
                                 "",
                                 "Batches of returned requests of which the driver was "
                                 "told, or did not want to be.",
                                 {"device", "queue", "result"}},
    [METRIC_DISK_OPS] = {"hutch_disk_operations_total",
                         METRIC_COUNTER,
                         "",
                         "Requests of a disk that went well.",
                         {"device", "op"}},
    [METRIC_DISK_BYTES] = {"hutch_disk_bytes_total",
                           METRIC_COUNTER,
                           "bytes",
                           "Bytes of these.",
                           {"device", "op"}},
    [METRIC_DISK_ERRORS] = {"hutch_disk_errors_total",
                            METRIC_COUNTER,
                            "",
                            "Requests of a disk that failed.",
                            {"device", "op"}},
    [METRIC_DISK_REFUSED] = {"hutch_disk_refused_total",
                             METRIC_COUNTER,
                             "",
                             "Requests that the guest should not have made: outside of "
                             "the disk, malformed, a write to what is read-only.",
                             {"device", "op"}},
    [METRIC_DISK_LATENCY] = {"hutch_disk_latency_seconds",
                             METRIC_HISTOGRAM,
                             "seconds",
                             "Time that requests of a disk took, waits for limits "
                             "included.",
                             {"device", "op"}},
    [METRIC_NET_FRAMES] = {"hutch_net_frames_total",
                           METRIC_COUNTER,
                           "",
                           "Frames to the guest (rx) and from it (tx).",
                           {"device", "direction"}},
    [METRIC_NET_BYTES] = {"hutch_net_bytes_total",
                          METRIC_COUNTER,
                          "bytes",
                          "Bytes of these.",
                          {"device", "direction"}},
    [METRIC_NET_LINK] = {"hutch_net_link",
                         METRIC_GAUGE,
                         "",
                         "Whether the card's cable is plugged in, and into which network "
                         "(or kind of one).",
                         {"device", "network"}},
    [METRIC_NET_DROPPED] = {"hutch_net_dropped_total",
                            METRIC_COUNTER,
                            "",
                            "Frames that the guest had no room for, or that were "
                            "malformed.",
                            {"device", "direction"}},
};

static const char *const type_names[] = {
    [METRIC_GAUGE] = "gauge",
    [METRIC_COUNTER] = "counter",
    [METRIC_HISTOGRAM] = "histogram",
};

const char *metric_type_name(MetricType type)
{
    return type_names[type];
}

/* ---- text -----------------------------------------------------------------------------
 *
 * What comes from a monitor may be anything: names are checked, and all else is escaped.
 */

static bool is_name(const char *name)
{
    if (!name || !*name || g_ascii_isdigit(*name))
        return false;
    for (; *name; name++)
        if (!g_ascii_isalnum(*name) && *name != '_')
            return false;
    return true;
}

static void put_escaped(GString *out, const char *text, bool quotes)
{
    for (; *text; text++) {
        if (*text == '\n')
            g_string_append(out, "\\n");
        else if (*text == '\\' || (*text == '"' && quotes))
            g_string_append_printf(out, "\\%c", *text);
        else
            g_string_append_c(out, *text);
    }
}

/* Adds to a list of labels, which is what stands between the braces. */
static void add_label(GString *list, const char *name, const char *value)
{
    if (!is_name(name) || !value)
        return;
    g_string_append_printf(list, "%s%s=\"", list->len ? "," : "", name);
    put_escaped(list, value, true);
    g_string_append_c(list, '"');
}

static void put_number(GString *out, json_t *number)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    if (json_is_integer(number))
        g_string_append_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
    else
        g_string_append(
            out, g_ascii_formatd(text, sizeof(text), "%.15g", json_number_value(number)));
}

static void put_sample(GString *out, const char *name, const char *suffix,
                       const char *labels, json_t *value)
{
    if (!json_is_number(value))
        return;
    g_string_append_printf(out, "%s%s%s%s%s ", name, suffix, *labels ? "{" : "", labels,
                           *labels ? "}" : "");
    put_number(out, value);
    g_string_append_c(out, '\n');
}

static void put_bucket(GString *out, const char *name, const char *labels,
                       const char *bound, json_t *count)
{
    g_autoptr(GString) list = g_string_new(labels);

    add_label(list, "le", bound);
    put_sample(out, name, "_bucket", list->str, count);
}

static void put_histogram(GString *out, const char *name, const char *labels,
                          json_t *sample)
{
    json_t *bucket;
    size_t i;

    json_array_foreach(json_object_get(sample, "buckets"), i, bucket)
    {
        json_t *bound = json_object_get(bucket, "le");
        g_autoptr(GString) text = g_string_new(NULL);

        put_number(text, bound);
        if (json_is_number(bound))
            put_bucket(out, name, labels, text->str, json_object_get(bucket, "count"));
    }
    put_bucket(out, name, labels, "+Inf", json_object_get(sample, "count"));
    put_sample(out, name, "_sum", labels, json_object_get(sample, "sum"));
    put_sample(out, name, "_count", labels, json_object_get(sample, "count"));
}

static void put_samples(GString *out, const char *name, bool histogram, const char *vm,
                        json_t *samples)
{
    json_t *sample, *label;
    const char *key;
    size_t i;

    json_array_foreach(samples, i, sample)
    {
        g_autoptr(GString) labels = g_string_new(NULL);

        add_label(labels, "vm", vm);
        json_object_foreach(json_object_get(sample, "labels"), key, label)
            add_label(labels, key, json_string_value(label));
        if (histogram)
            put_histogram(out, name, labels->str, sample);
        else
            put_sample(out, name, "", labels->str, json_object_get(sample, "value"));
    }
}

static bool is_type(const char *type)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(type_names); i++)
        if (g_str_equal(type, type_names[i]))
            return true;
    return false;
}

static json_t *find_metric(json_t *vm, const char *name)
{
    json_t *metric;
    size_t i;

    json_array_foreach(json_object_get(vm, "metrics"), i, metric)
    {
        if (g_str_equal(json_get_text(metric, "name"), name))
            return metric;
    }
    return NULL;
}

/* All samples of a metric stand together, as the format wants it: those of `vms` from the
 * first that has it.  Names that are not the same everywhere go by that one's type. */
static void put_metric(GString *out, json_t *metric, json_t *const *vms, unsigned n)
{
    const char *name = json_get_text(metric, "name"),
               *type = json_get_text(metric, "type");

    if (!is_name(name) || !is_type(type))
        return;
    g_string_append_printf(out, "# HELP %s ", name);
    put_escaped(out, json_get_text(metric, "help"), false);
    g_string_append_printf(out, "\n# TYPE %s %s\n", name, type);
    for (unsigned i = 0; i < n; i++) {
        json_t *same = find_metric(vms[i], name);

        if (same && g_str_equal(json_get_text(same, "type"), type))
            put_samples(out, name, g_str_equal(type, type_names[METRIC_HISTOGRAM]),
                        json_string_value(json_object_get(vms[i], "vm")),
                        json_object_get(same, "samples"));
    }
}

char *metrics_text(json_t *const *vms, unsigned n)
{
    g_autoptr(GHashTable) done = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GString) out = g_string_new(NULL);
    json_t *metric;
    size_t at;

    for (unsigned i = 0; i < n; i++)
        json_array_foreach(json_object_get(vms[i], "metrics"), at, metric)
        {
            if (g_hash_table_add(done, (void *)json_get_text(metric, "name")))
                put_metric(out, metric, vms + i, n - i);
        }
    return g_string_free(g_steal_pointer(&out), FALSE);
}
