/* See monitor.h: control sockets, machine, and what is said of its beginning and end to
 * people, to the service manager, and to whoever looks into the run folder. */
#include "src/cli/monitor.h"

#include <stdio.h>
#include <stdlib.h>

#include "control/control.h"
#include "control/metrics.h"
#include "machine/machine.h"
#include "snapshot/restore.h"
#include "util/log.h"
#include "util/service.h"

/* ---- its folder -----------------------------------------------------------------------
 */

/* What it was made from: as the user has said it, before a detached VM's console is put
 * elsewhere. */
static bool write_config(Config *cfg, const Place *place, GError **error)
{
    char *text;
    bool ok;

    if (!place->folder)
        return true;
    cfg->said = config_to_json(cfg);
    text = json_dumps(cfg->said, JSON_INDENT(2));
    ok = place_write(place, PLACE_CONFIG, text ? text : "{}", error);
    free(text);
    return ok;
}

/* What it goes on from; none for a VM that boots. */
static bool write_origin(const MachineRestore *restore, const Place *place,
                         GError **error)
{
    json_t *origin = restore && place->folder ? snapshot_restore_origin(restore) : NULL;
    char *text = origin ? json_dumps(origin, JSON_COMPACT) : NULL;
    bool ok = !text || place_write(place, PLACE_ORIGIN, text, error);

    free(text);
    json_decref(origin);
    return ok;
}

static json_t *result_json(const MachineResult *r)
{
    /* Names of files may be any bytes, JSON may not. */
    g_autofree char *detail = g_utf8_make_valid(r->detail ? r->detail : "", -1);

    return json_pack("{s:i, s:s, s:s, s:O, s:O}", "status", r->status, "reason",
                     r->reason, "detail", detail, "times", r->times, "counters",
                     r->counters);
}

static char *result_text(const MachineResult *r)
{
    json_t *json = result_json(r);
    char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6));

    json_decref(json);
    return text;
}

static void write_result(const MachineResult *r, const Place *place)
{
    char *text = result_text(r);
    g_autoptr(GError) error = NULL;

    if (text && !place_write(place, PLACE_RESULT, text, &error))
        log_error("%s", error->message);
    free(text);
}

/* The last line on stderr, after the machine has given back the terminal. */
static void print_result(const MachineResult *r)
{
    char *text = result_text(r);

    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
}

/* ---- running it -----------------------------------------------------------------------
 */

static bool open_control(const Config *cfg, Place *place, Detach *detach,
                         ControlServer **ret, GError **error)
{
    ControlOptions options = {.place = place->folder ? place : NULL,
                              .path = cfg->control,
                              .readonly = cfg->control_readonly,
                              .tap = detach->on ? detach_event : NULL,
                              .opaque = detach};

    if (!control_open(&options, ret, error))
        return false;
    return !cfg->paused || options.place || options.path ||
           fail(error, VM_ERROR_INVALID,
                "--paused: nobody could start it without a control socket; give --name "
                "or --control");
}

/* The service manager is told by who is its child: not by a monitor that went away. Lines
 * are assignments there, and a sentence may quote the name of a file. */
static void tell_service(const Detach *detach, const char *state, const char *detail)
{
    g_autofree char *line = g_strdelimit(g_strdup(detail), "\n", ' ');
    g_autofree char *text = g_strdup_printf("%s=1\nSTATUS=%s", state, line);

    if (!detach->on)
        service_notify(text);
}

static bool run_machine(Config *cfg, const MachineRestore *restore, Place *place,
                        Detach *detach, MachineResult *ret, GError **error)
{
    g_autoptr(ControlServer) control = NULL; /* outlives the machine, which tells it of
                                                events */
    g_autoptr(MetricsServer) metrics = NULL;
    g_autoptr(Machine) m = NULL;

    if (!open_control(cfg, place, detach, &control, error) ||
        !metrics_server_open(cfg->metrics, place->folder ? cfg->name : NULL, &metrics,
                             error) ||
        !write_config(cfg, place, error) || !write_origin(restore, place, error) ||
        !detach_settle(detach, cfg, place, error) ||
        !(m = machine_new(cfg, restore, cli_started_ns, error)) ||
        !metrics_server_serve(metrics, m, error) ||
        (control && !control_start(control, m, error))) {
        metrics_server_stop(metrics);
        return false;
    }
    detach_running(detach, cfg);
    tell_service(detach, "READY", "the VM runs");
    machine_run(m, ret);
    metrics_server_stop(metrics);
    tell_service(detach, "STOPPING", ret->detail ? ret->detail : ret->reason);
    if (control)
        control_event(control, "X_HUTCH_RESULT", result_json(ret));
    control_stop(control);
    return true;
}

/* What went wrong is said in a sentence as well; other ends speak by their status. */
static bool is_failure(MachineEnd end)
{
    return end == END_TIMEOUT || end == END_ERROR || end == END_CRASH || end == END_PANIC;
}

static MachineResult cannot(const char *sentence)
{
    return (MachineResult){.end = END_ERROR,
                           .status = EXIT_CANNOT,
                           .reason = machine_end_reason(END_ERROR),
                           .detail = g_strdup(sentence),
                           .times = json_object(),
                           .counters = json_object()};
}

int monitor_run(Config *cfg, const MachineRestore *restore, Place *place, Detach *detach)
{
    g_autoptr(GError) error = NULL;
    MachineResult result = {0};
    bool ran = run_machine(cfg, restore, place, detach, &result, &error);
    const char *sentence;
    int status;

    if (!ran)
        result = cannot(error->message);
    sentence = result.detail ? result.detail : result.reason;
    if (is_failure(result.end))
        log_error("%s", sentence);
    if (cfg->json)
        print_result(&result);
    status = result.status;
    if (ran && detach->on)
        write_result(&result, place);
    if (ran)
        detach_ended(detach, sentence, status);
    if (!ran && restore)
        snapshot_restore_undo(restore->opaque);
    if (ran && detach->on)
        place_keep(place);
    else
        place_release(place);
    if (!ran)
        detach_failed(detach, sentence, status);
    machine_result_clear(&result);
    detach_finish(detach);
    return status;
}
