/* What the files that make up a machine share.  Main thread, where nothing else is said.
 */
#pragma once

#include "machine/board.h"
#include "machine/hotplug.h"
#include "util/log.h"

typedef struct Hotplug Hotplug;

/* ---- machine.c ----------------------------------------------------------------- */

struct Machine {
    const Config *config;
    IoLoop *main;
    Kvm *kvm;
    GuestMem gm;
    BootSource source;
    BoardContext context;
    Board *board;
    Hotplug *hotplug;
    Vcpu **vcpus;
    unsigned n_vcpus;
    VcpuEvents vcpu_events;

    /* What ended the VM: the first to claim it wins; text and number are its own. */
    int end; /* atomic: MachineEnd */
    int end_number;
    char *end_text;
    IoPost end_post, reset_post, power_post, nmi_post;
    bool reset_wanted; /* atomic: the guest asked since its last reset */
    bool quit_wanted;  /* by the control socket */

    MachineState state;
    unsigned pauses; /* how many hold it; a stopped machine is one of them */
    const MachineListener *listener;
    IoPost stop_post;
    Lock stop_lock;   /* guards stop_id: the device that could not go on */
    char stop_id[32]; /* empty: none */
    LogLimit stop_log;

    IoWatch lost; /* of gm.lost, if RAM can be lost */
    bool frozen;  /* atomic: it was, and the guest stands still; see machine_frozen() */
    LogLimit lost_log;

    const MachineRestore *restore; /* NULL: it was powered on */
    char *no_kernel; /* why a restored machine cannot be reset; NULL: it can */
    void *keeper;    /* see machine_set_keeper() */
    void (*free_keeper)(void *keeper);

    int signal_fd;
    IoWatch signals;
    IoTimer timeout;
    int64_t started_ns, entered_ns, ended_ns;
    unsigned resets;
};

Hotplug *machine_hotplug(Machine *m);
Board *machine_board(Machine *m);

/* ---- end.c --------------------------------------------------------------------- */

void machine_end_init(Machine *m);

/* Before any thread starts, so that all inherit the mask and only signal_fd sees them. */
bool machine_take_signals(Machine *m, GError **error);
void machine_limit_time(Machine *m); /* --timeout begins now */

/* Any thread: what ends the VM, unless something has before.  `number` is the guest's
 * exit status or the signal; `text` a sentence, copied. */
void machine_end_with(Machine *m, MachineEnd end, int number, const char *text);

/* The event `name`, which is RESET or SHUTDOWN: was it the guest's own doing, and why. */
void machine_tell_cause(Machine *m, const char *name, bool guest, const char *cause);

/* What those who know no Machine call, on their threads; `opaque` is the Machine. */
PlatformEvents machine_platform_events(Machine *m);
void machine_on_vcpu_ended(void *opaque, Vcpu *c, VcpuEnd end, const char *text);
void machine_on_device_event(void *opaque, const char *name, json_t *data);

void machine_describe_result(const Machine *m, MachineResult *ret);

/* ---- pause.c ------------------------------------------------------------------- */

void machine_pause_init(Machine *m);

/* Parks the vCPUs and nothing else, for straight code that changes the topology; devices
 * go on.  Harmless while the machine is paused.  Does not nest.  False: it cannot be now,
 * since a page of guest RAM cannot be read and a vCPU may sleep for it; nothing is parked
 * then, and hotplug_thawed() follows when it can be tried again. */
bool machine_park(Machine *m);
void machine_unpark(Machine *m);

/* Everything as at power-on: devices, interrupt controllers, registers, RAM. */
bool machine_power_on(Machine *m, GError **error);

/* The guest begins, unless it is to begin paused.  A restored machine is paused as it was
 * when it was saved. */
void machine_begin(Machine *m);

/* From now on the VM stops when guest RAM is lost; gm.lost must be there. */
bool machine_watch_lost(Machine *m, GError **error);

/* A device's I/O thread, or any other: its guest is to be stopped. */
void machine_on_device_stop(void *opaque, const char *id);

/* ---- save.c -------------------------------------------------------------------- */

/* What is saved of the board's identity, and of the machine itself: the section
 * "machine".  Devices are in the order that hotplug_add_configured() makes them in. */
enum { SAVED_DEVICES = 64, SAVED_NO_SLOT = UINT32_MAX };

typedef struct SavedDevice {
    char id[32], kind[32];
    uint32_t slot; /* on PCI; SAVED_NO_SLOT: on virtio-mmio */
} SavedDevice;

typedef struct SavedRegion {
    uint64_t gpa, size;
} SavedRegion;

typedef struct SavedMachine {
    SavedRegion region[GM_MAX_REGIONS];
    uint32_t n_regions;
    uint32_t cpus, transport, state, resets;
    uint32_t n_devices;
    SavedDevice device[SAVED_DEVICES];
} SavedMachine;

/* Gets the section and compares it with the Config, which must say the same machine. */
bool machine_load_identity(Machine *m, SavedMachine *ret, GError **error);
/* The rest, when everything is made.  Refuses sections that nobody took. */
bool machine_load(Machine *m, GError **error);

/* ---- hotplug.c ----------------------------------------------------------------- */

Hotplug *hotplug_new(Machine *m, IoLoop *main, Board *board);
/* `saved`, of a machine that is restored, says in which slots; NULL: as it comes. */
bool hotplug_add_configured(Hotplug *h, const Config *config, const SavedMachine *saved,
                            GError **error);
void hotplug_quiesce(Hotplug *h); /* waits for what is leaving to touch no RAM any more */
void hotplug_thawed(Hotplug *h);  /* what was ejected meanwhile goes now */
void hotplug_hurry(Hotplug *h);   /* the VM ends: see VirtioOps */
void hotplug_reset(Hotplug *h);   /* vCPUs parked: removals that were asked for happen */
void hotplug_finish(Hotplug *h);  /* before board_free(); NULL is fine */
void hotplug_free(Hotplug *h);    /* after it */

void hotplug_save_list(const Hotplug *h, SavedMachine *ret);
/* A new sentence about the first that cannot be saved; NULL: all can. */
char *hotplug_pinned(const Hotplug *h);
/* Puts the devices that there are into an object that config_to_json() made. */
void hotplug_current_config(const Hotplug *h, json_t *config);

json_t *hotplug_counters(const Hotplug *h); /* what each device counted, by its id */
