/* Whether the guest runs: parking of its vCPUs, pauses, stop and cont, guest RAM that is
 * lost, and the reset, which is a pause with a new beginning in it.  Main thread, but for
 * what devices ask for. */
#include <poll.h>
#include <string.h>

#include "core/gmlost.h"
#include "machine_private.h"

/* ---- pause, resume, reset ------------------------------------------------------ */

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

bool machine_power_on(Machine *m, GError **error)
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
    if (!machine_power_on(m, &error)) {
        machine_end_with(m, END_ERROR, 0, error->message);
        return;
    }
    machine_tell_cause(m, "RESET", guest, cause);
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

/* ---- stop and cont ------------------------------------------------------------- */

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

bool machine_watch_lost(Machine *m, GError **error)
{
    return ioloop_watch(m->main, &m->lost, m->gm.lost->fd, EPOLLIN, on_lost, m, error);
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

void machine_on_device_stop(void *opaque, const char *id)
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

void machine_begin(Machine *m)
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

void machine_pause_init(Machine *m)
{
    m->reset_post = (IoPost){.fn = do_reset, .opaque = m};
    m->stop_post = (IoPost){.fn = stop_for_device, .opaque = m};
    lock_init(&m->stop_lock);
}
