/* virtio-fs (virtio 1.2, 5.11): a folder of the host, mounted by its tag.  FUSE requests
 * are served by virtiofsd, another process, which --share starts and --fs finds at a
 * socket.
 *
 * virtiofsd knows its guest's files by numbers it gave out itself.  One that is started
 * after the first has died does not know them: it answers what was in flight, and what
 * comes after, with errors, until the guest mounts the folder again. */
#include <string.h>

#include "backend/virtiofsd.h"
#include "vhost_user_private.h"
#include "virtio/devices.h"

enum { TAG_LEN = 36, FS_QUEUE_SIZE = 256, MAX_REQUEST_QUEUES = 64 };

/* 5.11.4 */
typedef struct FsConfig {
    uint8_t tag[TAG_LEN]; /* padded with zeroes, without one if it is that long */
    uint32_t num_request_queues;
} FsConfig;
_Static_assert(sizeof(FsConfig) == 40, "as drivers have it");

typedef struct FsOptions {
    VirtioCommonOptions common;
    char *socket, *tag;
    uint64_t queues;
} FsOptions;

typedef struct ShareOptions {
    VirtioCommonOptions common;
    char *folder, *tag;
    bool readonly;
} ShareOptions;

typedef struct Fs {
    VhostDev d;
    FsConfig config;
} Fs;

static bool check_tag(const char *tag, GError **error)
{
    return (*tag && strlen(tag) <= TAG_LEN && g_utf8_validate(tag, -1, NULL)) ||
           fail(error, VM_ERROR_INVALID,
                "tag '%s': the name that a guest mounts is of 1 to %d bytes, in UTF-8",
                tag, TAG_LEN);
}

/* One queue for what cannot wait (FORGET, INTERRUPT) comes before those for requests. */
static bool fs_agree(VhostDev *d, GError **error)
{
    d->v.n_queues = 1 + ((Fs *)d)->config.num_request_queues;
    return true;
}

static bool realize(VirtioDevice *v, const char *tag, uint64_t queues, GError **error)
{
    Fs *fs = (Fs *)v;

    memcpy(fs->config.tag, tag, strlen(tag));
    fs->config.num_request_queues = (uint32_t)queues;
    fs->d.agree = fs_agree;
    fs->d.in_order = true;
    return vhost_dev_realize(&fs->d, error);
}

static bool fs_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    const FsOptions *o = opaque;

    vhost_dev_init(v);
    ((VhostDev *)v)->socket = g_strdup(o->socket);
    return realize(v, o->tag, o->queues, error);
}

static bool share_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    const ShareOptions *o = opaque;
    VhostDev *d = (VhostDev *)v;

    vhost_dev_init(v);
    d->helper_ops = &virtiofsd_helper_ops;
    d->helper = virtiofsd_new(o->folder, o->readonly, v->id, v->loop, error);
    return d->helper && realize(v, o->tag, 1, error);
}

static void fs_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    memcpy(buf, (const uint8_t *)&((Fs *)v)->config + offset, len);
}

static bool fs_check(void *options, GError **error)
{
    return check_tag(((FsOptions *)options)->tag, error);
}

static bool share_check(void *options, GError **error)
{
    return check_tag(((ShareOptions *)options)->tag, error);
}

static const ParamDesc fs_desc[] = {
    {.key = "socket",
     .type = PARAM_PATH,
     .offset = offsetof(FsOptions, socket),
     .arg = "PATH",
     .help = "socket of the virtiofsd that serves it",
     .required = true},
    {.key = "tag",
     .type = PARAM_STRING,
     .offset = offsetof(FsOptions, tag),
     .arg = "NAME",
     .help = "name that the guest mounts: mount -t virtiofs NAME /mnt",
     .required = true},
    {.key = "queues",
     .type = PARAM_UINT,
     .offset = offsetof(FsOptions, queues),
     .arg = "N",
     .help = "request queues",
     .def = "1",
     .min = 1,
     .max = MAX_REQUEST_QUEUES},
    VIRTIO_ID_PARAM(FsOptions, common),
    {0},
};

static const ParamTable fs_params = {
    .size = sizeof(FsOptions), .desc = fs_desc, .check = fs_check};

static const ParamDesc share_desc[] = {
    {.key = "folder",
     .type = PARAM_PATH,
     .offset = offsetof(ShareOptions, folder),
     .arg = "DIR",
     .help = "folder of this host",
     .required = true},
    {.key = "tag",
     .type = PARAM_STRING,
     .offset = offsetof(ShareOptions, tag),
     .arg = "NAME",
     .help = "name that the guest mounts: mount -t virtiofs NAME /mnt",
     .required = true},
    {.key = "readonly",
     .type = PARAM_BOOL,
     .offset = offsetof(ShareOptions, readonly),
     .help = "the guest may not change anything in it"},
    VIRTIO_ID_PARAM(ShareOptions, common),
    {0},
};

static const ParamTable share_params = {
    .size = sizeof(ShareOptions), .desc = share_desc, .check = share_check};

#define FS_OPS                                                                           \
    .id = 26, .pci_class = 0x018000 /* mass storage, other */, .size = sizeof(Fs),       \
    .queue_size = FS_QUEUE_SIZE, .config_size = sizeof(FsConfig), VHOST_DEV_OPS,         \
    .release = vhost_dev_release, .reset = vhost_dev_reset,                              \
    .config_read = fs_config_read

const VirtioOps virtio_share_ops = {
    FS_OPS,
    .name = "share",
    .option = "share",
    .help = "a folder of this host that the guest can mount",
    .params = &share_params,
    .realize = share_realize,
};

const VirtioOps virtio_fs_ops = {
    FS_OPS,
    .name = "fs",
    .option = "fs",
    .help = "a shared folder served by a virtiofsd that runs already",
    .params = &fs_params,
    .realize = fs_realize,
};
