/* Saved states of virtio devices (virtio/state.c and what each device adds), and the
 * devices that go on from them.
 *
 * Input: a state file; its sums are put right first.  Each device that it has something
 * of is made anew and loads it over memory in which rings lie; if it does, it has to run,
 * to be saved again, and to work after a reset. */
#include "../unit/state/sums.h"
#include "../unit/virtio/saved_devices.h"
#include "mutate_state.h"
#include "util/log.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static SavedDevices s;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_set_level(LOG_ERROR);
    saved_open(&s);
    return 0;
}

static void run(VqGuest *g)
{
    vqg_resume(g);
    for (unsigned q = 0; q < g->vdev->n_queues; q++)
        vqg_poke(g, q);
    g_bytes_unref(vqg_save(g)); /* fails loudly */
    vqg_resume(g);
    vqg_reset(g);
    vqg_start(g);
    g_assert_false(vqg_broken(g));
    vqg_reset(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_malloc(size + 1);

    memcpy(copy, data, size);
    state_fix_sums(copy, size);
    g_autoptr(GBytes) bytes = g_bytes_new(copy, size);
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);
    for (unsigned i = 0; r && i < SAVED_KINDS; i++)
        if (saved_has(&s, i, r) && saved_load(&s, i, r, NULL))
            run(&s.g[i]);
    return 0;
}
