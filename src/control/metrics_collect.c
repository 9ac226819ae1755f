/* What the metrics of a VM are right now: its threads' counters, and what the kernel says
 * of its process (proc(5)).  Page tables are not walked, so that it takes the main thread
 * a fraction of a millisecond however large the guest is. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "backend/block.h"
#include "control/control.h"
#include "control/metrics.h"
#include "kvm/vcpu.h"
#include "machine/hotplug.h"
#include "util/fd.h"
#include "virtio/blk.h"
#include "virtio/net.h"

/* ---- samples --------------------------------------------------------------------------
 */

typedef struct Collector {
    Machine *machine;
    json_t *samples[METRICS];
} Collector;

/* Adds a sample; the labels' values are in the order of the metric's row, NULL for those
 * it does not have. */
static void add_sample(Collector *c, MetricId id, json_t *sample, const char *first,
                       const char *second, const char *third)
{
    const char *const values[METRIC_MAX_LABELS] = {first, second, third};
    json_t *labels = json_object();

    for (unsigned i = 0; i < METRIC_MAX_LABELS && metric_table[id].labels[i]; i++)
        json_object_set_new(labels, metric_table[id].labels[i], control_text(values[i]));
    json_object_set_new(sample, "labels", labels);
    json_array_append_new(c->samples[id], sample);
}

static void add_count(Collector *c, MetricId id, uint64_t value, const char *first,
                      const char *second, const char *third)
{
    add_sample(c, id, json_pack("{s:I}", "value", (json_int_t)value), first, second,
               third);
}

static void add_seconds(Collector *c, MetricId id, double value, const char *first)
{
    add_sample(c, id, json_pack("{s:f}", "value", value), first, NULL, NULL);
}

static void add_histogram(Collector *c, MetricId id, const Histogram *h, uint64_t ns,
                          const char *first, const char *second)
{
    json_t *buckets = json_array();
    json_int_t count = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        count += (json_int_t)h->bucket[i];
        if (i < HISTOGRAM_BUCKETS - 1)
            json_array_append_new(buckets, json_pack("{s:f, s:I}", "le",
                                                     (double)histogram_bound(i) / 1e9,
                                                     "count", count));
    }
    add_sample(c, id,
               json_pack("{s:I, s:f, s:o}", "count", count, "sum", (double)ns / 1e9,
                         "buckets", buckets),
               first, second, NULL);
}

/* ---- the process ----------------------------------------------------------------------
 */

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

static void collect_usage(Collector *c)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u) < 0)
        return;
    add_seconds(c, METRIC_CPU, seconds(&u.ru_utime), "user");
    add_seconds(c, METRIC_CPU, seconds(&u.ru_stime), "system");
    add_count(c, METRIC_FAULTS, (uint64_t)u.ru_minflt, "minor", NULL, NULL);
    add_count(c, METRIC_FAULTS, (uint64_t)u.ru_majflt, "major", NULL, NULL);
    add_count(c, METRIC_SWITCHES, (uint64_t)u.ru_nvcsw, "voluntary", NULL, NULL);
    add_count(c, METRIC_SWITCHES, (uint64_t)u.ru_nivcsw, "involuntary", NULL, NULL);
}

/* The lines of /proc/self/status that are summed up for a metric. */
static const struct {
    const char *line;
    MetricId id;
} memory_lines[] = {
    {"VmRSS:", METRIC_RESIDENT}, {"RssAnon:", METRIC_PRIVATE},
    {"RssFile:", METRIC_SHARED}, {"RssShmem:", METRIC_SHARED},
    {"VmSwap:", METRIC_SWAPPED},
};

static void collect_memory(Collector *c)
{
    uint64_t kib[METRICS] = {0};
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];

    add_count(c, METRIC_RAM, machine_memory(c->machine)->size, NULL, NULL, NULL);
    if (!status)
        return;
    while (fgets(line, sizeof(line), status))
        for (unsigned i = 0; i < G_N_ELEMENTS(memory_lines); i++)
            if (g_str_has_prefix(line, memory_lines[i].line))
                kib[memory_lines[i].id] += strtoull(line + strlen(memory_lines[i].line),
                                                    NULL, 10);
    fclose(status);
    for (MetricId id = METRIC_RESIDENT; id <= METRIC_SWAPPED; id++)
        add_count(c, id, kib[id] * 1024, NULL, NULL, NULL);
}

/* ---- threads --------------------------------------------------------------------------
 */

/* The clock that counts the processor time of a thread of ours, made from its id as
 * pthread_getcpuclockid() does it.  0 if it is gone. */
static double thread_seconds(int tid)
{
    clockid_t id = (clockid_t)(~(unsigned)tid << 3 | 6);
    struct timespec t;

    return clock_gettime(id, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec / 1e9 : 0;
}

static bool read_name(const char *tid, char *ret, size_t size)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%s/comm", tid);
    FILE *file = fopen(path, "re");
    bool ok = file && fgets(ret, (int)size, file);

    if (file)
        fclose(file);
    if (ok)
        ret[strcspn(ret, "\n")] = '\0';
    return ok;
}

/* Threads of one name, such as a disk's workers, are one sample; the kernel names those
 * of io_uring by number. */
static void collect_threads(Collector *c)
{
    json_t *sums = json_object(), *sum;
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    const char *key;
    char name[32];

    while (tasks && (entry = readdir(tasks)))
        if (entry->d_name[0] != '.' && read_name(entry->d_name, name, sizeof(name))) {
            bool uring = g_str_has_prefix(name, "iou-");
            g_autofree char *valid = g_utf8_make_valid(uring ? "io_uring" : name, -1);
            double before = json_real_value(json_object_get(sums, valid));

            json_object_set_new(sums, valid,
                                json_real(before + thread_seconds(atoi(entry->d_name))));
        }
    if (tasks)
        closedir(tasks);
    json_object_foreach(sums, key, sum)
        add_seconds(c, METRIC_THREAD_CPU, json_real_value(sum), key);
    json_decref(sums);
}

static void collect_vcpus(Collector *c)
{
    for (unsigned i = 0; i < machine_n_vcpus(c->machine); i++) {
        char index[16];

        g_snprintf(index, sizeof(index), "%u", i);
        add_seconds(c, METRIC_VCPU_CPU, thread_seconds(machine_vcpu_tid(c->machine, i)),
                    index);
        for (unsigned reason = 0; reason < VCPU_EXIT_REASONS; reason++) {
            uint64_t n = machine_vcpu_exits(c->machine, i, reason);

            if (n) /* most never happen, and there may be many vCPUs */
                add_count(c, METRIC_VCPU_EXITS, n, index, vcpu_exit_name(reason), NULL);
        }
    }
}

/* ---- devices --------------------------------------------------------------------------
 */

static void collect_queues(Collector *c, const VirtioDevice *v)
{
    for (unsigned i = 0; i < v->n_queues; i++) {
        const VqCounters *n = &v->queues[i].vq.count;
        char queue[16];

        g_snprintf(queue, sizeof(queue), "%u", i);
        add_count(c, METRIC_QUEUE_REQUESTS, counter_read(&n->requests), v->id, queue,
                  NULL);
        add_count(c, METRIC_QUEUE_BYTES, counter_read(&n->bytes_read), v->id, queue,
                  "from-driver");
        add_count(c, METRIC_QUEUE_BYTES, counter_read(&n->bytes_written), v->id, queue,
                  "to-driver");
        add_count(c, METRIC_QUEUE_KICKS, counter_read(&n->kicks), v->id, queue, NULL);
        add_count(c, METRIC_QUEUE_INTERRUPTS, counter_read(&n->interrupts), v->id, queue,
                  "raised");
        add_count(c, METRIC_QUEUE_INTERRUPTS, counter_read(&n->suppressed), v->id, queue,
                  "suppressed");
    }
}

static void collect_disk(Collector *c, const char *id, BlockDev *disk)
{
    static const char *const ops[BLOCK_COUNTS] = {
        [BLOCK_COUNT_READ] = "read",
        [BLOCK_COUNT_WRITE] = "write",
        [BLOCK_COUNT_FLUSH] = "flush",
        [BLOCK_COUNT_DISCARD] = "discard",
    };
    BlockStats s;

    block_stats(disk, &s);
    for (unsigned i = 0; i < BLOCK_COUNTS; i++) {
        const BlockCounters *n = &s.of[i];

        add_count(c, METRIC_DISK_OPS, n->ops, id, ops[i], NULL);
        if (i != BLOCK_COUNT_FLUSH)
            add_count(c, METRIC_DISK_BYTES, n->bytes, id, ops[i], NULL);
        add_count(c, METRIC_DISK_ERRORS, n->failed, id, ops[i], NULL);
        add_count(c, METRIC_DISK_REFUSED, n->refused, id, ops[i], NULL);
        add_histogram(c, METRIC_DISK_LATENCY, &n->times, n->ns, id, ops[i]);
    }
}

static void collect_net(Collector *c, const char *id, const NetStats *s)
{
    const struct {
        const char *direction;
        const NetCounters *n;
    } both[] = {{"rx", &s->rx}, {"tx", &s->tx}};

    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        add_count(c, METRIC_NET_FRAMES, both[i].n->frames, id, both[i].direction, NULL);
        add_count(c, METRIC_NET_BYTES, both[i].n->bytes, id, both[i].direction, NULL);
        add_count(c, METRIC_NET_DROPPED, both[i].n->dropped, id, both[i].direction, NULL);
    }
}

/* The name of a network, or what kind of wire it is. */
static const char *network_of(const VirtioDevice *v)
{
    const json_t *wire = virtio_net_wire(v);

    return json_get_text(wire, json_object_get(wire, "network") ? "network" : "type");
}

static void collect_devices(Collector *c)
{
    MachineDevice d;
    NetStats net;
    bool up;

    for (unsigned i = 0; machine_device(c->machine, i, &d); i++) {
        BlockDev *disk = virtio_blk_dev(d.virtio);

        collect_queues(c, d.virtio);
        if (disk)
            collect_disk(c, d.virtio->id, disk);
        if (virtio_net_stats(d.virtio, &net))
            collect_net(c, d.virtio->id, &net);
        if (virtio_net_link(d.virtio, &up))
            add_count(c, METRIC_NET_LINK, up, d.virtio->id, network_of(d.virtio), NULL);
    }
}

/* ---- all ------------------------------------------------------------------------------
 */

static json_t *describe(const Metric *m, json_t *samples)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", m->name, "type",
                     metric_type_name(m->type), "unit", m->unit, "help", m->help,
                     "samples", samples);
}

json_t *metrics_collect(Machine *m)
{
    const char *name = machine_config(m)->name;
    json_t *metrics = json_array(), *all = json_object();
    Collector c = {.machine = m};

    for (unsigned id = 0; id < METRICS; id++)
        c.samples[id] = json_array();
    add_count(&c, METRIC_STATE, 1, machine_state_name(machine_state(m)), NULL, NULL);
    add_seconds(&c, METRIC_UPTIME, machine_uptime(m), NULL);
    add_count(&c, METRIC_RESETS, machine_resets(m), NULL, NULL, NULL);
    collect_usage(&c);
    collect_memory(&c);
    collect_threads(&c);
    collect_vcpus(&c);
    collect_devices(&c);
    for (unsigned id = 0; id < METRICS; id++)
        json_array_append_new(metrics, describe(&metric_table[id], c.samples[id]));
    if (name)
        json_object_set_new(all, "vm", control_text(name));
    json_object_set_new(all, "metrics", metrics);
    return all;
}
