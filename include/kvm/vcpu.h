/* A vCPU: one thread that runs guest code, answers its exits and obeys requests.
 *
 * A vCPU is parked when the machine is made, so that the machine's topology and every
 * vCPU's registers may be changed; vcpu_resume() lets it go.  While it is parked its
 * registers are a state that the guest was really in: an I/O exit is finished first. */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/bus.h"
#include "kvm/kvm.h"
#include "util/error.h"

typedef struct Vcpu Vcpu;

/* Why a vCPU gave up; the machine decides what becomes of the VM. */
typedef enum {
    VCPU_SHUTDOWN,    /* triple fault */
    VCPU_MEMORY,      /* KVM cannot have a page of guest RAM; it can be run again */
    VCPU_CRASH,       /* an exit that nobody can handle; the text says which */
    VCPU_RESET_EVENT, /* KVM_EXIT_SYSTEM_EVENT: the guest asked for a reset */
    VCPU_POWER_OFF_EVENT,
} VcpuEnd;

typedef struct VcpuEvents {
    /* vCPU thread, no lock held: post and return; the vCPU then parks. */
    void (*ended)(void *opaque, Vcpu *c, VcpuEnd end, const char *text);
    void *opaque;
} VcpuEvents;

/* Exits to us are counted by KVM's reason; reasons beyond the table's end are the last.
 */
enum { VCPU_EXIT_REASONS = 64 };

/* The name of a reason, "mmio"; NULL: none that hutch knows. */
const char *vcpu_exit_name(unsigned reason);

struct Vcpu {
    Kvm *kvm;
    Bus *pio, *mmio;
    const VcpuEvents *events;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool started;
    pid_t tid; /* atomic; 0 until the thread runs */

    unsigned requests; /* atomic; bits of src/kvm/vcpu.c's */
    Lock lock;         /* guards parking and parked */
    pthread_cond_t changed;
    bool parking; /* a pause was asked for that nobody has taken back */
    bool parked;  /* set by the vCPU, cleared by the resumer */
    uint64_t exits[VCPU_EXIT_REASONS]; /* counters, of its own thread */
    struct VcpuReset *reset_state;     /* arch's: the registers at power-on */
};

/* Main thread.  Makes vCPU `index`; vcpu_start() gives it a thread, parked. vcpu_free
 * ends the thread; NULL is fine. */
Vcpu *vcpu_new(Kvm *kvm, unsigned index, Bus *pio, Bus *mmio, const VcpuEvents *events,
               GError **error);
bool vcpu_start(Vcpu *c, GError **error);
void vcpu_free(Vcpu *c);

/* Main thread.  Ask every vCPU to park first, then wait for each.  A vCPU that the
 * machine never resumes costs nothing. */
void vcpu_request_pause(Vcpu *c);
void vcpu_wait_parked(Vcpu *c);
bool vcpu_wait_parked_for(Vcpu *c, int ms); /* false: it is not yet */
void vcpu_resume(Vcpu *c); /* also of one that has not parked yet, which then does not */

/* Any thread, any state, does not wait: a non-maskable interrupt for the vCPU, which has
 * it when it runs next. */
void vcpu_nmi(Vcpu *c);
