/* A console in a saved state: who has it open, what the guest is yet to be told, and by
 * chardev.h the bytes under way.  Whoever was at the other end on the host is not there
 * any more, which the guest of a named port hears when it goes on. */
#include "console_private.h"
#include "state_private.h"
#include "virtio/state.h"

typedef struct ConsoleState {
    uint64_t tx_done;
    uint32_t size;
    uint8_t tell;
    bool host_open, guest_open, spoken;
} ConsoleState;

static const StateField state_fields[] = {
    STATE_FIELD(ConsoleState, tx_done, 1, U64,
                .help = "bytes of the next output request that are written"),
    STATE_FIELD(ConsoleState, size, 2, U32, .help = "columns, and rows in the high half"),
    STATE_FIELD(ConsoleState, tell, 3, U8,
                .max = CONSOLE_TELL_ADD | CONSOLE_TELL_NAME | CONSOLE_TELL_OPEN,
                .help = "control messages that wait for a buffer, as bits"),
    STATE_FIELD(ConsoleState, host_open, 4, BOOL),
    STATE_FIELD(ConsoleState, guest_open, 5, BOOL),
    STATE_FIELD(ConsoleState, spoken, 6, BOOL),
    {},
};

const StateTable virtio_console_state_table = {
    .name = "console",
    .version = 1,
    .size = sizeof(ConsoleState),
    .fields = state_fields,
};

static void save_on_loop(VirtioDevice *v, StateWriter *w)
{
    Console *c = (Console *)v;
    const ConsoleState s = {
        .tx_done = c->tx_done,
        .size = __atomic_load_n(&c->size, __ATOMIC_RELAXED),
        .tell = (uint8_t)c->tell,
        .host_open = v->restored ? c->was_open : c->host_open,
        .guest_open = __atomic_load_n(&c->guest_open, __ATOMIC_RELAXED),
        .spoken = c->spoken,
    };
    char name[64];

    state_put(w, virtio_section(v, "console", name), &virtio_console_state_table, &s);
    chardev_save(c->chardev, virtio_section(v, "chardev", name), w);
}

void console_save(VirtioDevice *v, StateWriter *w)
{
    virtio_save_on_loop(v, save_on_loop, w);
}

/* A size that the host does not know stays as the guest has it. */
static void load_size(Console *c, uint32_t size)
{
    uint32_t now = __atomic_load_n(&c->size, __ATOMIC_RELAXED);

    c->resized = now && now != size;
    if (!now)
        __atomic_store_n(&c->size, size, __ATOMIC_RELAXED);
}

static bool load_on_loop(VirtioDevice *v, StateReader *r, GError **error)
{
    Console *c = (Console *)v;
    ConsoleState s;
    char name[64];

    if (!state_get(r, virtio_section(v, "console", name), &virtio_console_state_table, &s,
                   error))
        return false;
    c->tx_done = s.tx_done;
    c->tell = s.tell;
    c->spoken = s.spoken;
    c->was_open = s.host_open;
    console_set_open(c, s.guest_open);
    load_size(c, s.size);
    return chardev_load(c->chardev, virtio_section(v, "chardev", name), r, error);
}

bool console_load(VirtioDevice *v, StateReader *r, GError **error)
{
    return virtio_load_on_loop(v, load_on_loop, r, error);
}

/* Whoever was at the other end is not there any more, or somebody is. */
void console_resume(VirtioDevice *v)
{
    Console *c = (Console *)v;

    if (!v->restored)
        return;
    if (c->host_open != c->was_open && virtio_has_feature(v, VIRTIO_CONSOLE_F_MULTIPORT))
        console_tell(c, CONSOLE_TELL_OPEN);
    if (c->resized)
        virtio_config_changed(v);
    chardev_restored(c->chardev);
}
