/* A machine: one VM from power-on to its end.
 *
 * Threads.  The main thread runs the main loop and is the sole writer of machine state;
 * vCPU and I/O threads post what happened to it.  Waiting goes one way: main -> vCPU ->
 * I/O thread.  Pause is the one sequence that reset, and later snapshot, migration and
 * hot-plug, share: vCPUs parked with their I/O finished, then devices quiesced. */
#pragma once

#include <jansson.h>

#include "machine/config.h"

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

typedef struct MachineResult {
    MachineEnd end;
    int status;
    const char *reason; /* a word, the same in every release: "power-off" */
    char *detail;       /* a sentence, owned */
    json_t *times, *counters;
} MachineResult;

void machine_result_clear(MachineResult *result);

/* Main thread.  Makes the VM, with every device and every file it needs, but runs
 * nothing; the Config must stay.  started_ns is when the process began, on
 * CLOCK_MONOTONIC. */
Machine *machine_new(const Config *config, int64_t started_ns, GError **error);

/* Main thread.  Runs the VM to its end and says how it ended.  SIGINT, SIGTERM and SIGHUP
 * end it, SIGPWR presses its power button. */
void machine_run(Machine *m, MachineResult *ret);
void machine_free(Machine *m); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Machine, machine_free)

/* Main thread, vCPUs running / paused. */
void machine_pause(Machine *m);
void machine_resume(Machine *m);

const char *machine_end_reason(MachineEnd end); /* as in MachineResult */
