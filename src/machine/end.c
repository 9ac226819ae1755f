/* How a VM ends, and who is told of what happens to it: guests, devices, vCPUs, keys,
 * signals, the time limit and the control socket come together here.  The first to claim
 * the end wins.  Any thread may claim it; the rest is the main thread's. */
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/gmlost.h"
#include "kvm/arch.h"
#include "machine_private.h"
#include "util/counter.h"

static const struct {
    const char *reason;
    int status;
    bool guest;        /* its own doing */
    const char *cause; /* QMP's ShutdownCause */
} ends[] = {
    [END_NONE] = {"none", 125, false, "none"},
    [END_POWER_OFF] = {"power-off", 0, true, "guest-shutdown"},
    [END_RESET] = {"reset", 0, true, "guest-reset"},
    [END_DEBUG_EXIT] = {"debug-exit", 0, true, "guest-shutdown"},
    [END_TIMEOUT] = {"timeout", 124, false, "host-signal"},
    [END_ERROR] = {"error", 125, false, "host-error"},
    [END_CRASH] = {"crash", 126, true, "guest-panic"},
    [END_PANIC] = {"panic", 127, true, "guest-panic"},
    [END_QUIT] = {"quit", 128, false, "host-signal"},
};

const char *machine_end_reason(MachineEnd end)
{
    return ends[end].reason;
}

void machine_result_clear(MachineResult *r)
{
    g_free(r->detail);
    json_decref(r->times);
    json_decref(r->counters);
    *r = (MachineResult){0};
}

/* ---- who is told --------------------------------------------------------------- */

void machine_set_listener(Machine *m, const MachineListener *listener)
{
    m->listener = listener;
}

void machine_event(Machine *m, const char *name, json_t *data)
{
    if (m->listener)
        m->listener->event(m->listener->opaque, name, data);
    else
        json_decref(data);
}

void machine_on_device_event(void *opaque, const char *name, json_t *data)
{
    machine_event(opaque, name, data);
}

void machine_tell_cause(Machine *m, const char *name, bool guest, const char *cause)
{
    if (m->listener)
        machine_event(m, name, json_pack("{s:b, s:s}", "guest", guest, "reason", cause));
}

/* ---- how it ends --------------------------------------------------------------- */

void machine_end_with(Machine *m, MachineEnd end, int number, const char *text)
{
    int none = END_NONE;

    if (!__atomic_compare_exchange_n(&m->end, &none, end, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return;
    m->end_number = number;
    m->end_text = g_strdup(text);
    ioloop_post(m->main, &m->end_post); /* publishes both */
}

static void on_end(void *opaque)
{
    Machine *m = opaque;
    MachineEnd end = (MachineEnd)__atomic_load_n(&m->end, __ATOMIC_ACQUIRE);
    bool by_control = end == END_QUIT && m->quit_wanted;

    m->state = STATE_SHUTDOWN;
    if (end == END_PANIC && m->listener)
        machine_event(m, "GUEST_PANICKED", json_pack("{s:s}", "action", "poweroff"));
    machine_tell_cause(m, "SHUTDOWN", ends[end].guest,
                       by_control ? "host-qmp-quit" : ends[end].cause);
    ioloop_quit(m->main);
}

static void on_power_off(void *opaque)
{
    machine_end_with(opaque, END_POWER_OFF, 0, "the guest powered off");
}

static void on_panic(void *opaque)
{
    machine_end_with(opaque, END_PANIC, 0, "the guest's kernel panicked");
}

static void on_debug_exit(void *opaque, unsigned status)
{
    machine_end_with(opaque, END_DEBUG_EXIT, (int)status,
                     "the guest gave its exit status");
}

static void on_user_output(void *opaque)
{
    machine_event(opaque, "X_HUTCH_USER_OUTPUT", NULL);
}

static void on_reset(void *opaque)
{
    Machine *m = opaque;

    if (m->config->no_reboot)
        machine_end_with(m, END_RESET, 0,
                         "the guest asked for a reboot, which --no-reboot forbids");
    __atomic_store_n(&m->reset_wanted, true, __ATOMIC_RELEASE);
    ioloop_post(m->main, &m->reset_post);
}

void machine_on_vcpu_ended(void *opaque, Vcpu *c, VcpuEnd end, const char *text)
{
    Machine *m = opaque;

    switch (end) {
    case VCPU_SHUTDOWN: {
        g_autofree char *where = arch_vcpu_describe(c, NULL, 0);
        g_autofree char *what = g_strdup_printf("%s, last at %s", text, where);

        machine_end_with(m, END_CRASH, 0, what);
        break;
    }
    case VCPU_MEMORY: {
        g_autofree char *what = g_strdup_printf(
            "vCPU %u: KVM could not reach guest memory, at %s", c->index, text);

        if (m->gm.lost)
            gm_lose(&m->gm, what);
        else
            machine_end_with(m, END_CRASH, 0, what);
        break;
    }
    case VCPU_CRASH:
        machine_end_with(m, END_CRASH, 0, text);
        break;
    case VCPU_POWER_OFF_EVENT:
        on_power_off(m);
        break;
    case VCPU_RESET_EVENT:
        on_reset(m);
        break;
    }
}

PlatformEvents machine_platform_events(Machine *m)
{
    return (PlatformEvents){on_power_off,  on_reset,       on_panic,
                            on_debug_exit, on_user_output, m};
}

static void on_timeout(void *opaque)
{
    machine_end_with(opaque, END_TIMEOUT, 0, "the time limit of --timeout is over");
}

void machine_limit_time(Machine *m)
{
    if (m->config->timeout_s)
        ioloop_timer(m->main, &m->timeout,
                     clock_ns() + (int64_t)m->config->timeout_s * 1000000000, on_timeout,
                     m);
}

static void on_power_button(void *opaque)
{
    machine_power_button(opaque);
}

static void on_nmi(void *opaque)
{
    machine_nmi(opaque);
}

/* On the loop of the chardev that has the terminal, which may be an I/O thread's, and
 * may run before the vCPUs are there and after they are gone. */
static void on_key(void *opaque, char key)
{
    Machine *m = opaque;

    switch (key) {
    case 'x':
        machine_end_with(m, END_QUIT, SIGINT, "quit by Ctrl-A x");
        break;
    case 'p':
        ioloop_post(m->main, &m->power_post);
        break;
    case 'n':
        ioloop_post(m->main, &m->nmi_post);
        break;
    }
}

static void on_signal(void *opaque, uint32_t events)
{
    Machine *m = opaque;
    struct signalfd_siginfo info;

    while (read(m->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGPWR)
            machine_power_button(m);
        else
            machine_end_with(m, END_QUIT, (int)info.ssi_signo, "ended by a signal");
    }
}

void machine_quit(Machine *m)
{
    m->quit_wanted = true;
    machine_end_with(m, END_QUIT, SIGTERM, "quit by the control socket");
}

bool machine_take_signals(Machine *m, GError **error)
{
    static const int taken[] = {SIGINT, SIGTERM, SIGHUP, SIGPWR};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < G_N_ELEMENTS(taken); i++)
        sigaddset(&set, taken[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m->signal_fd < 0)
        return fail_errno(error, "make a signalfd");
    return ioloop_watch(m->main, &m->signals, m->signal_fd, EPOLLIN, on_signal, m, error);
}

void machine_end_init(Machine *m)
{
    m->end_post = (IoPost){.fn = on_end, .opaque = m};
    m->power_post = (IoPost){.fn = on_power_button, .opaque = m};
    m->nmi_post = (IoPost){.fn = on_nmi, .opaque = m};
    chardev_set_escape(on_key, m);
}

/* ---- the result ---------------------------------------------------------------- */

static json_t *exit_counters(const Machine *m)
{
    uint64_t pio = 0, mmio = 0, interrupted = 0, other = 0;

    for (unsigned i = 0; i < m->n_vcpus; i++)
        for (unsigned reason = 0; reason < VCPU_EXIT_REASONS; reason++)
            *(reason == KVM_EXIT_IO     ? &pio
              : reason == KVM_EXIT_MMIO ? &mmio
              : reason == KVM_EXIT_INTR
                  ? &interrupted
                  : &other) += counter_read(&m->vcpus[i]->exits[reason]);
    return json_pack("{s:I, s:I, s:I, s:I}", "pio", (json_int_t)pio, "mmio",
                     (json_int_t)mmio, "interrupted", (json_int_t)interrupted, "other",
                     (json_int_t)other);
}

void machine_describe_result(const Machine *m, MachineResult *ret)
{
    MachineEnd end = (MachineEnd)m->end;

    *ret = (MachineResult){
        .end = end,
        .status = ends[end].status,
        .reason = machine_end_reason(end),
        .detail = g_strdup(m->end_text),
        .times = json_pack("{s:f, s:f}", "setup_s",
                           (double)(m->entered_ns - m->started_ns) / 1e9, "run_s",
                           (double)(m->ended_ns - m->entered_ns) / 1e9),
        .counters = json_pack("{s:o, s:I, s:o}", "exits", exit_counters(m), "resets",
                              (json_int_t)m->resets, "devices",
                              hotplug_counters(m->hotplug)),
    };
    if (end == END_DEBUG_EXIT)
        ret->status = m->end_number;
    if (end == END_QUIT)
        ret->status += m->end_number;
}
