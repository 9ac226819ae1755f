/* hutch image import of a whole VM, an OVA or an OVF: its disks and a config.json in a
 * folder that is complete or not there.
 *
 * All of it comes from strangers.  Of an OVA, which is a tar, only the members that the
 * OVF names are unpacked, each through tar's standard output into a file that we name, so
 * no path in it reaches the file system. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/image_import.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"

enum { MAX_TEXT = 4 << 20 }; /* of an OVF, a manifest or a table of contents */

/* ---- files of the appliance ------------------------------------------------------- */

typedef struct Sink {
    GString *text; /* NULL: into fd */
    int fd;
    uint64_t max, taken; /* bytes; max 0: no bound */
    GChecksum *sum1, *sum256;
} Sink;

static bool take(void *opaque, const char *data, size_t len, GError **error)
{
    Sink *s = opaque;

    s->taken += len;
    if (s->max && s->taken > s->max)
        return fail(error, VM_ERROR_CORRUPT,
                    "it is larger than the whole OVA, which must be neither compressed "
                    "nor sparse: unpack it, and import the OVF");
    if (s->sum1) {
        g_checksum_update(s->sum1, (const guchar *)data, (gssize)len);
        g_checksum_update(s->sum256, (const guchar *)data, (gssize)len);
    }
    if (!s->text)
        return fd_write_all(s->fd, data, len, error);
    if (s->text->len + len > MAX_TEXT)
        return fail(error, VM_ERROR_CORRUPT, "it is longer than any that makes sense");
    g_string_append_len(s->text, data, (gssize)len);
    return true;
}

#define TAR_PACKAGE "tar"

/* tar unpacks compressed archives and sparse members without being asked, so that a few
 * bytes could fill the disk: no member may be larger than the archive. */
static bool tar_member(const char *ova, const char *name, Sink *to, GError **error)
{
    const char *argv[] = {"tar",
                          "--extract",
                          "--to-stdout",
                          "--file",
                          ova,
                          "--force-local",
                          "--no-wildcards",
                          "--occurrence=1",
                          "--",
                          name,
                          NULL};
    struct stat st;

    if (stat(ova, &st) < 0)
        return fail_errno(error, "open the OVA");
    if (!S_ISREG(st.st_mode) || !st.st_size)
        return fail(error, VM_ERROR_INVALID, "the OVA is no file, or an empty one");
    to->max = (uint64_t)st.st_size;
    return program_run(argv, TAR_PACKAGE, take, to, NULL, error);
}

/* A name in an OVF is a file beside it, and nothing else. */
static bool check_name(const char *name, GError **error)
{
    return (name && *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\') &&
            strlen(name) < 256) ||
           fail(error, VM_ERROR_CORRUPT,
                "the OVF names a file '%s', which is not in the "
                "same folder",
                name ? name : "");
}

static bool read_beside(const Appliance *a, const char *name, Sink *to, GError **error)
{
    g_autofree char *path = g_build_filename(a->folder, name, NULL);
    autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    g_autofree char *buf = g_malloc(MIB);
    struct stat st;
    ssize_t n = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "'%s': open it", path);
    if (!S_ISREG(st.st_mode))
        return fail(error, VM_ERROR_INVALID, "'%s' is no file", path);
    while (!interrupt_signal() && (n = read(fd, buf, MIB)) > 0)
        if (!take(to, buf, (size_t)n, error))
            return false;
    return n == 0 || fail_errno(error, "'%s': read it", path);
}

static bool read_member(const Appliance *a, const char *name, Sink *to, GError **error)
{
    if (!check_name(name, error))
        return false;
    if (!a->is_ova)
        return read_beside(a, name, to, error);
    if (tar_member(a->path, name, to, error))
        return true;
    g_prefix_error(error, "'%s' in it: ", name);
    return false;
}

/* ---- the manifest ----------------------------------------------------------------- */

/* Lines like "SHA256(disk1.vmdk)= 0123abcd..."; false: it has another sum. */
static bool check_sum(const Appliance *a, const char *name, const Sink *s, GError **error)
{
    g_auto(GStrv) lines = g_strsplit_set(a->manifest ? a->manifest : "", "\r\n", -1);
    g_autofree char *sha1 = g_strdup_printf("SHA1(%s)=", name);
    g_autofree char *sha256 = g_strdup_printf("SHA256(%s)=", name);

    for (unsigned i = 0; lines[i]; i++) {
        bool is1 = g_str_has_prefix(lines[i], sha1);
        const char *sum = g_checksum_get_string(is1 ? s->sum1 : s->sum256);

        if (!is1 && !g_str_has_prefix(lines[i], sha256))
            continue;
        return !g_ascii_strcasecmp(g_strstrip(strchr(lines[i], '=') + 1), sum) ||
               fail(error, VM_ERROR_CORRUPT,
                    "'%s' in it is not what the manifest says: its checksum differs; it "
                    "was damaged or changed on the way",
                    name);
    }
    if (a->manifest)
        log_warn("'%s': the manifest says nothing, or nothing in SHA1 or SHA256, of '%s'",
                 a->path, name);
    return true;
}

/* Reads a file of the appliance and compares it with the manifest. */
static bool read_checked(const Appliance *a, const char *name, Sink *s, GError **error)
{
    bool ok;

    s->sum1 = g_checksum_new(G_CHECKSUM_SHA1);
    s->sum256 = g_checksum_new(G_CHECKSUM_SHA256);
    ok = read_member(a, name, s, error) && check_sum(a, name, s, error);
    g_checksum_free(s->sum1);
    g_checksum_free(s->sum256);
    s->sum1 = s->sum256 = NULL;
    return ok;
}

/* ---- the descriptor --------------------------------------------------------------- */

/* The first member that ends in `suffix`: in an OVA, the OVF is the first of all. */
static char *find_member(const char *list, const char *suffix)
{
    g_auto(GStrv) lines = g_strsplit(list, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        g_autofree char *lower = g_ascii_strdown(lines[i], -1);

        if (g_str_has_suffix(lower, suffix))
            return g_strdup(lines[i]);
    }
    return NULL;
}

static char *list_members(const char *ova, GError **error)
{
    const char *argv[] = {
        "tar", "--list", "--force-local", "--quoting-style=literal", "--file", ova, NULL};
    Sink s = {.text = g_string_new(NULL)};

    if (program_run(argv, TAR_PACKAGE, take, &s, NULL, error))
        return g_string_free(s.text, FALSE);
    g_string_free(s.text, TRUE);
    return NULL;
}

/* The names of the OVF and of its manifest (NULL: there is none). */
static bool find_names(Appliance *a, char **ovf, char **manifest, GError **error)
{
    g_autofree char *list = NULL;

    if (a->is_ova) {
        list = list_members(a->path, error);
        *ovf = list ? find_member(list, ".ovf") : NULL;
        *manifest = list ? find_member(list, ".mf") : NULL;
        return list && (*ovf || fail(error, VM_ERROR_CORRUPT, "there is no OVF in it"));
    }
    a->folder = g_path_get_dirname(a->path);
    *ovf = g_path_get_basename(a->path);
    *manifest = g_strdup_printf("%.*s.mf", (int)strlen(*ovf) - 4, *ovf);
    list = g_build_filename(a->folder, *manifest, NULL);
    if (!g_file_test(list, G_FILE_TEST_EXISTS))
        g_clear_pointer(manifest, g_free);
    return true;
}

static bool read_descriptor(Appliance *a, GError **error)
{
    g_autofree char *ovf = NULL, *manifest = NULL;
    Sink text = {.text = g_string_new(NULL)}, sums = {.text = g_string_new(NULL)};
    bool ok = find_names(a, &ovf, &manifest, error) &&
              (!manifest || read_member(a, manifest, &sums, error));

    a->manifest = g_string_free(sums.text, !(ok && manifest));
    ok = ok && read_checked(a, ovf, &text, error);
    if (ok)
        a->ovf = ovf_parse(text.text->str, text.text->len, error);
    g_string_free(text.text, TRUE);
    return a->ovf != NULL;
}

/* ---- the disks -------------------------------------------------------------------- */

/* qemu-img follows what a VMDK's text says, even to other files.  A text alone describes
 * nothing that could be in an appliance. */
static bool check_vmdk(const char *path, const char *format, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);
    char magic[4] = "";

    if (strcmp(format, "vmdk"))
        return true;
    return (fd >= 0 && pread(fd, magic, 4, 0) == 4 && !memcmp(magic, "KDMV", 4)) ||
           fail(error, VM_ERROR_CORRUPT, "the disk is not a VMDK in one file");
}

/* Unpacked, judged, converted, and the unpacked one removed. */
static bool convert_member(const Appliance *a, const char *name, const char *to,
                           int to_format, GError **error)
{
    const char *format = name ? import_format_of(name) : NULL;
    g_autofree char *unpacked = g_strdup_printf("%s.unpacked", to);
    Sink s = {.fd = -1};
    bool ok;

    if (!check_name(name, error))
        return false;
    if (!format)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s' in it is no disk that hutch knows by its name", name);
    s.fd = open(unpacked, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (s.fd < 0)
        return fail_errno(error, "'%s': make it", unpacked);
    ok = read_checked(a, name, &s, error) && check_vmdk(unpacked, format, error) &&
         import_disk(a->args, unpacked, format, to, to_format, true, error);
    fd_close(&s.fd);
    unlink(unpacked);
    return ok;
}

static bool make_empty_disk(const OvfDisk *disk, const char *to, int format,
                            GError **error)
{
    g_autofree char *size = g_strdup_printf(
        "%" G_GUINT64_FORMAT, align_up(MIN(disk->capacity, 1ull << 63), BLOCK_SECTOR));
    ImageCreate *how = image_create_parse(to, format, size, NULL, NULL, NULL, error);
    bool ok = how &&
              (how->size ||
               fail(error, VM_ERROR_CORRUPT, "disk '%s' in it has no size", disk->id)) &&
              image_create(how, error);

    param_free(&image_create_params, how);
    return ok;
}

static bool make_disk(const Appliance *a, const char *id, const char *to, int format,
                      GError **error)
{
    const OvfDisk *disk = ovf_disk(a->ovf, id);
    const OvfFile *file = ovf_file(a->ovf, disk ? disk->file : id);

    if (disk && disk->parent)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "disk '%s' is a difference to another: merge the snapshots where it "
                    "comes from",
                    id);
    if (disk && !disk->file)
        return make_empty_disk(disk, to, format, error);
    if (!file)
        return fail(error, VM_ERROR_CORRUPT, "there is no file for disk '%s'", id);
    if (file->compression && *file->compression && strcmp(file->compression, "identity"))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s' is packed as '%s', which hutch cannot read: export it without",
                    file->href, file->compression);
    return convert_member(a, file->href, to, format, error);
}

static bool make_disks(Appliance *a, GError **error)
{
    int format = a->args->common.target_format;

    if (format == BLOCK_FORMAT_AUTO)
        format = BLOCK_FORMAT_QCOW2;
    a->disks = json_array();
    for (unsigned i = 0; i < a->ovf->attached->len; i++) {
        g_autofree char *name = g_strdup_printf("disk%u.%s", i,
                                                block_format_names[format]);
        g_autofree char *to = g_build_filename(a->partial, name, NULL);

        if (!make_disk(a, g_array_index(a->ovf->attached, char *, i), to, format, error))
            return false;
        json_array_append_new(a->disks, json_pack("{s:s, s:s}", "path", name, "format",
                                                  block_format_names[format]));
    }
    return true;
}

/* ---- the folder ------------------------------------------------------------------- */

static bool begin_folder(Appliance *a, const char *folder, GError **error)
{
    g_autofree char *parent = NULL;

    if (a->args->name) {
        parent = images_folder();
        if (!images_check_name(a->args->name, error))
            return false;
        if (g_mkdir_with_parents(parent, 0777) < 0)
            return fail_errno(error, "'%s': make the image folder", parent);
        a->result = g_build_filename(parent, a->args->name, NULL);
    } else {
        a->result = g_strdup(folder);
    }
    g_strchomp(a->result);
    while (strlen(a->result) > 1 && g_str_has_suffix(a->result, "/"))
        a->result[strlen(a->result) - 1] = 0;
    if (access(a->result, F_OK) == 0)
        return fail(error, VM_ERROR_BUSY,
                    "'%s' exists already: remove it, or choose another name", a->result);
    a->partial = g_strdup_printf("%s.partial-%06x", a->result, g_random_int() & 0xffffff);
    if (mkdir(a->partial, 0777) == 0)
        return true;
    fail_errno(error, "'%s': make the folder", a->partial);
    g_clear_pointer(&a->partial, g_free);
    return false;
}

static bool for_each_file(const char *folder, bool (*fn)(const char *path))
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    bool ok = dir != NULL;

    while (ok && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        ok = fn(path);
    }
    if (dir)
        g_dir_close(dir);
    return ok;
}

static bool sync_file(const char *path)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd >= 0 && fsync(fd) == 0;
}

static bool remove_file(const char *path)
{
    return unlink(path) == 0;
}

static bool finish_folder(Appliance *a, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(a->result);

    if (!for_each_file(a->partial, sync_file) || !sync_file(a->partial))
        return fail_errno(error, "'%s': put it on the disk", a->partial);
    if (renameat2(AT_FDCWD, a->partial, AT_FDCWD, a->result, RENAME_NOREPLACE) < 0)
        return fail_errno(error, "'%s': give the folder its name", a->result);
    g_clear_pointer(&a->partial, g_free);
    sync_file(parent);
    return true;
}

static void remove_folder(const char *folder)
{
    for_each_file(folder, remove_file);
    rmdir(folder);
}

/* ---- all of it -------------------------------------------------------------------- */

static void print_result(const Appliance *a)
{
    g_autofree char *memory = image_size_text(appliance_memory(a));

    if (!a->args->common.quiet)
        printf("%s: %u CPUs, %s, %u disks, %u network cards\n", a->result,
               (unsigned)appliance_cpus(a), memory, a->ovf->attached->len,
               a->ovf->nics->len);
}

static bool import(Appliance *a, const char *folder, GError **error)
{
    if (!read_descriptor(a, error) || !begin_folder(a, folder, error) ||
        !make_disks(a, error) || !appliance_write_config(a, error)) {
        g_prefix_error(error, "'%s': ", a->path);
        return false;
    }
    return finish_folder(a, error);
}

bool import_appliance(const ImportArgs *args, const char *path, bool is_ova,
                      const char *folder, GError **error)
{
    Appliance a = {.args = args, .path = path, .is_ova = is_ova};
    bool ok;

    if (!folder == !args->name)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a VM: give either the new folder or --name NAME", path);
    ok = access(path, R_OK) == 0 ? import(&a, folder, error)
                                 : fail_errno(error, "'%s': open it", path);
    if (ok) {
        print_result(&a);
        appliance_tell_what_is_missing(&a);
    }
    if (a.partial)
        remove_folder(a.partial);
    json_decref(a.disks);
    ovf_free(a.ovf);
    g_free(a.folder);
    g_free(a.manifest);
    g_free(a.result);
    g_free(a.partial);
    return ok;
}
