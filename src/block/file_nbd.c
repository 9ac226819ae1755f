/* NBD exports as storage: requests of any alignment and length, as commands that the
 * server takes.  See nbd_private.h for the parts below, docs/remote-disks.md for users.
 *
 * A server may want offsets and lengths to be multiples of a block.  What covers a block
 * only in part goes by a copy of that block; a write then reads it first, under rmw_lock,
 * as sync.c does. */
#include <errno.h>
#include <string.h>

#include "file_private.h"
#include "nbd_private.h"
#include "util/bits.h"
#include "util/iov.h"

enum {
    DIRECT_MIN = 64 * 1024, /* pieces of a list that have a command of their own */
    ZEROES_SIZE = 64 * 1024,
    MAX_LOGICAL = 4096, /* of guests' block sizes; Linux knew none larger for long */
    MAX_PHYSICAL = 64 * 1024,
    DEFAULT_PHYSICAL = 4096,
    MAX_EFFECT = 1 << 30, /* of commands without data: they may take time */
    DEFAULT_TIMEOUT_S = 30,
    MAX_TIMEOUT_S = 24 * 3600,
};
_Static_assert(BLOCK_BOUNCE_SIZE <= 1024 * 1024, "what any server takes");

typedef struct Nbd {
    NbdTarget target;
    NbdExport export;
    NbdLink *link;
    bool no_zero; /* atomic: the server says that it can, and cannot */
} Nbd;

/* ---- buffers -------------------------------------------------------------------------
 */

static uint8_t zeroes[ZEROES_SIZE]; /* never written */

/* ---- commands ------------------------------------------------------------------------
 */

static NbdCommand *add_command(NbdCall *call, NbdOp op, void *buf, uint64_t offset,
                               uint64_t len)
{
    NbdCommand *c = &call->command[call->n++];

    *c = (NbdCommand){.op = op, .buf = buf, .offset = offset, .len = len};
    return c;
}

static int run_one(Nbd *n, NbdOp op, void *buf, uint64_t offset, uint64_t len)
{
    NbdCall call = {.n = 0};

    add_command(&call, op, buf, offset, len);
    return nbd_link_run(n->link, &call);
}

/* ---- a block in part ------------------------------------------------------------------
 */

/* t does not reach beyond the block in which it begins. */
static int part_of_block(BlockFile *f, bool write, const BlockTransfer *t)
{
    Nbd *n = f->priv;
    unsigned size = n->export.min_block;
    uint64_t start = align_down(t->offset, size);
    uint8_t *block = block_bounce_buffer(), *bytes;
    int err;

    if (!block)
        return ENOMEM;
    bytes = block + (t->offset - start);
    if (write)
        lock_acquire(&f->rmw_lock);
    err = run_one(n, NBD_READ, block, start, size);
    if (!err && !write)
        iov_from_buf(t->iov, t->n_iov, t->skip, bytes, t->len);
    if (!err && write) {
        if (t->iov)
            iov_to_buf(t->iov, t->n_iov, t->skip, bytes, t->len);
        else
            memset(bytes, 0, t->len);
        err = run_one(n, NBD_WRITE, block, start, size);
    }
    if (write)
        lock_release(&f->rmw_lock);
    return err;
}

/* ---- whole blocks ---------------------------------------------------------------------
 */

/* Where in its list a transfer stands. */
typedef struct Cursor {
    const struct iovec *iov, *end;
    size_t at;
} Cursor;

static Cursor cursor_at(const BlockTransfer *t)
{
    Cursor c = {t->iov, t->iov + t->n_iov, t->skip};

    while (c.iov < c.end && c.at >= c.iov->iov_len)
        c.at -= c.iov++->iov_len;
    return c;
}

static void cursor_move(Cursor *c, size_t n)
{
    c->at += n;
    while (c->iov < c->end && c->at >= c->iov->iov_len)
        c->at -= c->iov++->iov_len;
}

/* Bytes in a row in memory. */
static size_t stretch(const Cursor *c)
{
    return c->iov < c->end ? c->iov->iov_len - c->at : 0;
}

/* Small pieces on to where a large one begins, in whole blocks: their number of bytes, 0
 * at the end of the list or without room. */
static size_t gather(Cursor *c, bool write, uint8_t *to, size_t room, uint64_t len,
                     unsigned block)
{
    size_t n = 0;

    len = MIN(len, room);
    while (n < len) {
        size_t part = MIN(stretch(c), len - n);

        if (!part)
            return 0;
        if (part >= DIRECT_MIN && n)
            part = align_up(n, block) - n;
        if (!part)
            break;
        if (write)
            memcpy(to + n, (char *)c->iov->iov_base + c->at, part);
        cursor_move(c, part);
        n += part;
    }
    return n;
}

/* Fills a call with commands for the first part of t; *ret_bounced has a bit for each of
 * them that goes by the bounce buffer.  The number of bytes, 0: the list is too short. */
static uint64_t fill_call(Nbd *n, NbdCall *call, bool write, const BlockTransfer *t,
                          uint8_t *bounce, unsigned *ret_bounced)
{
    unsigned block = n->export.min_block;
    Cursor c = cursor_at(t);
    size_t used = 0;
    uint64_t done = 0;

    call->n = 0;
    *ret_bounced = 0;
    while (done < t->len && call->n < NBD_CALL_COMMANDS) {
        uint64_t left = t->len - done;
        size_t len = align_down(MIN(stretch(&c), left), block);
        void *buf;

        if (len && (len >= DIRECT_MIN || len == left)) {
            len = MIN(len, n->export.max_data);
            buf = (char *)c.iov->iov_base + c.at;
            cursor_move(&c, len);
        } else {
            size_t room = MIN(BLOCK_BOUNCE_SIZE - used, n->export.max_data);

            buf = bounce + used;
            len = gather(&c, write, buf, room, left, block);
            if (!len)
                break;
            used += len;
            *ret_bounced |= BIT(call->n);
        }
        add_command(call, write ? NBD_WRITE : NBD_READ, buf, t->offset + done, len);
        done += len;
    }
    return done;
}

static int move_blocks(BlockFile *f, bool write, BlockTransfer t)
{
    uint8_t *bounce = block_bounce_buffer();
    int err = bounce ? 0 : ENOMEM;
    NbdCall call;

    while (t.len && !err) {
        unsigned bounced;
        uint64_t done = fill_call(f->priv, &call, write, &t, bounce, &bounced);

        if (!done)
            return EINVAL; /* the list is shorter than the request */
        err = nbd_link_run(((Nbd *)f->priv)->link, &call);
        for (unsigned i = 0; i < call.n && !write && !err; i++)
            if (bounced & BIT(i))
                iov_from_buf(t.iov, t.n_iov, t.skip + call.command[i].offset - t.offset,
                             call.command[i].buf, call.command[i].len);
        block_transfer_advance(&t, done);
    }
    return err;
}

static int write_zeroes(BlockFile *f, BlockTransfer t)
{
    Nbd *n = f->priv;
    int err = 0;

    while (t.len && !err) {
        NbdCall call = {.n = 0};

        while (t.len && call.n < NBD_CALL_COMMANDS) {
            uint64_t len = MIN(t.len, MIN(ZEROES_SIZE, n->export.max_data));

            add_command(&call, NBD_WRITE, zeroes, t.offset, len);
            block_transfer_advance(&t, len);
        }
        err = nbd_link_run(n->link, &call);
    }
    return err;
}

static bool lacks(int err)
{
    return err == ENOTSUP || err == EINVAL;
}

/* Commands without data, over whole blocks. */
static int run_effect(Nbd *n, NbdOp op, bool no_hole, uint64_t offset, uint64_t len)
{
    int err = 0;

    while (len && !err) {
        NbdCall call = {.n = 0};

        while (len && call.n < NBD_CALL_COMMANDS) {
            uint64_t part = MIN(len, MAX_EFFECT);

            add_command(&call, op, NULL, offset, part)->no_hole = no_hole;
            offset += part;
            len -= part;
        }
        err = nbd_link_run(n->link, &call);
    }
    return err;
}

static int zero_blocks(BlockFile *f, const BlockTransfer *t, bool may_unmap)
{
    Nbd *n = f->priv;
    int err = ENOTSUP;

    if (n->export.can_zero && !__atomic_load_n(&n->no_zero, __ATOMIC_RELAXED)) {
        err = run_effect(n, NBD_ZERO, !may_unmap, t->offset, t->len);
        if (err == ENOTSUP)
            __atomic_store_n(&n->no_zero, true, __ATOMIC_RELAXED);
    }
    return lacks(err) ? write_zeroes(f, *t) : err;
}

/* ---- any range ------------------------------------------------------------------------
 */

typedef enum { MOVE_READ, MOVE_WRITE, MOVE_ZERO, MOVE_ZERO_UNMAP } Move;

static int move_whole(BlockFile *f, Move move, const BlockTransfer *t)
{
    return move == MOVE_READ || move == MOVE_WRITE
               ? move_blocks(f, move == MOVE_WRITE, *t)
               : zero_blocks(f, t, move == MOVE_ZERO_UNMAP);
}

/* The block in which it begins, if it begins within; whole ones; the one in which it
 * ends. */
static int move_range(BlockFile *f, Move move, BlockTransfer t)
{
    unsigned block = ((Nbd *)f->priv)->export.min_block;
    int err = 0;

    while (t.len && !err) {
        uint64_t within = t.offset & (block - 1);
        BlockTransfer now = t;

        if (within || t.len < block) {
            now.len = MIN(t.len, block - within);
            err = part_of_block(f, move != MOVE_READ, &now);
        } else {
            now.len = align_down(t.len, block);
            err = move_whole(f, move, &now);
        }
        block_transfer_advance(&t, now.len);
    }
    return err;
}

static int check_range(const BlockFile *f, bool change, uint64_t offset, uint64_t len)
{
    if (change && f->readonly)
        return EPERM;
    return range_within(offset, len, block_file_size(f)) ? 0 : change ? ENOSPC : EIO;
}

static int nbd_file_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                       unsigned n_iov, uint64_t skip, uint64_t len)
{
    uint64_t size = block_file_size(f);
    BlockTransfer t = {iov, n_iov, skip, offset, len};
    int err;

    if (!write && f->zero_tail && !range_within(offset, len, size)) {
        uint64_t inside = offset < size ? MIN(len, size - offset) : 0;

        iov_fill(iov, n_iov, skip + inside, 0, len - inside);
        t.len = inside;
    }
    err = check_range(f, write, t.len ? offset : 0, t.len);
    return err ? err : move_range(f, write ? MOVE_WRITE : MOVE_READ, t);
}

static int nbd_file_flush(BlockFile *f)
{
    Nbd *n = f->priv;

    /* proto.md: without the flag there is no such command, nor anything to flush */
    return n->export.can_flush ? run_one(n, NBD_FLUSH, NULL, 0, 0) : 0;
}

static int nbd_file_zero(BlockFile *f, uint64_t offset, uint64_t len, bool may_unmap)
{
    int err = check_range(f, true, offset, len);

    return err ? err
               : move_range(f, may_unmap ? MOVE_ZERO_UNMAP : MOVE_ZERO,
                            (BlockTransfer){NULL, 0, 0, offset, len});
}

static int nbd_file_discard(BlockFile *f, uint64_t offset, uint64_t len)
{
    Nbd *n = f->priv;
    uint64_t block = n->export.min_block;
    int err = check_range(f, true, offset, len);
    uint64_t start, end;

    if (err || !n->export.can_trim)
        return err;
    start = align_up(offset, block);
    end = align_down(offset + len, block);
    err = start < end ? run_effect(n, NBD_TRIM, false, start, end - start) : 0;
    return lacks(err) ? 0 : err; /* it is only a hint */
}

static int nbd_file_truncate(BlockFile *f, uint64_t size)
{
    return ENOTSUP;
}

static int nbd_file_extent(BlockFile *f, uint64_t offset, uint64_t len, bool *ret_data,
                           uint64_t *ret_len)
{
    Nbd *n = f->priv;
    uint64_t start = align_down(offset, n->export.min_block);
    NbdCall call = {.n = 0};
    NbdCommand *c;
    int err = check_range(f, false, offset, len);

    if (err)
        return err;
    *ret_data = true;
    *ret_len = len;
    if (!n->export.has_extents || !len)
        return 0;
    c = add_command(&call, NBD_STATUS, NULL, start,
                    MIN(align_up(offset + len, n->export.min_block) - start, MAX_EFFECT));
    err = nbd_link_run(n->link, &call);
    /* An answer that does not reach us, or none, is no such knowledge. */
    if (err || c->data_len <= offset - start)
        return err == EIO ? EIO : 0;
    *ret_data = c->data;
    *ret_len = MIN(len, c->data_len - (offset - start));
    return 0;
}

/* ---- opening -------------------------------------------------------------------------
 */

static bool accept_export(BlockFile *f, const NbdExport *e, bool readonly, GError **error)
{
    if (e->readonly && !readonly)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the server exports it for reading only (add readonly to only "
                    "read it)",
                    f->path);
    f->size = e->size;
    f->io_align = e->min_block;
    f->logical = CLAMP(e->min_block, BLOCK_SECTOR, MAX_LOGICAL);
    f->physical = e->preferred ? MIN(e->preferred, MAX_PHYSICAL) : DEFAULT_PHYSICAL;
    f->physical = MAX(f->physical, f->logical);
    f->can_discard = !readonly && e->can_trim;
    f->readonly = readonly;
    nbd_link_set_writing(((Nbd *)f->priv)->link, !readonly);
    return true;
}

/* The URI without timeout=, which is of the commands and not of the connection. */
static char *take_timeout(const char *uri, unsigned *ret_s, GError **error)
{
    static const char key[] = "timeout=";
    g_auto(GStrv) halves = g_strsplit(uri, "?", 2);
    g_auto(GStrv) parts = g_strsplit(halves[0] && halves[1] ? halves[1] : "", "&", -1);
    g_autoptr(GString) rest = g_string_new(halves[0]);
    guint64 seconds = DEFAULT_TIMEOUT_S;
    bool seen = false;

    for (unsigned i = 0, n = 0; parts[i]; i++) {
        if (!g_str_has_prefix(parts[i], key)) {
            g_string_append_printf(rest, "%c%s", n++ ? '&' : '?', parts[i]);
            continue;
        }
        if (seen) {
            fail(error, VM_ERROR_INVALID, "'%s': timeout is given twice", uri);
            return NULL;
        }
        seen = true;
        if (!g_ascii_string_to_unsigned(parts[i] + strlen(key), 10, 0, MAX_TIMEOUT_S,
                                        &seconds, NULL)) {
            fail(error, VM_ERROR_INVALID,
                 "'%s': %s is not a number of seconds from 0 to %d", uri, parts[i],
                 MAX_TIMEOUT_S);
            return NULL;
        }
    }
    *ret_s = (unsigned)seconds;
    return g_string_free(g_steal_pointer(&rest), FALSE);
}

static bool parse_uri(NbdTarget *t, const char *uri, GError **error)
{
    g_autofree char *rest = take_timeout(uri, &t->timeout_s, error);
    bool ok = rest && nbd_target_parse(t, rest, error);

    t->uri = uri; /* libnbd ignores what is ours */
    return ok;
}

static bool nbd_file_open(BlockFile *f, const BlockOptions *options, GError **error)
{
    Nbd *n = f->priv = g_new0(Nbd, 1);

    f->is_device = true;
    /* Any cache but `unsafe` is the same: this host keeps no copy. */
    return parse_uri(&n->target, f->path, error) &&
           (n->link = nbd_link_open(&n->target, &n->export, error)) &&
           accept_export(f, &n->export, options->readonly, error);
}

static void nbd_file_close(BlockFile *f)
{
    Nbd *n = f->priv;

    if (n) {
        nbd_link_close(n->link);
        nbd_target_clear(&n->target);
    }
    g_clear_pointer(&f->priv, g_free);
}

/* NBD's clients do not say whether they will write, so that most often there is nothing
 * to do.  A server that is to be written to now, and did not let us, is asked again. */
static bool nbd_file_reopen(BlockFile *f, bool readonly, GError **error)
{
    Nbd *n = f->priv;

    if (!readonly && n->export.readonly && !nbd_link_redial(n->link, &n->export, error))
        return false;
    return accept_export(f, &n->export, readonly, error);
}

static void nbd_file_cancel(BlockFile *f)
{
    nbd_link_cancel(((Nbd *)f->priv)->link);
}

const BlockFileOps block_nbd_ops = {
    .name = "nbd",
    .open = nbd_file_open,
    .close = nbd_file_close,
    .rw = nbd_file_rw,
    .flush = nbd_file_flush,
    .zero = nbd_file_zero,
    .discard = nbd_file_discard,
    .truncate = nbd_file_truncate,
    .extent = nbd_file_extent,
    .reopen = nbd_file_reopen,
    .cancel = nbd_file_cancel,
};
