/* See snapshot/state_tables.h. */
#include "snapshot/state_tables.h"

#include <pthread.h>

#include "backend/state_tables.h"
#include "devices/state_tables.h"
#include "kvm/state_tables.h"
#include "machine/state_tables.h"
#include "snapshot/memory.h"
#include "virtio/state_tables.h"

enum { MAX_TABLES = 256 };

/* Back ends are several folders. */
static const StateTable *const backend_state_tables[] = {&chardev_state_table,
                                                         &netdev_user_state_table, NULL};

/* A NULL-terminated list of each layer that has sections; another layer is another line.
 */
static const StateTable *const *const layers[] = {
    kvm_state_tables,     backend_state_tables, devices_state_tables,
    machine_state_tables, memory_state_tables,  virtio_state_tables,
};

static const StateTable *all[MAX_TABLES];

static void collect(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(layers); i++)
        for (const StateTable *const *t = layers[i]; *t && n < MAX_TABLES - 1; t++)
            all[n++] = *t;
}

const StateTable *const *state_all_tables(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, collect);
    return all;
}
