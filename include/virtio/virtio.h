/* A virtio device (virtio 1.2, chapters 2 and 3): the status machine, features, and who
 * owns the queues when.  Transports (PCI, MMIO) drive it by the functions in the second
 * half; a device is a const VirtioOps and a file of its own.
 *
 * Life-cycle:  realize (main) -> [driver: features, queues] -> activate (vCPU thread asks
 * the I/O thread) -> handle, handle, ... (I/O thread) -> quiesce -> resume or reset. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/guestmem.h"
#include "core/param.h"
#include "state/state.h"
#include "util/error.h"
#include "util/ioloop.h"
#include "util/lock.h"
#include "util/log.h"
#include "virtio/virtq.h"

/* virtio 1.2, 2.1 */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* virtio 1.2, 6: feature bits that belong to every device */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX     29
#define VIRTIO_F_VERSION_1     32
#define VIRTIO_F_RING_PACKED   34

enum { VIRTIO_MAX_QUEUES = 130, VIRTIO_CONFIG_VECTOR = -1 };

/* Options every virtio device has; the first member of each device's options struct. */
typedef struct VirtioCommonOptions {
    char *id;    /* unique; made up from the device's name if not given */
    bool packed; /* offer packed rings */
} VirtioCommonOptions;

#define VIRTIO_ID_PARAM(type_, member)                                                   \
    {                                                                                    \
        .key = "id", .type = PARAM_STRING, .offset = offsetof(type_, member.id),         \
        .arg = "ID", .help = "name of the device in messages and commands"               \
    }
#define VIRTIO_PARAMS(type_, member)                                                     \
    VIRTIO_ID_PARAM(type_, member),                                                      \
    {                                                                                    \
        .key = "packed", .type = PARAM_BOOL, .offset = offsetof(type_, member.packed),   \
        .def = "on", .help = "offer packed rings to the guest"                           \
    }

/* What a device is made in; the machine's. */
typedef struct VirtioEnv {
    GuestMem *gm;
    IoLoop *main;
    IoLoop *shared_io; /* one I/O thread for all devices that are seldom busy; NULL: there
                          are none */
    unsigned n_cpus;
    const char *name; /* the VM's; NULL: it has none */

    /* Any thread, whatever it holds; neither waits, and either may be NULL.  stop: device
     * `id` cannot go on (an I/O error under werror=stop): the VM is stopped soon, and
     * resumes when a person says so.  event: a QMP event for whoever listens; takes
     * `data`, which may be NULL. */
    void (*stop)(void *opaque, const char *id);
    void (*event)(void *opaque, const char *name, json_t *data);
    void *opaque;
} VirtioEnv;

typedef struct VirtioOps {
    const char *name;         /* "blk"; the id where none was given */
    uint16_t id;              /* virtio 1.2, 5 */
    uint32_t pci_class;       /* class, subclass, prog-if in the low 24 bits */
    const char *option;       /* command-line option without dashes: "disk" */
    const char *help;         /* one line for --help */
    const ParamTable *params; /* of its options; NULL: a plain flag */
    size_t size;              /* of the instance, whose first member is a VirtioDevice */
    uint16_t queue_size;      /* most entries a queue may have */
    uint32_t config_size;     /* bytes of device configuration */
    bool own_thread;          /* an I/O thread of its own instead of the shared one */
    /* Main thread, may be NULL: makes options of a snapshot, which may be of an older
     * hutch, say what was true of the device then. */
    void (*options_of_snapshot)(void *options);
    bool (*wants_shared)(const void *options); /* may be NULL; any thread: as `remote` is
                                                  always, guest RAM is to be shared */
    bool remote; /* another process works in guest RAM (vhost-user), which must be
                    shared.  What it writes besides answered requests is in no
                    dirty log, which pins the device: no snapshot while it is
                    live */

    /* Main thread.  realize sets v->n_queues, v->offered and what the config space shows;
     * it may fail.  release gets half-built instances too. */
    bool (*realize)(VirtioDevice *v, const void *options, GError **error);
    void (*release)(VirtioDevice *v);

    /* Main thread, may be NULL: makes its option, an object as of param_to_json(), what
     * is true of it by now, where it was changed since it was made. */
    void (*describe)(VirtioDevice *v, json_t *option);

    /* vCPU thread, the transport's device lock held; offset + len <= config_size.  write
     * may be NULL: nothing in the config space is writable. */
    void (*config_read)(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len);
    void (*config_write)(VirtioDevice *v, uint32_t offset, const void *buf, uint32_t len);

    /* The device's I/O thread. activate: queues are live, v->features is final (may be
     * NULL); handle: the guest notified vq; quiesce: complete everything in flight, touch
     * no ring after (may be NULL); resume: go on after that (may be NULL); reset: forget
     * what the driver told us, and what is held back (may be NULL). */
    bool (*activate)(VirtioDevice *v, GError **error);
    void (*handle)(VirtioDevice *v, Virtqueue *vq);
    void (*hurry)(VirtioDevice *v); /* any thread, may be NULL: the VM ends, do not wait
                                       long for what does not answer */
    bool (*poll)(VirtioDevice *v);  /* optional: true if there was work; see IoPoller */
    void (*quiesce)(VirtioDevice *v);
    void (*resume)(VirtioDevice *v);
    void (*reset)(VirtioDevice *v);

    /* Main thread; each may be NULL, and what is `remote` is pinned.  pinned: why the
     * device cannot be saved (any time).  save: what is the device's own, in a pause.
     * load: the same into a device that was just made: features, queues and `live` are
     * what they were, nothing runs, and nothing outside may be touched; what the I/O
     * thread has to do is the next resume's, where v->restored says so. */
    const char *(*pinned)(const VirtioDevice *v);
    void (*save)(VirtioDevice *v, StateWriter *w);
    bool (*load)(VirtioDevice *v, StateReader *r, GError **error);
    /* Features that depend on the host: a driver that has them keeps them in a restore,
     * and the device does without. */
    uint64_t kept_features;
} VirtioOps;

/* How a device reaches its driver; the transport's.  Any thread, lock-free. */
typedef struct VirtioBinding {
    void (*interrupt)(void *opaque, int queue); /* index, or VIRTIO_CONFIG_VECTOR */
    /* While a vCPU holds the device's lock and waits, or vCPUs are parked.  Optional:
     * what signals eventfd `fd` interrupts the driver without a detour through this
     * process, whenever that is possible, until fd is -1.  Whoever made the eventfd
     * watches it for the rest of the time, and calls interrupt. */
    void (*direct)(void *opaque, unsigned queue, int fd);
} VirtioBinding;

typedef struct VqSlot {
    Virtqueue vq;
    VqConfig reg;  /* the transport's registers until DRIVER_OK */
    IoWatch watch; /* of vq.kick_fd */
    bool stalled;  /* handle() left work behind: not to be polled until it is kicked */
} VqSlot;

/* How long an own I/O thread looks for more before it sleeps; the loop's. */
typedef struct VirtioPolling {
    IoPoller poller;
    bool on;           /* kicks are off: the window is open */
    int64_t window_ns; /* 0: it did not pay lately */
    int64_t last_work_ns;
    uint64_t seen; /* v->activity at the last look */
} VirtioPolling;

struct VirtioDevice {
    const VirtioOps *ops;
    char id[32];
    const VirtioEnv *env;
    GuestMem *gm;
    IoLoop *loop; /* its I/O thread: shared_io, or its own */
    uint64_t offered;
    unsigned n_queues;
    uint32_t config_size; /* as ops has it, unless realize says less */
    VqSlot *queues;

    /* Under the transport's device lock. */
    uint64_t features; /* as accepted by the driver */
    uint32_t feature_select[2];
    bool quiesced;
    bool live;     /* activated, not reset since */
    bool restored; /* from load to the end of the first resume */

    /* Set by realize: so many of the queues, from the first, are ones whose rings another
     * process has; they are not listened to here, and realize offers the ring features
     * too.  activate may say another number, if not 0. */
    unsigned rings_elsewhere;

    uint8_t status;             /* atomic: the I/O thread sets NEEDS_RESET */
    bool broken;                /* atomic */
    uint32_t config_generation; /* atomic */
    LogLimit log_limit;
    uint64_t activity; /* pops and flushes; the loop's */
    VirtioPolling polling;
    const VirtioBinding *binding;
    void *binding_opaque;
    IoPost retire;   /* to its loop */
    IoPost *retired; /* to the main loop; NULL: it is not being retired */
};

/* ---- for devices ---------------------------------------------------------------- */

/* Any thread.  The guest broke a rule: sets DEVICE_NEEDS_RESET, tells the driver, logs
 * one line (rate-limited), and no queue of the device is served until it is reset. */
void virtio_broken(VirtioDevice *v, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
bool virtio_is_broken(const VirtioDevice *v);

/* The I/O thread, before it returns requests that took a while: more may follow at once.
 */
void virtio_expect(VirtioDevice *v);

/* Any thread.  The config space changed: new generation, then the interrupt. */
void virtio_config_changed(VirtioDevice *v);

static inline bool virtio_has_feature(const VirtioDevice *v, unsigned bit)
{
    return v->features >> bit & 1;
}

/* ---- for transports and the machine --------------------------------------------- */

/* Main thread.  Makes a device with its I/O thread, ready to be put on a transport;
 * options is the struct of ops->params or NULL.  The id is options', else `id`,
 * else the device's name. */
VirtioDevice *virtio_new(const VirtioOps *ops, const char *id, const void *options,
                         const VirtioEnv *env, GError **error);
void virtio_free(VirtioDevice *v); /* NULL is fine */
void virtio_bind(VirtioDevice *v, const VirtioBinding *binding, void *opaque);

/* vCPU thread with the transport's device lock held: the registers of 4.1.4.3 and 4.2.2.
 */
uint32_t virtio_device_features(const VirtioDevice *v); /* by feature_select[0] */
void virtio_set_driver_features(VirtioDevice *v, uint32_t value); /* by [1] */
uint32_t virtio_driver_features(const VirtioDevice *v);
uint8_t virtio_status(const VirtioDevice *v);
void virtio_set_status(VirtioDevice *v,
                       uint8_t value); /* 0 resets; waits for the I/O thread */
VqConfig *virtio_queue_config(VirtioDevice *v,
                              unsigned queue); /* NULL: absent, or frozen */
const VqConfig *virtio_queue_peek(const VirtioDevice *v,
                                  unsigned queue);       /* NULL: absent */
void virtio_queue_kick(VirtioDevice *v, unsigned queue); /* any thread */
void virtio_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len);
void virtio_config_write(VirtioDevice *v, uint32_t offset, const void *buf, uint32_t len);

/* Main thread, when no vCPU reaches the device any more.  Its I/O thread ends what is in
 * flight, which may take as long as the backend does, and then posts `retired` to the
 * main loop: virtio_free() will then not have to wait. */
void virtio_retire(VirtioDevice *v, IoPost *retired);
void virtio_wait_retired(VirtioDevice *v); /* until nothing is in flight */

/* Main thread, vCPUs parked. */
void virtio_reset(VirtioDevice *v);
void virtio_quiesce(VirtioDevice *v);
void virtio_resume(VirtioDevice *v);

/* Main thread, paused, between reset and resume of the same machine, or of one with the
 * same configuration.  pinned: why it cannot be saved, any time; NULL: it can.  load:
 * into a device that was just made; it is then paused, and serves from the resume on.
 * Errors begin with its id. */
const char *virtio_pinned(const VirtioDevice *v);
void virtio_save(VirtioDevice *v, StateWriter *w);
bool virtio_load(VirtioDevice *v, StateReader *r, GError **error);

/* The list of what we emulate, in probe order; ends with NULL. */
extern const VirtioOps *const virtio_table[];
