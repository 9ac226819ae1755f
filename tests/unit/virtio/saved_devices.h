/* One of each virtio device with something to be saved, for tests that look at all of
 * them at once: golden files and the fuzzer. */
#pragma once

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "util/bits.h"
#include "virtio/devices.h"
#include "vq_guest.h"

enum { SAVED_DISK = 1 << 20, SAVED_KINDS = 5 };

typedef struct SavedDevices {
    char *dir;
    VqGuest g[SAVED_KINDS];
    void *options[SAVED_KINDS];
} SavedDevices;

static const struct {
    const VirtioOps *ops;
    const char *options; /* %s: the folder */
    unsigned mode;
} saved_kinds[SAVED_KINDS] = {
    {&virtio_blk_ops, "%s/disk,aio=threads,queues=1,cache=writethrough,werror=stop",
     VQG_INDIRECT | VQG_EVENT_IDX},
    {&virtio_net_ops, "user,mac=52:54:00:00:00:01", VQG_PACKED | VQG_EVENT_IDX},
    {&virtio_console_ops, "none,name=agent", 0},
    {&virtio_rng_ops, NULL, VQG_PACKED},
    {&virtio_vsock_ops, "3,path=%s/vsock", VQG_EVENT_IDX},
};

static void saved_stop(void *opaque, const char *id)
{
}

static inline void saved_make_disk(const SavedDevices *s)
{
    g_autofree char *path = g_build_filename(s->dir, "disk", NULL);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, SAVED_DISK), ==, 0);
    close(fd);
}

/* At DRIVER_OK, with a buffer on each queue that takes some. */
static inline void saved_open(SavedDevices *s)
{
    memset(s, 0, sizeof(*s));
    s->dir = g_dir_make_tmp("hutch-saved-XXXXXX", NULL);
    saved_make_disk(s);
    for (unsigned i = 0; i < SAVED_KINDS; i++) {
        const VirtioOps *ops = saved_kinds[i].ops;
        GError *error = NULL;

        if (saved_kinds[i].options) {
            char **parts = g_strsplit(saved_kinds[i].options, "%s", 2);
            g_autofree char *text = g_strjoinv(s->dir, parts);

            s->options[i] = param_new(ops->params);
            param_parse(ops->params, s->options[i], text, &error);
            g_assert_no_error(error);
            g_strfreev(parts);
        }
        vqg_open(&s->g[i], ops,
                 &(VqgSetup){.mode = saved_kinds[i].mode, .options = s->options[i]});
        s->g[i].env.stop = saved_stop;
    }
}

static inline void saved_close(SavedDevices *s)
{
    static const char *const files[] = {"disk", "vsock"};

    for (unsigned i = 0; i < SAVED_KINDS; i++) {
        vqg_finish(&s->g[i]);
        if (s->options[i])
            param_free(saved_kinds[i].ops->params, s->options[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(s->dir, files[i], NULL);

        g_remove(path);
    }
    g_rmdir(s->dir);
    g_free(s->dir);
}

/* All of them, paused, in one state. */
static inline GBytes *saved_save(SavedDevices *s)
{
    StateWriter *w = state_writer_new();
    GError *error = NULL;
    GBytes *state;

    for (unsigned i = 0; i < SAVED_KINDS; i++) {
        virtio_quiesce(s->g[i].vdev);
        virtio_save(s->g[i].vdev, w);
    }
    state = state_writer_end(w, &error);
    g_assert_no_error(error);
    return state;
}

static inline bool saved_has(SavedDevices *s, unsigned i, StateReader *r)
{
    g_autofree char *section = g_strdup_printf("%s/virtio", s->g[i].vdev->id);

    return state_has(r, section);
}

/* Into a new device in the place of kind i's. */
static inline bool saved_load(SavedDevices *s, unsigned i, StateReader *r, GError **error)
{
    vqg_replace(&s->g[i], s->options[i]);
    return virtio_load(s->g[i].vdev, r, error);
}
