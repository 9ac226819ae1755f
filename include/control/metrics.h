/* What a VM counts and measures, for people and for Prometheus.
 *
 * One table describes every metric: name, type, unit, help and labels.  The monitor
 * fills it into JSON, which is what x-hutch-query-metrics returns; the text for
 * Prometheus is printed from that JSON, by the monitor itself for its HTTP endpoint or by
 * `hutch metrics` for many VMs.  Adding a metric: a row, and a line that measures it in
 * src/control/metrics_collect.c. */
#pragma once

#include <jansson.h>

#include "machine/machine.h"

typedef enum { METRIC_GAUGE, METRIC_COUNTER, METRIC_HISTOGRAM } MetricType;

enum { METRIC_MAX_LABELS = 3 };

typedef struct Metric {
    const char *name; /* Prometheus's: "hutch_disk_bytes_total" */
    MetricType type;
    const char *unit; /* "bytes", "seconds"; "": a number of things */
    const char *help;
    const char *labels[METRIC_MAX_LABELS]; /* NULL: no more */
} Metric;

typedef enum {
    METRIC_STATE,
    METRIC_UPTIME,
    METRIC_RESETS,
    METRIC_CPU,
    METRIC_THREAD_CPU,
    METRIC_VCPU_CPU,
    METRIC_VCPU_EXITS,
    METRIC_RAM,
    METRIC_RESIDENT,
    METRIC_PRIVATE,
    METRIC_SHARED,
    METRIC_SWAPPED,
    METRIC_FAULTS,
    METRIC_SWITCHES,
    METRIC_QUEUE_REQUESTS,
    METRIC_QUEUE_BYTES,
    METRIC_QUEUE_KICKS,
    METRIC_QUEUE_INTERRUPTS,
    METRIC_DISK_OPS,
    METRIC_DISK_BYTES,
    METRIC_DISK_ERRORS,
    METRIC_DISK_REFUSED,
    METRIC_DISK_LATENCY,
    METRIC_NET_FRAMES,
    METRIC_NET_BYTES,
    METRIC_NET_DROPPED,
    METRIC_NET_LINK,
    METRICS,
} MetricId;

extern const Metric metric_table[METRICS];

const char *metric_type_name(MetricType type); /* as Prometheus has it */

/* Main thread; reads a few files of /proc/self, and no page tables.  A new reference to
 *
 *     {"vm": "web", "metrics": [{"name", "type", "unit", "help",
 *          "samples": [{"labels": {"device": "disk0"}, "value": 12}]}]}
 *
 * where "vm" is there if it has a name, and a histogram's sample has "count", "sum" and
 * "buckets": [{"le": 0.001, "count": 3}], cumulative, without the last, unlimited one. */
json_t *metrics_collect(Machine *m);

/* Any thread.  The text for Prometheus (text exposition format 0.0.4) of what
 * metrics_collect() made in one or several monitors, of whatever version; each sample
 * gets a label "vm".  What is not as it should be is left out.  A new string. */
char *metrics_text(json_t *const *vms, unsigned n);

/* ---- the HTTP endpoint ------------------------------------------------------------ */

typedef struct MetricsServer MetricsServer;

/* Main thread.  Listens on `address`: "ADDR:PORT" ("[::1]:9100"), ":PORT" or "PORT" on
 * 127.0.0.1, "unix:PATH", or "unix", metrics.sock in the run folder of the VM `name`,
 * which has been claimed.  *ret is NULL if `address` is. */
bool metrics_server_open(const char *address, const char *name, MetricsServer **ret,
                         GError **error);

/* Main thread.  Serves while the loop runs; `text` makes what is served, on the loop, and
 * returns a new string. */
bool metrics_server_start(MetricsServer *s, IoLoop *loop, char *(*text)(void *opaque),
                          void *opaque, GError **error);

/* Serves the metrics of a machine.  NULL is fine for `s`. */
bool metrics_server_serve(MetricsServer *s, Machine *m, GError **error);

/* Main thread.  Ends all connections; the second removes the socket, too.  NULL is fine.
 */
void metrics_server_stop(MetricsServer *s);
void metrics_server_free(MetricsServer *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MetricsServer, metrics_server_free)

/* The port it listens on, of TCP; 0: none. */
unsigned metrics_server_port(const MetricsServer *s);
