/* x-hutch-query-metrics: all that a VM counts and measures, by the table of metrics. */
#include "control/control.h"
#include "control/metrics.h"

static const ControlType bucket = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"le", &control_number}, {"count", &control_int}),
};
static const ControlType buckets = {.kind = CONTROL_ARRAY, .element = &bucket};
static const ControlType sample = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"labels", &control_any}, {"value", &control_number, true},
                               {"count", &control_int, true},
                               {"sum", &control_number, true},
                               {"buckets", &buckets, true}),
};
static const ControlType samples = {.kind = CONTROL_ARRAY, .element = &sample};
static const char *const type_values[] = {"gauge", "counter", "histogram", NULL};
static const ControlType type = {.kind = CONTROL_ENUM, .values = type_values};
static const ControlType metric = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"name", &control_str}, {"type", &type},
                               {"unit", &control_str}, {"help", &control_str},
                               {"samples", &samples}),
};
static const ControlType metrics = {.kind = CONTROL_ARRAY, .element = &metric};
static const ControlType answer = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"vm", &control_str, true}, {"metrics", &metrics}),
};

static json_t *query_metrics(ControlCall *call, GError **error)
{
    return metrics_collect(call->machine);
}

static const ControlCommand commands[] = {
    {"x-hutch-query-metrics", NULL, &answer, CONTROL_QUERY, query_metrics},
    {0},
};

static const ControlEvent events[] = {{0}};

const ControlTable control_metrics_table = {commands, events};
