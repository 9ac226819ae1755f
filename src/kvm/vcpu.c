/* The vCPU thread; contract in kvm/vcpu.h.
 *
 * Theory.  The thread alternates between KVM_RUN and the requests that other threads have
 * left in `requests`.  Whoever asks sets the bit, then immediate_exit, then signals; the
 * vCPU clears immediate_exit, then takes the bits.  If the vCPU clears immediate_exit
 * after the requester set it, it takes the bits after they were set; if before, KVM_RUN
 * sees immediate_exit, or is interrupted by the signal, and returns.  So no request is
 * slept over.
 *
 * Parking is one flag, set by the vCPU (the first time by vcpu_start()) and cleared by
 * the resumer, both under `lock`: with two flags a stale wake-up could be taken for a
 * fresh one. */
#include "kvm/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kvm/arch.h"
#include "util/bits.h"
#include "util/counter.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

enum { REQ_PAUSE = 1, REQ_STOP = 2, REQ_NMI = 4 };
enum { THREAD_STACK = 256 * 1024 };
enum { LONG_PAUSE_NS = 1000000000 }; /* a small part of what a guest's watchdog bears */

/* ---- requests ------------------------------------------------------------------------
 */

static void vcpu_request(Vcpu *c, unsigned bits)
{
    __atomic_fetch_or(&c->requests, bits, __ATOMIC_SEQ_CST);
    __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (c->started)
        pthread_kill(c->thread, SIGUSR1);
}

static unsigned take_requests(Vcpu *c)
{
    __atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    return __atomic_exchange_n(&c->requests, 0, __ATOMIC_SEQ_CST);
}

static void set_parking(Vcpu *c, bool parking)
{
    LOCK_GUARD(&c->lock);

    c->parking = parking;
}

void vcpu_request_pause(Vcpu *c)
{
    set_parking(c, true);
    vcpu_request(c, REQ_PAUSE);
}

void vcpu_wait_parked(Vcpu *c)
{
    LOCK_GUARD(&c->lock);
    while (!c->parked)
        pthread_cond_wait(&c->changed, &c->lock.mutex);
}

bool vcpu_wait_parked_for(Vcpu *c, int ms)
{
    int64_t until = clock_ns() + (int64_t)ms * 1000000;
    struct timespec at = {until / 1000000000, until % 1000000000};
    LOCK_GUARD(&c->lock);

    while (!c->parked)
        if (pthread_cond_clockwait(&c->changed, &c->lock.mutex, CLOCK_MONOTONIC, &at) ==
            ETIMEDOUT)
            return c->parked;
    return true;
}

void vcpu_resume(Vcpu *c)
{
    LOCK_GUARD(&c->lock);
    /* A pause asked for while it was parked already is over too. */
    __atomic_fetch_and(&c->requests, ~REQ_PAUSE, __ATOMIC_SEQ_CST);
    c->parked = c->parking = false;
    pthread_cond_signal(&c->changed);
}

/* By its own thread: KVM lets nobody else at a vCPU that runs, and one that sleeps in
 * `hlt` runs. */
void vcpu_nmi(Vcpu *c)
{
    vcpu_request(c, REQ_NMI);
}

/* Until the resumer clears the flag.  A request to stop wakes it for good. */
static void stay_parked_locked(Vcpu *c)
{
    while (c->parked && !(__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & REQ_STOP))
        pthread_cond_wait(&c->changed, &c->lock.mutex);
}

static void park(Vcpu *c)
{
    const int64_t since = clock_ns();

    lock_acquire(&c->lock);
    if (c->parking) {
        c->parked = true;
        pthread_cond_broadcast(&c->changed);
        stay_parked_locked(c);
    }
    lock_release(&c->lock);
    if (clock_ns() - since > LONG_PAUSE_NS)
        arch_vcpu_was_paused(c);
}

/* ---- exits ---------------------------------------------------------------------------
 */

/* api.rst, "The kvm_run structure".  What is not here counts as the table's last. */
static const char *const exit_names[VCPU_EXIT_REASONS] = {
    [KVM_EXIT_EXCEPTION] = "exception",
    [KVM_EXIT_IO] = "io",
    [KVM_EXIT_HYPERCALL] = "hypercall",
    [KVM_EXIT_DEBUG] = "debug",
    [KVM_EXIT_HLT] = "hlt",
    [KVM_EXIT_MMIO] = "mmio",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window_open",
    [KVM_EXIT_SHUTDOWN] = "shutdown",
    [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
    [KVM_EXIT_INTR] = "intr",
    [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
    [KVM_EXIT_SYSTEM_EVENT] = "system_event",
    [KVM_EXIT_IOAPIC_EOI] = "ioapic_eoi",
    [KVM_EXIT_HYPERV] = "hyperv",
    [KVM_EXIT_X86_RDMSR] = "rdmsr",
    [KVM_EXIT_X86_WRMSR] = "wrmsr",
    [VCPU_EXIT_REASONS - 1] = "other",
};

const char *vcpu_exit_name(unsigned reason)
{
    return reason < VCPU_EXIT_REASONS ? exit_names[reason] : NULL;
}

static void count_exit(Vcpu *c, unsigned reason)
{
    if (!vcpu_exit_name(reason))
        reason = VCPU_EXIT_REASONS - 1;
    counter_add(&c->exits[reason], 1);
}

static void handle_pio(Vcpu *c)
{
    struct kvm_run *run = c->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        uint64_t value;

        if (run->io.direction == KVM_EXIT_IO_OUT) {
            bus_write(c->pio, run->io.port, run->io.size, load_le(data, run->io.size));
        } else {
            bus_read(c->pio, run->io.port, run->io.size, &value);
            store_le(data, value, run->io.size);
        }
    }
}

static void handle_mmio(Vcpu *c)
{
    struct kvm_run *run = c->run;
    uint64_t value;

    if (run->mmio.is_write) {
        bus_write(c->mmio, run->mmio.phys_addr, run->mmio.len,
                  load_le(run->mmio.data, run->mmio.len));
    } else {
        bus_read(c->mmio, run->mmio.phys_addr, run->mmio.len, &value);
        store_le(run->mmio.data, value, run->mmio.len);
    }
}

/* Tells the machine and leaves the vCPU to be parked: it makes no step on its own again.
 */
static void ended(Vcpu *c, VcpuEnd end, const char *text)
{
    set_parking(c, true);
    __atomic_fetch_or(&c->requests, REQ_PAUSE, __ATOMIC_SEQ_CST);
    c->events->ended(c->events->opaque, c, end, text);
}

static void crashed(Vcpu *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static void crashed(Vcpu *c, const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    ended(c, VCPU_CRASH, what);
}

static void internal_error(Vcpu *c)
{
    const struct kvm_run *run = c->run;
    const uint8_t *bytes = NULL;
    unsigned n_bytes = 0;
    g_autofree char *where = NULL;

    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        where = arch_vcpu_describe(c, NULL, 0);
        crashed(c, "KVM could not go on (internal error %u) at %s",
                run->internal.suberror, where);
        return;
    }
    if (run->emulation_failure.ndata >= 3 &&
        (run->emulation_failure.flags &
         KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        bytes = run->emulation_failure.insn_bytes;
        n_bytes = MIN(run->emulation_failure.insn_size, 15);
    }
    where = arch_vcpu_describe(c, bytes, n_bytes);
    crashed(c, "KVM cannot emulate the instruction at %s%s", where,
            arch_host_has_virtualization()
                ? ""
                : "; this host's KVM has no hardware virtualisation and interprets "
                  "privileged code, so use a host with VT-x or AMD-V");
}

static void system_event(Vcpu *c)
{
    switch (c->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        ended(c, VCPU_POWER_OFF_EVENT, "the guest asked KVM for a shutdown");
        break;
    case KVM_SYSTEM_EVENT_RESET:
        ended(c, VCPU_RESET_EVENT, "the guest asked KVM for a reset");
        break;
    default:
        crashed(c, "the guest reported a crash to KVM (system event %u)",
                c->run->system_event.type);
        break;
    }
}

static void handle_exit(Vcpu *c)
{
    count_exit(c, c->run->exit_reason);
    switch (c->run->exit_reason) {
    case KVM_EXIT_IO:
        handle_pio(c);
        break;
    case KVM_EXIT_MMIO:
        handle_mmio(c);
        break;
    case KVM_EXIT_INTR:
        break;
    case KVM_EXIT_SHUTDOWN:
        ended(c, VCPU_SHUTDOWN, "triple fault");
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        system_event(c);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        internal_error(c);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        crashed(c, "the processor refused the guest's state (entry failure 0x%llx)",
                (unsigned long long)c->run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        crashed(c, "KVM exit %u, which hutch does not know", c->run->exit_reason);
        break;
    }
}

/* One KVM_RUN and its answer.  False: interrupted before or instead of guest code. */
static bool run_once(Vcpu *c)
{
    if (ioctl(c->fd, KVM_RUN, 0L) == 0) {
        handle_exit(c);
        return true;
    }
    if (errno == EINTR || errno == EAGAIN) {
        count_exit(c, KVM_EXIT_INTR);
        return false;
    }
    if (errno == EFAULT) {
        g_autofree char *where = arch_vcpu_describe(c, NULL, 0);

        ended(c, VCPU_MEMORY, where);
        return false; /* nothing was done, and there is no answer to finish */
    }
    crashed(c, "KVM_RUN: %s", g_strerror(errno));
    return true;
}

/* An I/O exit is only half done until KVM_RUN is entered again (api.rst, "KVM_RUN"):
 * registers read before that are not a state the guest was ever in.  Entering with
 * immediate_exit set finishes it and returns EINTR; an access that KVM splits comes back
 * for its next part first. */
static void finish_pending_io(Vcpu *c)
{
    do
        __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    while (run_once(c) && !(__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & REQ_STOP) &&
           (c->run->exit_reason == KVM_EXIT_IO || c->run->exit_reason == KVM_EXIT_MMIO));
}

static void *vcpu_thread(void *opaque)
{
    Vcpu *c = opaque;
    char name[16];

    g_snprintf(name, sizeof(name), "vcpu%u", c->index);
    thread_set_name(name);
    __atomic_store_n(&c->tid, gettid(), __ATOMIC_RELAXED);
    lock_acquire(&c->lock);
    stay_parked_locked(c); /* since vcpu_start() */
    lock_release(&c->lock);
    for (;;) {
        unsigned requests = take_requests(c);

        if (requests & REQ_STOP)
            return NULL;
        if (requests & REQ_NMI)
            ioctl(c->fd, KVM_NMI, 0L);
        if (requests & REQ_PAUSE) {
            finish_pending_io(c);
            park(c);
        } else {
            run_once(c);
        }
    }
}

/* ---- life-cycle
 * ------------------------------------------------------------------------ */

static void wake_up(int sig)
{
}

Vcpu *vcpu_new(Kvm *kvm, unsigned index, Bus *pio, Bus *mmio, const VcpuEvents *events,
               GError **error)
{
    Vcpu *c = g_new0(Vcpu, 1);
    struct sigaction sa = {.sa_handler = wake_up};

    sigaction(SIGUSR1, &sa, NULL);
    c->kvm = kvm;
    c->index = index;
    c->pio = pio;
    c->mmio = mmio;
    c->events = events;
    lock_init(&c->lock);
    pthread_cond_init(&c->changed, NULL);
    c->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (long)index);
    if (c->fd < 0) {
        fail_errno(error, "vCPU %u: make it%s", index,
                   errno == EINVAL ? " (more vCPUs than this host's KVM takes)" : "");
        vcpu_free(c);
        return NULL;
    }
    c->run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED) {
        c->run = NULL;
        fail_errno(error, "vCPU %u: map its shared area", index);
        vcpu_free(c);
        return NULL;
    }
    return c;
}

bool vcpu_start(Vcpu *c, GError **error)
{
    pthread_attr_t attr;
    int err;

    c->parked = true; /* from the start, so that nobody waits for the thread to come up */
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    err = pthread_create(&c->thread, &attr, vcpu_thread, c);
    pthread_attr_destroy(&attr);
    if (err) {
        errno = err;
        return fail_errno(error, "vCPU %u: start its thread", c->index);
    }
    c->started = true;
    return true;
}

void vcpu_free(Vcpu *c)
{
    if (!c)
        return;
    if (c->started) {
        vcpu_request(c, REQ_STOP);
        lock_acquire(&c->lock); /* pairs with the check in park() */
        pthread_cond_broadcast(&c->changed);
        lock_release(&c->lock);
        pthread_join(c->thread, NULL);
    }
    arch_vcpu_finish(c);
    if (c->run)
        munmap(c->run, c->kvm->run_size);
    fd_close(&c->fd);
    pthread_cond_destroy(&c->changed);
    lock_finish(&c->lock);
    g_free(c);
}
