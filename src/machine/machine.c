/* See machine/machine.h. */
#include "machine/machine.h"

#include <sys/resource.h>

#include "core/gmlost.h"
#include "kvm/arch.h"
#include "machine_private.h"
#include "util/counter.h"
#include "util/fd.h"

/* ---- making it ----------------------------------------------------------------- */

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
    return (m->main = ioloop_new(error)) && machine_take_signals(m, error);
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
           (!m->gm.lost || machine_watch_lost(m, error));
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
        .events = machine_platform_events(m),
        .stop = machine_on_device_stop,
        .event = machine_on_device_event,
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
    m->vcpu_events = (VcpuEvents){machine_on_vcpu_ended, m};
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
        return machine_power_on(m, error);
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
    machine_end_init(m);
    machine_pause_init(m);
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

/* ---- what others ask of it ----------------------------------------------------- */

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

/* ---- running ------------------------------------------------------------------- */

void machine_run(Machine *m, MachineResult *ret)
{
    machine_limit_time(m);
    m->entered_ns = clock_ns();
    machine_begin(m);
    ioloop_run(m->main);
    m->ended_ns = clock_ns();
    hotplug_hurry(m->hotplug);
    if (gm_is_lost(&m->gm)) /* also of a VM that was paused: who sleeps is left alone */
        __atomic_store_n(&m->frozen, true, __ATOMIC_RELAXED);
    if (!m->frozen)
        machine_pause(m);
    machine_describe_result(m, ret);
}
