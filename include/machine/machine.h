/* A machine: one VM from power-on to its end.
 *
 * Threads.  The main thread runs the main loop and is the sole writer of machine state;
 * vCPU and I/O threads post what happened to it.  Waiting goes one way: main -> vCPU ->
 * I/O thread.  Pause is the one sequence that reset, and later snapshot, migration and
 * hot-plug, share: vCPUs parked with their I/O finished, then devices quiesced. */
#pragma once

#include <jansson.h>

#include "kvm/arch.h"
#include "machine/config.h"
#include "state/state.h"
#include "util/ioloop.h"

typedef struct Machine Machine;

/* How a VM ended, with the exit status of `hutch run`: a contract with scripts. */
typedef enum {
    END_NONE,
    END_POWER_OFF,  /* 0 */
    END_RESET,      /* 0: the guest rebooted under --no-reboot */
    END_DEBUG_EXIT, /* the guest's own status, 0-123 */
    END_TIMEOUT,    /* 124 */
    END_ERROR,      /* 125: hutch could not go on */
    END_CRASH,      /* 126 */
    END_PANIC,      /* 127 */
    END_QUIT,       /* by a signal or Ctrl-A x: 128 + the signal's number */
} MachineEnd;

/* Whether the guest runs, and if not, why; the words of QMP's RunState. */
typedef enum {
    STATE_PRELAUNCH, /* --paused: it has not begun */
    STATE_RUNNING,
    STATE_PAUSED,   /* somebody said stop */
    STATE_IO_ERROR, /* a device did (werror=stop); what it holds back waits for cont */
    STATE_SHUTDOWN, /* it has ended */
} MachineState;

/* Who is told of what happens to the machine, as QMP events: STOP, RESUME, RESET,
 * POWERDOWN, SHUTDOWN, GUEST_PANICKED, and what devices report.  Any thread, which may
 * hold a device's lock: must not wait.  Takes `data`, which may be NULL. */
typedef struct MachineListener {
    void (*event)(void *opaque, const char *name, json_t *data);
    void *opaque;
} MachineListener;

typedef struct MachineResult {
    MachineEnd end;
    int status;
    const char *reason; /* a word, the same in every release: "power-off" */
    char *detail;       /* a sentence, owned */
    json_t *times, *counters;
} MachineResult;

void machine_result_clear(MachineResult *result);

/* What a machine is made from that was saved before, instead of being powered on.  Both
 * it and the Config, which says the same machine, must stay as long as the machine.  It
 * is another life of the guest, which is told so by a new VM generation ID: what was
 * random in its memory is in the snapshot, too. */
typedef struct MachineRestore {
    StateReader *state;
    /* Main thread.  Guest RAM is reserved and its regions are cut, but KVM has none of it
     * yet: puts what was saved at gm->base.  No work proportional to its size. */
    bool (*fill)(void *opaque, GuestMem *gm, GError **error);
    /* Main thread, may be NULL.  All of it was taken: from here on it is a VM. */
    void (*taken)(void *opaque);
    void *opaque;       /* of both; and who saves the machine again finds it here */
    ClockMode clock;    /* what the guest's clocks show */
    int64_t elapsed_ns; /* of the world's time, since it was saved */
} MachineRestore;

/* Main thread.  Makes the VM, with every device and every file it needs, but runs
 * nothing; the Config must stay.  `restore` is NULL for a VM that is powered on.
 * started_ns is when the process began, on CLOCK_MONOTONIC. */
Machine *machine_new(const Config *config, const MachineRestore *restore,
                     int64_t started_ns, GError **error);

/* Main thread.  Runs the VM to its end and says how it ended.  SIGINT, SIGTERM and SIGHUP
 * end it, SIGPWR presses its power button. */
void machine_run(Machine *m, MachineResult *ret);
void machine_free(Machine *m); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Machine, machine_free)

/* Main thread, before machine_run(); the listener must outlive the machine. */
void machine_set_listener(Machine *m, const MachineListener *listener);
void machine_event(Machine *m, const char *name, json_t *data); /* any thread */

/* Main thread.  Parks the vCPUs and quiesces the devices; the reverse.  Calls nest, and a
 * stopped machine holds one pause: who pauses for a change of his own may do so in any
 * state, and leaves it as it was. */
void machine_pause(Machine *m);
void machine_resume(Machine *m);

/* Main thread.  machine_stop() stops a guest that runs, and `why` becomes the state; a
 * guest that is stopped stays so for the reason it had.  machine_cont() lets it go.
 * A machine that is reset while it is stopped stays stopped. */
void machine_stop(Machine *m, MachineState why);
void machine_cont(Machine *m);
MachineState machine_state(const Machine *m);

/* Any thread; NULL is fine.  True: a page of guest RAM cannot be read (core/gmlost.h),
 * the state is STATE_IO_ERROR or the VM has ended, and vCPUs or I/O threads may sleep in
 * the middle of an access.  Nothing can be paused, so that all that is left is
 * machine_cont(), which tries again, and machine_quit(). */
bool machine_frozen(const Machine *m);
const char *machine_state_name(MachineState state);

/* Main thread.  As a person would: press reset, the power button, and pull the plug,
 * which counts as SIGTERM;
 * and as some boards have it, the button for a non-maskable interrupt to the first vCPU.
 */
void machine_reset(Machine *m);
void machine_power_button(Machine *m);
void machine_quit(Machine *m);
void machine_nmi(Machine *m);

IoLoop *machine_loop(Machine *m); /* the main loop */
const Config *machine_config(const Machine *m);
unsigned machine_n_vcpus(const Machine *m);
int machine_vcpu_tid(const Machine *m, unsigned i); /* Linux thread id; 0: not yet */

/* Main thread.  What the n-th serial port is connected to; NULL: it is not there. */
const Chardev *machine_serial_chardev(Machine *m, unsigned n);

/* Main thread: figures.  Exits of vCPU i for a reason of KVM's below VCPU_EXIT_REASONS
 * (kvm/vcpu.h), which any thread may read; how often it was reset; seconds since the main
 * loop was entered, 0 before. */
uint64_t machine_vcpu_exits(const Machine *m, unsigned i, unsigned reason);
unsigned machine_resets(const Machine *m);
double machine_uptime(const Machine *m);
const GuestMem *machine_memory(const Machine *m);

const char *machine_end_reason(MachineEnd end); /* as in MachineResult */

/* ---- saving it (src/machine/save.c) --------------------------------------------------
 *
 * Main thread, as all here but for machine_log_fetch(). */

/* NULL: it can be saved; else a new sentence that names the device and says why not. */
char *machine_pinned(Machine *m);

/* The machine being paused: all that a restore needs beside guest RAM and the Config. */
bool machine_save(Machine *m, StateWriter *w, GError **error);

/* A new object: the Config as the user said it, with what was added, removed and changed
 * since; a restore makes the same machine from it. */
json_t *machine_current_config(Machine *m);

/* A new object, for arch_cpu_check(): what a host must have to go on with this guest. */
json_t *machine_cpu_needs(Machine *m);

/* What it was restored from; NULL: it was powered on. */
const MachineRestore *machine_restored(const Machine *m);

/* Which pages of guest RAM are written to, by the guest and by us; a bit for each
 * GM_PAGE_SIZE of the RAM file.  machine_log_fetch(), on any one thread while the log is
 * on, adds to `bitmap` what was written since the last time. */
bool machine_log_start(Machine *m, GError **error);
bool machine_log_fetch(Machine *m, uint64_t *bitmap, GError **error);
void machine_log_stop(Machine *m);

/* Something that whoever saves the machine keeps with it; freed with the machine. */
void machine_set_keeper(Machine *m, void *keeper, void (*free_keeper)(void *keeper));
void *machine_keeper(const Machine *m); /* NULL: none yet */
