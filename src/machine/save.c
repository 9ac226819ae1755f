/* Saving a machine and making it again: what is said of it as a whole, and in which order
 * its parts are asked.  Guest RAM is not here, but whether it is written to; firmware
 * tables and the kernel lie in it and are restored with it.
 *
 * Sections, in this order: "machine", "vcpu0" and on, the architecture's, the board's
 * devices, PCI with what is on it.  A restored machine takes all of them, or is refused.
 */
#include "kvm/arch.h"
#include "machine/state_tables.h"
#include "machine_private.h"
#include "util/bits.h"

/* ---- what the machine is ------------------------------------------------------- */

static const StateField device_fields[] = {
    STATE_STRING(SavedDevice, id, 1, .help = "the device's id"),
    STATE_STRING(SavedDevice, kind, 2, .help = "the option that makes one"),
    STATE_FIELD(SavedDevice, slot, 3, U32, .help = "on PCI; 4294967295: virtio-mmio"),
    {0},
};

static bool check_device(const void *s, GError **error)
{
    const SavedDevice *d = s;

    return d->slot < PCI_MAX_SLOTS || d->slot == SAVED_NO_SLOT ||
           fail(error, VM_ERROR_CORRUPT, "there is no PCI slot %u", d->slot);
}

static const StateTable device_table = {
    .name = "device",
    .version = 1,
    .size = sizeof(SavedDevice),
    .fields = device_fields,
    .check = check_device,
};

static const StateField region_fields[] = {
    STATE_FIELD(SavedRegion, gpa, 1, U64, .help = "guest-physical address"),
    STATE_FIELD(SavedRegion, size, 2, U64, .help = "bytes"),
    {0},
};
static const StateTable region_table = {
    .name = "ram",
    .version = 1,
    .size = sizeof(SavedRegion),
    .fields = region_fields,
};

static const StateField machine_fields[] = {
    STATE_LIST(SavedMachine, region, n_regions, 1, &region_table,
               .help = "guest RAM, in the order of the memory file"),
    STATE_FIELD(SavedMachine, cpus, 2, U32, .min = 1, .max = CONFIG_MAX_CPUS),
    STATE_FIELD(SavedMachine, transport, 3, U32, .max = TRANSPORT_MMIO,
                .help = "0: PCI, 1: virtio-mmio"),
    STATE_FIELD(SavedMachine, state, 4, U32, .max = STATE_SHUTDOWN,
                .help = "0: had not begun, 1: running, 2: paused, 3: I/O error"),
    STATE_FIELD(SavedMachine, resets, 5, U32, .help = "how often it was reset"),
    STATE_LIST(SavedMachine, device, n_devices, 6, &device_table,
               .help = "virtio devices, in the order of config.json"),
    {0},
};

static const StateTable machine_table = {
    .name = "machine",
    .version = 1,
    .size = sizeof(SavedMachine),
    .fields = machine_fields,
};

const StateTable *const machine_state_tables[] = {&machine_table, NULL};

bool machine_load_identity(Machine *m, SavedMachine *ret, GError **error)
{
    const Config *cfg = m->config;
    uint64_t ram = 0;

    if (!state_get(m->restore->state, "machine", &machine_table, ret, error))
        return false;
    for (unsigned i = 0; i < ret->n_regions; i++)
        ram += ret->region[i].size;
    if (ram != cfg->memory.size)
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section 'machine': it is of a machine with %" G_GUINT64_FORMAT
                    " bytes of memory, and the config says %" G_GUINT64_FORMAT,
                    ram, cfg->memory.size);
    if (ret->cpus != cfg->cpus)
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section 'machine': it is of a machine with %u vCPUs, and the "
                    "config says %u",
                    ret->cpus, (unsigned)cfg->cpus);
    if (ret->transport != (uint32_t)cfg->transport)
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section 'machine': its virtio devices are not on the "
                    "transport that the config says");
    m->resets = ret->resets;
    return true;
}

static SavedMachine *describe(Machine *m)
{
    SavedMachine *s = g_new0(SavedMachine, 1);

    s->n_regions = m->gm.n_regions;
    for (unsigned i = 0; i < m->gm.n_regions; i++)
        s->region[i] = (SavedRegion){m->gm.region[i].gpa, m->gm.region[i].size};
    s->cpus = m->n_vcpus;
    s->transport = (uint32_t)m->config->transport;
    s->state = m->state;
    s->resets = m->resets;
    hotplug_save_list(m->hotplug, s);
    return s;
}

/* Which addresses the RAM file's pages are at is the board's to say, in every version. */
static bool check_regions(const Machine *m, GError **error)
{
    g_autofree SavedMachine *s = g_new0(SavedMachine, 1);
    bool same;

    if (!state_get(m->restore->state, "machine", &machine_table, s, error))
        return false;
    same = s->n_regions == m->gm.n_regions;
    for (unsigned i = 0; same && i < s->n_regions; i++)
        same = s->region[i].gpa == m->gm.region[i].gpa &&
               s->region[i].size == m->gm.region[i].size;
    return same || fail(error, VM_ERROR_CORRUPT,
                        "state, section 'machine', field 'region': the memory does not "
                        "lie where this hutch's machine has it");
}

/* ---- saving and loading -------------------------------------------------------- */

char *machine_pinned(Machine *m)
{
    char *why = arch_vm_pinned(m->kvm);

    if (!why)
        why = board_pinned(m->board);
    return why ? why : hotplug_pinned(m->hotplug);
}

/* What the guest asked for a moment ago and the main loop has not come to yet: a guest
 * that waits for its power to go off would wait for ever in a restored machine. */
static bool is_on_its_way(const Machine *m)
{
    return __atomic_load_n(&m->end, __ATOMIC_ACQUIRE) != END_NONE ||
           __atomic_load_n(&m->reset_wanted, __ATOMIC_ACQUIRE);
}

bool machine_save(Machine *m, StateWriter *w, GError **error)
{
    g_autofree SavedMachine *saved = NULL;

    if (is_on_its_way(m))
        return fail(error, VM_ERROR_BUSY,
                    "the guest is just ending or being reset; try again in a moment");
    saved = describe(m);
    state_put(w, "machine", &machine_table, saved);
    for (unsigned i = 0; i < m->n_vcpus; i++)
        if (!arch_vcpu_save(m->vcpus[i], w, error))
            return false;
    return arch_vm_save(m->kvm, w, error) && board_save(m->board, w, error);
}

/* Devices before the interrupt controllers, whose state is put over the lines that
 * devices raise: an edge that was delivered before the save is not delivered once more.
 */
bool machine_load(Machine *m, GError **error)
{
    const MachineRestore *r = m->restore;

    if (!check_regions(m, error) || !board_load_state(m->board, r->state, error) ||
        !arch_vm_load(m->kvm, r->state, r->clock, r->elapsed_ns, error))
        return false;
    for (unsigned i = 0; i < m->n_vcpus; i++)
        if (!arch_vcpu_load(m->vcpus[i], r->state, error))
            return false;
    if (r->clock == CLOCK_CATCH_UP)
        board_put_forward(m->board, r->elapsed_ns);
    return state_reader_done(r->state, error) && board_new_generation(m->board, error);
}

/* ---- the config ---------------------------------------------------------------- */

json_t *machine_current_config(Machine *m)
{
    json_t *now = m->config->said ? json_deep_copy(m->config->said)
                                  : config_to_json(m->config);

    json_object_del(now, "paused"); /* how it was begun */
    hotplug_current_config(m->hotplug, now);
    return now;
}

json_t *machine_cpu_needs(Machine *m)
{
    return arch_cpu_needs(m->kvm, m->vcpus[0]);
}

const MachineRestore *machine_restored(const Machine *m)
{
    return m->restore;
}

/* ---- which pages change -------------------------------------------------------- */

/* Other processes that work in the guest's RAM are told of the log when they go on. */
static bool start_own_log(Machine *m, GError **error)
{
    bool pause = m->gm.fd >= 0, ok;

    if (pause)
        machine_pause(m);
    ok = gm_log_start(&m->gm, error);
    if (pause)
        machine_resume(m);
    return ok;
}

/* Devices still mark what they write: nothing may be in flight. */
static void stop_own_log(Machine *m)
{
    machine_pause(m);
    gm_log_stop(&m->gm);
    machine_resume(m);
}

bool machine_log_start(Machine *m, GError **error)
{
    if (!start_own_log(m, error))
        return false;
    if (kvm_dirty_start(m->kvm, error))
        return true;
    stop_own_log(m);
    return false;
}

bool machine_log_fetch(Machine *m, uint64_t *bitmap, GError **error)
{
    gm_log_fetch(&m->gm, bitmap);
    return kvm_dirty_fetch(m->kvm, bitmap, error);
}

void machine_log_stop(Machine *m)
{
    kvm_dirty_stop(m->kvm); /* milliseconds, on some hosts: not in the pause */
    stop_own_log(m);
}

void machine_set_keeper(Machine *m, void *keeper, void (*free_keeper)(void *keeper))
{
    m->keeper = keeper;
    m->free_keeper = free_keeper;
}

void *machine_keeper(const Machine *m)
{
    return m->keeper;
}
