/* A chardev in a saved state: bytes under way, and nothing of who is at its other end.
 *
 * Output that no reader has taken is written where the restored VM's console leads to;
 * with a log, what was read before goes along, since the next client is told of it.  The
 * log itself has all of that already.  Bytes are kept aside until the VM goes on: a
 * restore that fails has written nothing. */
#include <string.h>

#include "backend/state_tables.h"
#include "src/chardev/chardev_private.h"

enum { OUTPUT, INPUT };

typedef struct ChardevState {
    StateBlob output, input;
} ChardevState;

static const StateField fields[] = {
    STATE_DATA(ChardevState, output, 1, CHARDEV_RING,
               .help = "written by the guest, and not taken by a reader"),
    STATE_DATA(ChardevState, input, 2, CHARDEV_READ_AHEAD,
               .help = "read for the guest, and not taken by it"),
    {},
};

const StateTable chardev_state_table = {
    .name = "chardev",
    .version = 1,
    .size = sizeof(ChardevState),
    .fields = fields,
};

static StateBlob copy_ring(Chardev *c)
{
    StateBlob b = {0};
    size_t start, first;

    LOCK_GUARD(&c->lock);
    b.size = (uint32_t)(c->history + c->used);
    if (!b.size)
        return b;
    start = (c->head + CHARDEV_RING - c->history) % CHARDEV_RING;
    first = MIN(b.size, CHARDEV_RING - start);
    b.data = g_malloc(b.size);
    memcpy(b.data, c->ring + start, first);
    memcpy(b.data + first, c->ring, b.size - first);
    return b;
}

static StateBlob copy(const void *data, size_t size)
{
    StateBlob b = {size ? g_malloc(size) : NULL, (uint32_t)size};

    if (size)
        memcpy(b.data, data, size);
    return b;
}

void chardev_save(Chardev *c, const char *section, StateWriter *w)
{
    const StateBlob *kept = c->loaded;
    ChardevState s = {
        .output = kept[OUTPUT].size ? copy(kept[OUTPUT].data, kept[OUTPUT].size)
                                    : copy_ring(c),
        .input = kept[INPUT].size ? copy(kept[INPUT].data, kept[INPUT].size)
                                  : copy(c->ahead + c->ahead_at, c->ahead_len),
    };

    state_put(w, section, &chardev_state_table, &s);
    state_clear(&chardev_state_table, &s);
}

bool chardev_load(Chardev *c, const char *section, StateReader *r, GError **error)
{
    ChardevState s;

    if (!state_has(r, section))
        return true;
    if (!state_get(r, section, &chardev_state_table, &s, error))
        return false;
    if (!c) {
        state_clear(&chardev_state_table, &s);
        return true;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(c->loaded); i++)
        g_free(c->loaded[i].data);
    c->loaded[OUTPUT] = s.output;
    c->loaded[INPUT] = s.input;
    return true;
}

/* Input that came meanwhile stays behind what was there before, as far as it fits. */
static void put_input(Chardev *c, const StateBlob *b)
{
    size_t later = MIN(c->ahead_len, sizeof(c->ahead) - b->size);

    if (!b->size)
        return;
    memmove(c->ahead + b->size, c->ahead + c->ahead_at, later);
    memcpy(c->ahead, b->data, b->size);
    c->ahead_at = 0;
    c->ahead_len = b->size + later;
}

void chardev_restored(Chardev *c)
{
    if (c->loaded[OUTPUT].size)
        chardev_requeue(c, c->loaded[OUTPUT].data, c->loaded[OUTPUT].size);
    put_input(c, &c->loaded[INPUT]);
    for (unsigned i = 0; i < G_N_ELEMENTS(c->loaded); i++) {
        g_clear_pointer(&c->loaded[i].data, g_free);
        c->loaded[i].size = 0;
    }
    chardev_kick(c);
}
