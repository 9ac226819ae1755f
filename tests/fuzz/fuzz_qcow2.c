/* Hostile qcow2 files: the input is the file.  It is opened and read, checked, repaired,
 * written, its snapshots listed and taken; none of it may crash or run away.  And what
 * repair says is in order is so in the eyes of a judge who shares no code with ours. */
#include <stdlib.h>

#include "src/block/qcow2_private.h"
#include "tests/unit/backend/memfile.h"
#include "tests/unit/backend/qcow2_judge.h"
#include "util/log.h"

enum { LIMIT = 8 << 20, PIECE = 64 << 10, MAX_STRETCHES = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static void promise(bool kept)
{
    if (!kept)
        abort();
}

static void ignore(void *opaque, const char *text)
{
    promise(g_utf8_validate(text, -1, NULL) || *text);
}

static MemFile *file_of(const uint8_t *data, size_t size)
{
    MemFile *m = mem_new();

    g_byte_array_append(m->bytes, data, (guint)size);
    m->limit = LIMIT;
    return m;
}

static BlockImage *open_it(MemFile *m, bool readonly, unsigned flags)
{
    const BlockOptions options = {.readonly = readonly, .cache_size = 256 * KIB};
    g_autoptr(GError) error = NULL;
    BlockImage *img = mem_open(m, &options, flags | IMAGE_NO_BACKING, &error);

    promise(img || error);
    return img;
}

static void read_some(BlockImage *img)
{
    static uint8_t buf[PIECE];
    uint64_t size = image_size(img), at = 0;

    for (unsigned i = 0; i < MAX_STRETCHES && at < size; i++) {
        Extent e;
        int err = image_extent(img, at, size - at, &e);

        if (err) {
            at += PIECE;
            continue;
        }
        promise(e.len && e.len <= size - at);
        image_read(img, at, buf, MIN(e.len, PIECE));
        at += e.len;
    }
    if (size > PIECE)
        image_read(img, size - PIECE, buf, PIECE);
}

static void list_snapshots(BlockImage *img)
{
    ImageSnapshot *list;
    unsigned n;

    if (image_snapshot_list(img, &list, &n, NULL))
        image_snapshots_free(list, n);
}

static void look_at_it(const uint8_t *data, size_t size)
{
    MemFile *m = file_of(data, size);
    BlockImage *img = open_it(m, true, 0);
    ImageCheck c;

    if (img) {
        json_t *info = image_info(img);

        json_decref(info);
        read_some(img);
        list_snapshots(img);
        image_check(img, IMAGE_REPAIR_NONE, &c, ignore, NULL, NULL);
        image_free(img);
    }
    promise(m->bytes->len == size && memcmp(m->bytes->data, data, size) == 0);
    mem_free(m);
}

/* The judge counts cluster by cluster. */
static bool is_judged(const MemFile *m)
{
    return m->bytes->len >= 112 && m->bytes->len <= LIMIT;
}

static void repair_it(const uint8_t *data, size_t size)
{
    MemFile *m = file_of(data, size);
    BlockImage *img = open_it(m, false, IMAGE_FOR_CHECK);
    bool clean = false, external;
    ImageCheck c;

    if (!img) {
        mem_free(m);
        return;
    }
    external = qcow2_of(img)->h.incompatible & QCOW2_INCOMPAT_DATA_FILE;
    external |= (qcow2_of(img)->h.autoclear & QCOW2_AUTOCLEAR_BITMAPS) != 0;
    if (image_check(img, IMAGE_REPAIR_ALL, &c, ignore, NULL, NULL))
        clean = !c.errors && !c.leaks;
    read_some(img);
    image_free(img);
    if (clean && is_judged(m) && !external) {
        Verdict v = judge(m->bytes->data, m->bytes->len);

        promise(!v.errors);
    }
    mem_free(m);
}

static void write_it(const uint8_t *data, size_t size)
{
    static const uint8_t bytes[PIECE];
    MemFile *m = file_of(data, size);
    BlockImage *img = open_it(m, false, 0);
    uint64_t disk = img ? image_size(img) : 0;

    if (disk >= 4 * PIECE) {
        image_write(img, 1000, bytes, PIECE);
        image_zero(img, PIECE, 12345, true);
        image_discard(img, PIECE, PIECE);
        image_snapshot_create(img, "new", NULL);
        image_write(img, disk - 700, bytes, 512);
        image_copy_up(img, disk / 2, 4096);
        image_flush(img);
        image_snapshot_apply(img, "1", NULL);
        image_resize(img, disk / 2 / 512 * 512, NULL);
        image_snapshot_delete(img, "new", NULL);
        image_resize(img, disk, NULL);
        read_some(img);
    }
    image_free(img);
    mem_free(m);
}

/* ---- inputs ---------------------------------------------------------------------------
 */

static uint64_t word(const uint8_t *data, size_t size, uint64_t at)
{
    return range_within(at, 8, size) ? load_be64(data + at) & QCOW2_OFFSET_MASK : 0;
}

/* Where an entry of some table is: most of a file is data, where a change does nothing.
 */
static uint64_t pick_entry(const uint8_t *data, size_t size, unsigned seed)
{
    uint64_t table = word(data, size, seed & 1 ? 40 : 48); /* L1, refcount table */

    if (seed & 2)
        return seed & 4 ? table + seed / 64 % 4 * 8
                        : word(data, size, 64); /* snapshots */
    table = word(data, size, table + seed / 64 % 2 * 8);
    return table + seed / 256 % 64 * 8;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    uint64_t at = seed % 3 == 0 ? seed / 64 % 112 / 4 * 4
                                : pick_entry(data, size, seed / 4);

    if (seed % 16 == 1 || !range_within(at, 16, size))
        return LLVMFuzzerMutate(data, size, max);
    if (seed % 5 == 0) /* an offset that another table uses */
        store_be64(data + at, word(data, size, pick_entry(data, size, seed / 7)) |
                                  (uint64_t)(seed >> 30) << 62);
    else
        LLVMFuzzerMutate(data + at, 8, 8);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    log_set_level(LOG_ERROR);
    look_at_it(data, size);
    repair_it(data, size);
    write_it(data, size);
    return 0;
}
