/* Golden files of virtio devices: what the first hutch that could write wrote loads for
 * ever, and the devices go on. */
#include <errno.h>

#include "saved_devices.h"
#include "util/log.h"

/* In the C library's place: a disk that fails while it is told to. */
static bool disk_fails;

int fdatasync(int fd)
{
    errno = EIO;
    return __atomic_load_n(&disk_fails, __ATOMIC_SEQ_CST) ? -1 : 0;
}

static SavedDevices s;

/* A write that an error stopped, so that there is a request in flight. */
static void stop_a_write(void)
{
    VqGuest *g = &s.g[0];
    uint64_t header = vqg_alloc(g, 16), data = vqg_alloc(g, 512),
             status = vqg_alloc(g, 1);

    store_le32(vqg_mem(g, header, 4), 1);
    disk_fails = true;
    vqg_chain(g, 0, (VqgBuf[]){{header, 16, OUT}, {data, 512, OUT}, {status, 1, IN}}, 3);
    vqg_kick(g);
    virtio_quiesce(g->vdev);
    disk_fails = false;
}

/* With HUTCH_GOLDEN_MAKE: writes a file for tests/state/golden, for a new version. */
static void make_golden(void)
{
    const char *path = g_getenv("HUTCH_GOLDEN_MAKE");
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    uint8_t random[16];

    if (!path) {
        g_test_skip("HUTCH_GOLDEN_MAKE is not set");
        return;
    }
    saved_open(&s);
    vqg_do(&s.g[3], 0, NULL, 0, random, sizeof(random));
    stop_a_write();
    state = saved_save(&s);
    saved_close(&s);
    g_file_set_contents(path, g_bytes_get_data(state, NULL), g_bytes_get_size(state),
                        &error);
    g_assert_no_error(error);
}

static void golden_files_load(void)
{
    const char *folder = g_getenv("HUTCH_GOLDEN");
    g_autofree char *path = g_strdup_printf("%s/virtio-1.state", folder);
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) state = NULL;
    g_autoptr(StateReader) r = NULL;
    char *contents;
    gsize size;

    if (!folder) {
        g_test_skip("HUTCH_GOLDEN is not set");
        return;
    }
    g_file_get_contents(path, &contents, &size, &error);
    g_assert_no_error(error);
    state = g_bytes_new_take(contents, size);
    r = state_reader_new(state, &error);
    g_assert_no_error(error);
    saved_open(&s);
    for (unsigned i = 0; i < SAVED_KINDS; i++) {
        saved_load(&s, i, r, &error);
        g_assert_no_error(error);
        vqg_resume(&s.g[i]);
        g_assert_cmpuint(virtio_status(s.g[i].vdev) & VIRTIO_STATUS_DRIVER_OK, !=, 0);
    }
    state_reader_done(r, &error);
    g_assert_no_error(error);
    saved_close(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
    g_test_add_func("/virtio-golden/load", golden_files_load);
    g_test_add_func("/virtio-golden/make", make_golden);
    return g_test_run();
}
