/* MSI-X (PCI Local Bus 3.0, 6.8.2): the table of messages, the pending bits, and the way
 * from "vector n happened" on any thread to an eventfd that KVM turns into an interrupt.
 *
 * The table belongs to the vCPU threads, under the device's lock.  msix_notify() takes no
 * lock; between it and a vCPU that masks or unmasks stand two flags for each vector:
 *
 *   live     written by the vCPU: the vector is enabled, unmasked and routed
 *   pending  written by both: an interrupt waits for the vector to become live
 *
 *     notify                              unmask
 *     N1  if (live) { fire; done }        U1  route the message
 *     N2  pending = 1                     U2  live = 1
 *     N3  if (live && take(pending))      U3  if (take(pending))
 *             fire                                fire
 *
 * All four accesses N2, N3, U2, U3 are sequentially consistent, so either N3 sees live or
 * U3 sees pending (or both): nothing is lost.  take() is an exchange, so one of them
 * fires, not both: nothing is doubled.  U1 is before U2, which N1 and N3 acquire, so a
 * vector is never fired without a route; and once made, its eventfd stays until the
 * device is freed.
 *
 * A vector may have an eventfd that another process signals (msix_direct).  KVM has it
 * while the vector is live, so that nobody here is woken; for the rest of the time its
 * owner hears it, and notifies.  KVM looks at an eventfd when it gets it, so that what
 * was signalled at the wrong moment may interrupt twice, but not never.
 *
 * Masking only clears live.  A notify that was past N1 still fires: its message was on
 * the way when the guest masked, as it may be on a real bus. */
#include <stdatomic.h>

#include "devices/pci.h"
#include "devices/pci_private.h"
#include "devices/state_private.h"
#include "util/bits.h"

enum {
    CAP_ID = 0x11,
    CAP_LEN = 12,
    CONTROL = 2, /* offsets in the capability */
    TABLE = 4,
    PBA = 8,
    MAX_VECTORS = 2048,
    ENTRY_SIZE = 16,
};
enum { CONTROL_ENABLE = 0x8000, CONTROL_MASK_ALL = 0x4000 };
enum { ADDR_LOW, ADDR_HIGH, DATA, VECTOR_CONTROL, ENTRY_WORDS };
enum { VECTOR_MASKED = 1 };

typedef struct MsixVector {
    uint32_t entry[ENTRY_WORDS]; /* as the guest sees it; the device's lock */
    Msi msi;
    _Atomic bool live, pending;
    int direct;  /* the device's lock; -1: none */
    bool joined; /* KVM has it */
} MsixVector;

struct Msix {
    PciDevice *p;
    uint8_t cap;
    uint16_t control; /* as last acted upon; the device's lock */
    _Atomic bool enabled;
    uint32_t table, pba;
    unsigned n;
    MsixVector vector[];
};

Msix *msix_add(PciDevice *p, unsigned bar, uint32_t table, uint32_t pba,
               unsigned n_vectors)
{
    g_return_val_if_fail(n_vectors >= 1 && n_vectors <= MAX_VECTORS, NULL);
    g_return_val_if_fail(bar < PCI_BARS && is_aligned(table | pba, 8), NULL);

    Msix *m = g_malloc0(sizeof(*m) + n_vectors * sizeof(m->vector[0]));
    uint8_t *config = p->s.config;

    m->p = p;
    m->table = table;
    m->pba = pba;
    m->n = n_vectors;
    m->cap = pci_add_cap(p, CAP_ID, CAP_LEN);
    store_le16(config + m->cap + CONTROL, n_vectors - 1);
    store_le16(p->writable + m->cap + CONTROL, CONTROL_ENABLE | CONTROL_MASK_ALL);
    store_le32(config + m->cap + TABLE, table | bar);
    store_le32(config + m->cap + PBA, pba | bar);
    p->msix = m;
    for (unsigned i = 0; i < n_vectors; i++)
        m->vector[i].direct = -1;
    msix_reset(m);
    return m;
}

static void join(MsixVector *v, bool on)
{
    if (on != v->joined)
        v->joined = msi_join(&v->msi, v->direct, on) && on;
}

void msix_free(Msix *m)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->n; i++) {
        join(&m->vector[i], false);
        msi_finish(&m->vector[i].msi);
    }
    g_free(m);
}

unsigned msix_vectors(const Msix *m)
{
    return m->n;
}

bool msix_enabled(const Msix *m)
{
    return atomic_load_explicit(&m->enabled, memory_order_acquire);
}

/* ---- the guest's side: device's lock held, or vCPUs parked --------------------- */

static bool route(Msix *m, MsixVector *v)
{
    const PciBusConfig *bus = m->p->bus ? pci_bus_config(m->p->bus) : NULL;
    uint64_t addr = (uint64_t)v->entry[ADDR_HIGH] << 32 | v->entry[ADDR_LOW];

    if (v->msi.ic && v->msi.addr == addr && v->msi.data == v->entry[DATA])
        return true;
    return bus && msi_route(&v->msi, bus->ic, addr, v->entry[DATA]);
}

/* Recomputes `live`, which is a function of the registers; see the top of the file. */
static void update_vector(Msix *m, MsixVector *v)
{
    bool want = (m->control & CONTROL_ENABLE) && !(m->control & CONTROL_MASK_ALL) &&
                !(v->entry[VECTOR_CONTROL] & VECTOR_MASKED);
    bool live = want && route(m, v);

    atomic_store(&v->live, live);
    join(v, live && v->direct >= 0);
    if (live && atomic_exchange(&v->pending, false))
        msi_fire(&v->msi);
}

void msix_direct(Msix *m, unsigned vector, int fd, bool on)
{
    MsixVector *v = vector < m->n ? &m->vector[vector] : NULL;

    if (!v || v->direct != (on ? -1 : fd))
        return;
    join(v, false);
    v->direct = on ? fd : -1;
    join(v, on && atomic_load(&v->live));
}

void msix_control_changed(Msix *m)
{
    uint16_t control = load_le16(m->p->s.config + m->cap + CONTROL);
    bool enable = control & CONTROL_ENABLE;

    if (control == m->control)
        return;
    m->control = control;
    if (!enable)
        atomic_store(&m->enabled, false);
    for (unsigned i = 0; i < m->n; i++) {
        update_vector(m, &m->vector[i]);
        if (!enable)
            atomic_store(&m->vector[i].pending, false);
    }
    if (enable)
        atomic_store(&m->enabled, true);
}

void msix_reset(Msix *m)
{
    uint8_t *control = m->p->s.config + m->cap + CONTROL;

    for (unsigned i = 0; i < m->n; i++) {
        uint32_t *entry = m->vector[i].entry;
        entry[ADDR_LOW] = entry[ADDR_HIGH] = entry[DATA] = 0;
        entry[VECTOR_CONTROL] = VECTOR_MASKED;
    }
    store_le16(control, load_le16(control) & ~(CONTROL_ENABLE | CONTROL_MASK_ALL));
    msix_control_changed(m);
}

static uint8_t table_byte(const Msix *m, uint64_t at)
{
    const MsixVector *v = &m->vector[at / ENTRY_SIZE];

    return v->entry[at % ENTRY_SIZE / 4] >> 8 * (at % 4);
}

static uint8_t pending_byte(const Msix *m, uint64_t at)
{
    uint8_t bits = 0;

    for (unsigned i = 0; i < 8 && 8 * at + i < m->n; i++)
        bits |= atomic_load(&m->vector[8 * at + i].pending) << i;
    return bits;
}

/* Any size and alignment reads what is there; bytes past the end are zero. */
bool msix_read(Msix *m, uint64_t bar_offset, unsigned size, uint64_t *value)
{
    uint64_t table_end = m->table + (uint64_t)ENTRY_SIZE * m->n;
    uint64_t pba_end = m->pba + align_up(m->n, 64) / 8;
    bool in_table = bar_offset >= m->table && bar_offset < table_end;
    uint64_t start = in_table ? m->table : m->pba, end = in_table ? table_end : pba_end;

    if (bar_offset < start || bar_offset >= end)
        return false;
    *value = 0;
    for (unsigned i = 0; i < size && bar_offset + i < end; i++) {
        uint64_t at = bar_offset + i - start;
        uint64_t byte = in_table ? table_byte(m, at) : pending_byte(m, at);
        *value |= byte << 8 * i;
    }
    return true;
}

/* Only aligned writes of 4 and 8 bytes are defined; others do nothing.  The pending bits
 * are read-only. */
bool msix_write(Msix *m, uint64_t bar_offset, unsigned size, uint64_t value)
{
    uint64_t end = m->table + (uint64_t)ENTRY_SIZE * m->n;

    if (bar_offset >= m->pba && bar_offset < m->pba + align_up(m->n, 64) / 8)
        return true;
    if (bar_offset < m->table || bar_offset >= end)
        return false;
    if ((size != 4 && size != 8) || !is_aligned(bar_offset, 4))
        return true;

    for (unsigned i = 0; i < size / 4 && bar_offset + 4 * i < end; i++) {
        uint64_t at = bar_offset + 4 * i - m->table;
        MsixVector *v = &m->vector[at / ENTRY_SIZE];
        unsigned word = at % ENTRY_SIZE / 4;
        uint32_t mask = word == VECTOR_CONTROL ? VECTOR_MASKED
                        : word == ADDR_LOW     ? ~3u
                                               : ~0u;
        v->entry[word] = value >> 32 * i & mask;
        update_vector(m, v);
    }
    return true;
}

/* ---- saved state: vCPUs parked, nobody notifies -------------------------------- */

typedef struct MsixVectorState {
    uint32_t address_low, address_high, data, control;
    bool pending;
    bool live; /* its message was routed, and left at once */
} MsixVectorState;

typedef struct MsixState {
    uint32_t n;
    MsixVectorState vector[MAX_VECTORS];
} MsixState;

static const StateField vector_fields[] = {
    STATE_FIELD(MsixVectorState, address_low, 1, U32),
    STATE_FIELD(MsixVectorState, address_high, 2, U32),
    STATE_FIELD(MsixVectorState, data, 3, U32, .help = "of the message: vector and kind"),
    STATE_FIELD(MsixVectorState, control, 4, U32, .max = VECTOR_MASKED,
                .help = "1: masked"),
    STATE_FIELD(MsixVectorState, pending, 5, BOOL,
                .help = "to be sent when it is unmasked"),
    STATE_FIELD(MsixVectorState, live, 6, BOOL, .help = "neither masked nor refused"),
    STATE_HOLE_AT_END(MsixVectorState, live),
    {},
};

static bool vector_check(const void *p, GError **error)
{
    const MsixVectorState *v = p;

    return (is_aligned(v->address_low, 4) &&
            !(v->live && (v->control & VECTOR_MASKED))) ||
           fail(error, VM_ERROR_CORRUPT, "a message to 0x%x with control 0x%x cannot be",
                v->address_low, v->control);
}

static const StateTable vector_table = {.name = "msix-vector",
                                        .version = 1,
                                        .size = sizeof(MsixVectorState),
                                        .fields = vector_fields,
                                        .check = vector_check};

static const StateField msix_fields[] = {
    STATE_LIST(MsixState, vector, n, 1, &vector_table),
    {},
};

const StateTable msix_state_table = {
    .name = "msix", .version = 1, .size = sizeof(MsixState), .fields = msix_fields};

static char *section_name(const Msix *m)
{
    return g_strdup_printf("%s/msix", m->p->dev.id);
}

void msix_save(Msix *m, StateWriter *w)
{
    g_autofree MsixState *s = g_new0(MsixState, 1);
    g_autofree char *section = section_name(m);

    s->n = m->n;
    for (unsigned i = 0; i < m->n; i++) {
        MsixVector *v = &m->vector[i];

        s->vector[i] = (MsixVectorState){
            .address_low = v->entry[ADDR_LOW],
            .address_high = v->entry[ADDR_HIGH],
            .data = v->entry[DATA],
            .control = v->entry[VECTOR_CONTROL],
            .pending = atomic_load(&v->pending),
            .live = atomic_load(&v->live),
        };
    }
    state_put(w, section, &msix_state_table, s);
}

/* What is live gets its route anew.  A vector that should be and was not had a message
 * that the kernel refused, and stays so until it is written again. */
static bool load_vector(Msix *m, unsigned i, const MsixVectorState *s, GError **error)
{
    MsixVector *v = &m->vector[i];
    bool masked = !(m->control & CONTROL_ENABLE) || (m->control & CONTROL_MASK_ALL);

    v->entry[ADDR_LOW] = s->address_low;
    v->entry[ADDR_HIGH] = s->address_high;
    v->entry[DATA] = s->data;
    v->entry[VECTOR_CONTROL] = s->control;
    if (s->live && (masked || !route(m, v)))
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section '%s/msix', field 'vector[%u]': its message cannot be "
                    "routed here",
                    m->p->dev.id, i);
    atomic_store(&v->live, s->live);
    atomic_store(&v->pending, s->pending && !s->live);
    return true;
}

bool msix_load(Msix *m, StateReader *r, GError **error)
{
    g_autofree MsixState *s = g_new(MsixState, 1);
    g_autofree char *section = section_name(m);

    if (!state_get(r, section, &msix_state_table, s, error))
        return false;
    if (s->n != m->n)
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section '%s', field 'vector': it has %u elements, and this "
                    "device has %u vectors",
                    section, s->n, m->n);
    m->control = load_le16(m->p->s.config + m->cap + CONTROL);
    for (unsigned i = 0; i < m->n; i++)
        if (!load_vector(m, i, &s->vector[i], error))
            return false;
    atomic_store(&m->enabled, (m->control & CONTROL_ENABLE) != 0);
    return true;
}

/* ---- the device's side: any thread --------------------------------------------- */

void msix_notify(Msix *m, unsigned vector)
{
    if (vector >= m->n || !msix_enabled(m))
        return;

    MsixVector *v = &m->vector[vector];
    if (!atomic_load_explicit(&v->live, memory_order_acquire)) {
        atomic_store(&v->pending, true);
        if (!atomic_load(&v->live) || !atomic_exchange(&v->pending, false))
            return;
    }
    msi_fire(&v->msi);
}
