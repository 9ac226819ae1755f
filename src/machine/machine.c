/* See machine/machine.h. */
#include "machine/machine.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include "core/gmlost.h"
#include "kvm/arch.h"
#include "machine_private.h"
#include "util/counter.h"
#include "util/fd.h"

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

/* ---- who is told ----------------------------------------------------------------------
 */

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

/* A device's, on any thread. */
static void on_device_event(void *opaque, const char *name, json_t *data)
{
    machine_event(opaque, name, data);
}

/* RESET and SHUTDOWN */
static void tell_cause(Machine *m, const char *name, bool guest, const char *cause)
{
    if (m->listener)
        machine_event(m, name, json_pack("{s:b, s:s}", "guest", guest, "reason", cause));
}

/* ---- how it ends ----------------------------------------------------------------------
 */

/* Any thread. */
static void end_with(Machine *m, MachineEnd end, int number, const char *text)
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
    tell_cause(m, "SHUTDOWN", ends[end].guest,
               by_control ? "host-qmp-quit" : ends[end].cause);
    ioloop_quit(m->main);
}

static void on_power_off(void *opaque)
{
    end_with(opaque, END_POWER_OFF, 0, "the guest powered off");
}

static void on_panic(void *opaque)
{
    end_with(opaque, END_PANIC, 0, "the guest's kernel panicked");
}

static void on_debug_exit(void *opaque, unsigned status)
{
    end_with(opaque, END_DEBUG_EXIT, (int)status, "the guest gave its exit status");
}

static void on_user_output(void *opaque)
{
    machine_event(opaque, "X_HUTCH_USER_OUTPUT", NULL);
}

static void on_reset(void *opaque)
{
    Machine *m = opaque;

    if (m->config->no_reboot)
        end_with(m, END_RESET, 0,
                 "the guest asked for a reboot, which --no-reboot forbids");
    __atomic_store_n(&m->reset_wanted, true, __ATOMIC_RELEASE);
    ioloop_post(m->main, &m->reset_post);
}

static void on_vcpu_ended(void *opaque, Vcpu *c, VcpuEnd end, const char *text)
{
    Machine *m = opaque;

    switch (end) {
    case VCPU_SHUTDOWN: {
        g_autofree char *where = arch_vcpu_describe(c, NULL, 0);
        g_autofree char *what = g_strdup_printf("%s, last at %s", text, where);

        end_with(m, END_CRASH, 0, what);
        break;
    }
    case VCPU_MEMORY: {
        g_autofree char *what = g_strdup_printf(
            "vCPU %u: KVM could not reach guest memory, at %s", c->index, text);

        if (m->gm.lost)
            gm_lose(&m->gm, what);
        else
            end_with(m, END_CRASH, 0, what);
        break;
    }
    case VCPU_CRASH:
        end_with(m, END_CRASH, 0, text);
        break;
    case VCPU_POWER_OFF_EVENT:
        on_power_off(m);
        break;
    case VCPU_RESET_EVENT:
        on_reset(m);
        break;
    }
}

static void on_timeout(void *opaque)
{
    end_with(opaque, END_TIMEOUT, 0, "the time limit of --timeout is over");
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
        end_with(m, END_QUIT, SIGINT, "quit by Ctrl-A x");
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
            end_with(m, END_QUIT, (int)info.ssi_signo, "ended by a signal");
    }
}

/* ---- pause, resume, reset
 * --------------------------------------------------------------- */

enum { PARK_LOOK_MS = 2 };

static void park_vcpus(Machine *m)
{
    for (unsigned i = 0; i < m->n_vcpus; i++)
        vcpu_request_pause(m->vcpus[i]);
    for (unsigned i = 0; i < m->n_vcpus; i++)
        vcpu_wait_parked(m->vcpus[i]);
}

static void unpark_vcpus(Machine *m)
{
    for (unsigned i = 0; i < m->n_vcpus; i++)
        vcpu_resume(m->vcpus[i]);
}

/* A vCPU that sleeps because RAM was lost does not come; what was lost is told by an
 * event, which stays for on_lost(). */
static bool comes_to_park(Machine *m, Vcpu *c)
{
    struct pollfd lost = {m->gm.lost->fd, POLLIN, 0};

    while (!vcpu_wait_parked_for(c, PARK_LOOK_MS))
        if (poll(&lost, 1, 0) == 1)
            return false;
    return true;
}

bool machine_park(Machine *m)
{
    if (m->pauses)
        return true;
    if (m->frozen)
        return false;
    if (!m->gm.lost) {
        park_vcpus(m);
        return true;
    }
    for (unsigned i = 0; i < m->n_vcpus; i++)
        vcpu_request_pause(m->vcpus[i]);
    for (unsigned i = 0; i < m->n_vcpus; i++)
        if (!comes_to_park(m, m->vcpus[i])) {
            unpark_vcpus(m); /* on_lost() is next */
            return false;
        }
    return true;
}

void machine_unpark(Machine *m)
{
    if (!m->pauses)
        unpark_vcpus(m);
}

void machine_pause(Machine *m)
{
    if (m->pauses++)
        return;
    park_vcpus(m);
    board_quiesce(m->board);
    hotplug_quiesce(m->hotplug);
}

void machine_resume(Machine *m)
{
    if (--m->pauses)
        return;
    board_resume(m->board);
    unpark_vcpus(m);
}

/* Everything as at power-on: devices, interrupt controllers, registers, RAM. */
static bool power_on(Machine *m, GError **error)
{
    BootEntry entry;

    if (m->no_kernel)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "a reset needs the kernel, which was not there when the VM was "
                    "restored from its snapshot: %s",
                    m->no_kernel);
    if (m->resets) {
        hotplug_reset(m->hotplug);
        board_reset(m->board);
        if (!arch_vm_reset(m->kvm, error))
            return false;
        for (unsigned i = 0; i < m->n_vcpus; i++)
            if (!arch_vcpu_reset(m->vcpus[i], error))
                return false;
        gm_clear(&m->gm);
    }
    return board_load(m->board, &entry, error) &&
           arch_vcpu_enter(m->vcpus[0], &entry, error);
}

static void reset_now(Machine *m, bool guest, const char *cause)
{
    g_autoptr(GError) error = NULL;

    machine_pause(m);
    /* Kernels ask again until they are gone: it is the same reset. */
    __atomic_store_n(&m->reset_wanted, false, __ATOMIC_RELAXED);
    m->resets++;
    if (!power_on(m, &error)) {
        end_with(m, END_ERROR, 0, error->message);
        return;
    }
    tell_cause(m, "RESET", guest, cause);
    machine_resume(m);
}

static void do_reset(void *opaque)
{
    Machine *m = opaque;

    if (m->frozen)
        return; /* machine_cont() asks again */
    if (__atomic_load_n(&m->end, __ATOMIC_ACQUIRE) != END_NONE ||
        !__atomic_load_n(&m->reset_wanted, __ATOMIC_ACQUIRE))
        return;
    reset_now(m, true, "guest-reset");
}

void machine_reset(Machine *m)
{
    if (__atomic_load_n(&m->end, __ATOMIC_ACQUIRE) == END_NONE)
        reset_now(m, false, "host-qmp-system-reset");
}

/* ---- stop and cont
 * ---------------------------------------------------------------------- */

static const char *const state_names[] = {
    [STATE_PRELAUNCH] = "prelaunch", [STATE_RUNNING] = "running",
    [STATE_PAUSED] = "paused",       [STATE_IO_ERROR] = "io-error",
    [STATE_SHUTDOWN] = "shutdown",
};

const char *machine_state_name(MachineState state)
{
    return state_names[state];
}

MachineState machine_state(const Machine *m)
{
    return m->state;
}

void machine_stop(Machine *m, MachineState why)
{
    if (m->state != STATE_RUNNING)
        return;
    machine_pause(m);
    m->state = why;
    machine_event(m, "STOP", NULL);
}

/* Guest RAM cannot be read, and who wants it sleeps until gm_retry(): whoever it is, it
 * cannot be waited for. */
static void on_lost(void *opaque, uint32_t events)
{
    Machine *m = opaque;
    g_autofree char *why = gm_lost_take(&m->gm);

    if (!why || m->frozen)
        return;
    machine_event(m, "X_HUTCH_MEMORY_ERROR", json_pack("{s:s}", "reason", why));
    if (log_limit(&m->lost_log))
        log_warn("the VM stops: %s; 'cont' on its control socket tries again", why);
    if (m->state != STATE_RUNNING)
        return; /* it goes on when it is continued, which tries again */
    for (unsigned i = 0; i < m->n_vcpus; i++)
        vcpu_request_pause(m->vcpus[i]);
    __atomic_store_n(&m->frozen, true, __ATOMIC_RELAXED);
    m->state = STATE_IO_ERROR;
    machine_event(m, "STOP", NULL);
}

bool machine_frozen(const Machine *m)
{
    return m && __atomic_load_n(&m->frozen, __ATOMIC_RELAXED);
}

static void thaw(Machine *m)
{
    __atomic_store_n(&m->frozen, false, __ATOMIC_RELAXED);
    m->state = STATE_RUNNING;
    machine_event(m, "RESUME", NULL);
    gm_retry(&m->gm);
    unpark_vcpus(m);
    ioloop_post(m->main, &m->reset_post); /* if one was asked for meanwhile */
    hotplug_thawed(m->hotplug);
}

void machine_cont(Machine *m)
{
    if (m->state == STATE_RUNNING || m->state == STATE_SHUTDOWN)
        return;
    if (m->frozen) {
        thaw(m);
        return;
    }
    gm_retry(&m->gm);
    /* What devices asked for until now, they hold back, and ask for again if need be: a
     * post that is still on its way must not stop the VM once more. */
    lock_acquire(&m->stop_lock);
    m->stop_id[0] = '\0';
    lock_release(&m->stop_lock);
    m->state = STATE_RUNNING;
    machine_event(m, "RESUME", NULL);
    machine_resume(m);
}

/* A device's I/O thread, or any other: its guest is to be stopped. */
static void on_device_stop(void *opaque, const char *id)
{
    Machine *m = opaque;

    lock_acquire(&m->stop_lock);
    g_strlcpy(m->stop_id, id, sizeof(m->stop_id));
    lock_release(&m->stop_lock);
    ioloop_post(m->main, &m->stop_post);
}

static void stop_for_device(void *opaque)
{
    Machine *m = opaque;
    char id[sizeof(m->stop_id)];

    if (m->state != STATE_RUNNING)
        return;
    lock_acquire(&m->stop_lock);
    memcpy(id, m->stop_id, sizeof(id));
    m->stop_id[0] = '\0';
    lock_release(&m->stop_lock);
    if (!id[0])
        return; /* it has stopped for that before, and was continued since */
    machine_stop(m, STATE_IO_ERROR);
    if (log_limit(&m->stop_log))
        log_warn("%s: an I/O error stopped the VM; 'cont' on its control socket tries "
                 "again",
                 id);
}

void machine_power_button(Machine *m)
{
    board_power_button(m->board);
    machine_event(m, "POWERDOWN", NULL);
}

void machine_nmi(Machine *m)
{
    vcpu_nmi(m->vcpus[0]);
}

const Chardev *machine_serial_chardev(Machine *m, unsigned n)
{
    return board_serial_chardev(m->board, n);
}

void machine_quit(Machine *m)
{
    m->quit_wanted = true;
    end_with(m, END_QUIT, SIGTERM, "quit by the control socket");
}

/* ---- making it
 * ---------------------------------------------------------------------------- */

/* Before any thread starts, so that all inherit the mask and only signal_fd sees them. */
static bool take_signals(Machine *m, GError **error)
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

/* User networking holds a descriptor for each connection of the guest. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit); /* the old limit does, only for less */
    }
}

static bool make_loops(Machine *m, GError **error)
{
    return (m->main = ioloop_new(error)) && take_signals(m, error);
}

static bool make_memory(Machine *m, GError **error)
{
    const MachineRestore *restore = m->restore;
    GuestMemOptions options = m->config->memory;

    /* What a restore fills in is not to be touched before, page by page. */
    options.prealloc &= !restore;
    return gm_init(&m->gm, &options, error) &&
           board_memory(&m->gm, options.size, error) &&
           (!restore || restore->fill(restore->opaque, &m->gm, error)) &&
           (!m->gm.lost ||
            ioloop_watch(m->main, &m->lost, m->gm.lost->fd, EPOLLIN, on_lost, m, error));
}

/* Memory slots come before the interrupt controllers: after them each costs milliseconds
 * on hosts without hardware virtualisation. */
static bool make_vm(Machine *m, GError **error)
{
    return (m->kvm = kvm_new(error)) && kvm_add_memory(m->kvm, &m->gm, error) &&
           arch_vm_init(m->kvm, error);
}

static bool make_board(Machine *m, const SavedMachine *saved, GError **error)
{
    m->context = (BoardContext){
        .config = m->config,
        .source = &m->source,
        .kvm = m->kvm,
        .gm = &m->gm,
        .main = m->main,
        .events = {on_power_off, on_reset, on_panic, on_debug_exit, on_user_output, m},
        .stop = on_device_stop,
        .event = on_device_event,
        .opaque = m,
    };
    m->board = board_new(&m->context, error);
    if (!m->board)
        return false;
    m->hotplug = hotplug_new(m, m->main, m->board);
    return hotplug_add_configured(m->hotplug, m->config, saved, error);
}

static bool make_vcpus(Machine *m, GError **error)
{
    m->vcpu_events = (VcpuEvents){on_vcpu_ended, m};
    m->vcpus = g_new0(Vcpu *, m->config->cpus);
    for (unsigned i = 0; i < m->config->cpus; i++) {
        Vcpu *c = vcpu_new(m->kvm, i, board_pio(m->board), board_mmio(m->board),
                           &m->vcpu_events, error);

        if (!c)
            return false;
        m->vcpus[m->n_vcpus++] = c;
        if (!arch_vcpu_init(c, (unsigned)m->config->cpus, error) || !vcpu_start(c, error))
            return false;
    }
    return true;
}

/* A restored guest has its kernel in RAM: the file is for a reset, and may be missing. */
static bool open_kernel(Machine *m, GError **error)
{
    const Config *cfg = m->config;
    g_autoptr(GError) inner = NULL;

    if (!m->restore)
        return boot_open(&m->source, cfg->kernel, cfg->initrd, cfg->cmdline, error);
    if (cfg->kernel &&
        boot_open(&m->source, cfg->kernel, cfg->initrd, cfg->cmdline, &inner))
        return true;
    boot_close(&m->source);
    m->source.cmdline = g_strdup(cfg->cmdline ? cfg->cmdline : "");
    m->no_kernel = g_strdup(inner ? inner->message : "the snapshot names none");
    log_warn("the guest goes on, but cannot be reset: %s", m->no_kernel);
    return true;
}

/* Powered on, or as it was when it was saved: paused, as then. */
static bool make_guest(Machine *m, GError **error)
{
    if (!m->restore)
        return power_on(m, error);
    m->pauses = 1;
    m->state = STATE_PAUSED;
    if (!machine_load(m, error))
        return false;
    if (m->restore->taken)
        m->restore->taken(m->restore->opaque);
    return true;
}

static bool make_parts(Machine *m, GError **error)
{
    g_autofree SavedMachine *saved = m->restore ? g_new0(SavedMachine, 1) : NULL;

    return (!saved || machine_load_identity(m, saved, error)) && open_kernel(m, error) &&
           make_loops(m, error) && make_memory(m, error) && make_vm(m, error) &&
           make_board(m, saved, error) && make_vcpus(m, error) && make_guest(m, error);
}

Machine *machine_new(const Config *config, const MachineRestore *restore,
                     int64_t started_ns, GError **error)
{
    g_autoptr(Machine) m = g_new0(Machine, 1);

    m->config = config;
    m->restore = restore;
    m->started_ns = started_ns;
    m->signal_fd = m->gm.fd = -1;
    m->end_post = (IoPost){.fn = on_end, .opaque = m};
    m->reset_post = (IoPost){.fn = do_reset, .opaque = m};
    m->power_post = (IoPost){.fn = on_power_button, .opaque = m};
    m->nmi_post = (IoPost){.fn = on_nmi, .opaque = m};
    m->stop_post = (IoPost){.fn = stop_for_device, .opaque = m};
    lock_init(&m->stop_lock);
    chardev_set_escape(on_key, m);
    raise_descriptor_limit();
    return make_parts(m, error) ? g_steal_pointer(&m) : NULL;
}

void machine_free(Machine *m)
{
    if (!m || m->frozen)
        return; /* threads of it sleep, and go with the process */
    while (m->n_vcpus)
        vcpu_free(m->vcpus[--m->n_vcpus]);
    g_free(m->vcpus);
    if (m->free_keeper)
        m->free_keeper(m->keeper);
    hotplug_finish(m->hotplug);
    board_free(m->board);
    hotplug_free(m->hotplug);
    kvm_free(m->kvm);
    ioloop_unwatch(&m->lost);
    gm_finish(&m->gm);
    boot_close(&m->source);
    if (m->main)
        ioloop_timer_cancel(&m->timeout);
    ioloop_unwatch(&m->signals);
    fd_close(&m->signal_fd);
    ioloop_free(m->main);
    lock_finish(&m->stop_lock);
    g_free(m->end_text);
    g_free(m->no_kernel);
    g_free(m);
}

Hotplug *machine_hotplug(Machine *m)
{
    return m->hotplug;
}

Board *machine_board(Machine *m)
{
    return m->board;
}

IoLoop *machine_loop(Machine *m)
{
    return m->main;
}

const Config *machine_config(const Machine *m)
{
    return m->config;
}

unsigned machine_n_vcpus(const Machine *m)
{
    return m->n_vcpus;
}

const GuestMem *machine_memory(const Machine *m)
{
    return &m->gm;
}

unsigned machine_resets(const Machine *m)
{
    return m->resets;
}

double machine_uptime(const Machine *m)
{
    return m->entered_ns ? (double)(clock_ns() - m->entered_ns) / 1e9 : 0;
}

uint64_t machine_vcpu_exits(const Machine *m, unsigned i, unsigned reason)
{
    return counter_read(&m->vcpus[i]->exits[reason]);
}

int machine_vcpu_tid(const Machine *m, unsigned i)
{
    return (int)__atomic_load_n(&m->vcpus[i]->tid, __ATOMIC_RELAXED);
}

/* ---- running
 * ------------------------------------------------------------------------------ */

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

static void describe_result(const Machine *m, MachineResult *ret)
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

/* A restored machine is paused as it was when it was saved. */
static void begin(Machine *m)
{
    if (m->config->paused) {
        if (!m->restore)
            machine_pause(m);
        return;
    }
    m->state = STATE_RUNNING;
    if (m->restore)
        machine_resume(m);
    else
        unpark_vcpus(m);
}

void machine_run(Machine *m, MachineResult *ret)
{
    if (m->config->timeout_s)
        ioloop_timer(m->main, &m->timeout,
                     clock_ns() + (int64_t)m->config->timeout_s * 1000000000, on_timeout,
                     m);
    m->entered_ns = clock_ns();
    begin(m);
    ioloop_run(m->main);
    m->ended_ns = clock_ns();
    hotplug_hurry(m->hotplug);
    if (gm_is_lost(&m->gm)) /* also of a VM that was paused: who sleeps is left alone */
        __atomic_store_n(&m->frozen, true, __ATOMIC_RELAXED);
    if (!m->frozen)
        machine_pause(m);
    describe_result(m, ret);
}
