/* QMP commands of QEMU 7.2 that clients are known to try, and hutch has not: each with
 * the reason, so that a person who reads the error knows what to do instead. */
#include "control/control.h"

#define NO_OBJECTS                                                                       \
    "there is no tree of objects in hutch; x-hutch-query-devices lists devices"
#define NO_MIGRATION                                                                     \
    "a running VM is not moved; 'hutch snapshot create --stop' saves it, and 'hutch "    \
    "run "                                                                               \
    "--restore' goes on with it there, from a copy or from 'hutch snapshot serve'"
#define NO_VMSTATE                                                                       \
    "memory is not saved inside of disk images; x-hutch-snapshot-create makes a folder " \
    "with memory, devices and disks, see 'hutch snapshot --help'"
#define NO_BALLOON    "there is no balloon device yet; the VM's memory is what it began with"
#define NO_DISPLAY    "there is no display, keyboard or mouse; consoles are in query-chardev"
#define NO_FDS        "descriptors are not taken over this socket; give paths instead"
#define NO_CPU_CHANGE "CPUs and memory do not come and go; query-cpus-fast lists the CPUs"
#define NO_EXPORT     "the monitor exports no disks; drive-mirror can write to an NBD server"

static const ControlCommand commands[] = {
    {.name = "human-monitor-command",
     .refused = "there is no monitor for people behind this socket; 'query-commands' "
                "lists what there is, and 'hutch control' types it"},
    {.name = "qom-list", .refused = NO_OBJECTS},
    {.name = "qom-get", .refused = NO_OBJECTS},
    {.name = "qom-set", .refused = NO_OBJECTS},
    {.name = "qom-list-types", .refused = NO_OBJECTS},
    {.name = "qom-list-properties", .refused = NO_OBJECTS},
    {.name = "device-list-properties",
     .refused =
         "a device's properties are the keys of its option; 'hutch run --help' and "
         "the man page list them"},
    {.name = "object-add",
     .refused =
         "there are no objects to be made beside devices; each has its threads and "
         "limits by its own properties"},
    {.name = "object-del", .refused = NO_OBJECTS},
    {.name = "migrate", .refused = NO_MIGRATION},
    {.name = "migrate-incoming", .refused = NO_MIGRATION},
    {.name = "migrate_cancel", .refused = NO_MIGRATION},
    {.name = "migrate-set-capabilities", .refused = NO_MIGRATION},
    {.name = "migrate-set-parameters", .refused = NO_MIGRATION},
    {.name = "query-migrate", .refused = NO_MIGRATION},
    {.name = "query-migrate-capabilities", .refused = NO_MIGRATION},
    {.name = "query-migrate-parameters", .refused = NO_MIGRATION},
    {.name = "snapshot-save", .refused = NO_VMSTATE},
    {.name = "snapshot-load",
     .refused = "'hutch snapshot restore' goes back to a snapshot, in a new monitor"},
    {.name = "snapshot-delete", .refused = "'hutch snapshot rm' removes one"},
    {.name = "dump-guest-memory", .refused = "guest memory cannot be written out yet"},
    {.name = "memsave", .refused = "guest memory cannot be written out yet"},
    {.name = "pmemsave", .refused = "guest memory cannot be written out yet"},
    {.name = "balloon", .refused = NO_BALLOON},
    {.name = "query-balloon", .refused = NO_BALLOON},
    {.name = "query-hotpluggable-cpus", .refused = NO_CPU_CHANGE},
    {.name = "query-memory-devices", .refused = NO_CPU_CHANGE},
    {.name = "query-iothreads",
     .refused =
         "there are no I/O threads to be given to devices: each disk and each card "
         "has its own"},
    {.name = "query-cpu-definitions", .refused = "there is one CPU model, the host's"},
    {.name = "query-machines", .refused = "there is one machine, which has no name"},
    {.name = "query-command-line-options",
     .refused = "hutch's command line is its own; 'hutch run --help' lists it"},
    {.name = "send-key", .refused = NO_DISPLAY},
    {.name = "input-send-event", .refused = NO_DISPLAY},
    {.name = "screendump", .refused = NO_DISPLAY},
    {.name = "query-mice", .refused = NO_DISPLAY},
    {.name = "query-vnc", .refused = NO_DISPLAY},
    {.name = "query-spice", .refused = NO_DISPLAY},
    {.name = "query-display-options", .refused = NO_DISPLAY},
    {.name = "getfd", .refused = NO_FDS},
    {.name = "closefd", .refused = NO_FDS},
    {.name = "add-fd", .refused = NO_FDS},
    {.name = "remove-fd", .refused = NO_FDS},
    {.name = "add_client", .refused = NO_FDS},
    {.name = "eject", .refused = "no disk is removable; device_del takes one away"},
    {.name = "blockdev-open-tray", .refused = "no disk is removable"},
    {.name = "blockdev-close-tray", .refused = "no disk is removable"},
    {.name = "blockdev-insert-medium", .refused = "use blockdev-change-medium"},
    {.name = "blockdev-remove-medium", .refused = "no disk is removable"},
    {.name = "blockdev-snapshot", .refused = "use blockdev-snapshot-sync"},
    {.name = "blockdev-mirror", .refused = "use drive-mirror"},
    {.name = "blockdev-backup", .refused = "use drive-mirror, or blockdev-snapshot-sync"},
    {.name = "drive-backup", .refused = "use drive-mirror, or blockdev-snapshot-sync"},
    {.name = "blockdev-create", .refused = "'hutch image create' makes images"},
    {.name = "blockdev-reopen", .refused = "use blockdev-change-medium"},
    {.name = "transaction", .refused = "commands are carried out one by one"},
    {.name = "nbd-server-start", .refused = NO_EXPORT},
    {.name = "nbd-server-add", .refused = NO_EXPORT},
    {.name = "block-export-add", .refused = NO_EXPORT},
    {.name = "job-finalize", .refused = "a job does its last step by itself"},
    {.name = "block-job-finalize", .refused = "a job does its last step by itself"},
    {.name = "watchdog-set-action", .refused = "there is no watchdog device"},
    {.name = "system_wakeup", .refused = "a guest cannot suspend itself here"},
    {.name = "rtc-reset-reinjection", .refused = "no ticks of the clock are kept back"},
    {0},
};

const ControlTable control_refused_table = {commands, (const ControlEvent[]){{0}}};
