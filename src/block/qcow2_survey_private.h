/* Private to qcow2_check.c, qcow2_snapshot.c and their like: a survey of all that a qcow2
 * file refers to, and how often each of its clusters is referred to.
 *
 *     qcow2_count.c    a counter for each cluster of the file, in bounded memory
 *     qcow2_tree.c     L1 and L2 tables and the snapshot table, read whole
 *     qcow2_survey.c   counts all references of a tree
 *     qcow2_check.c    compares the counts to the stored ones
 *     qcow2_mend.c     takes out entries that refer to nothing
 *     qcow2_switch.c   writes refcounts and tables anew and switches to them at once
 *
 * All of it runs with the image's lock held and its metadata flushed, so that the file is
 * the truth; the cache of pages is not used. */
#pragma once

#include "qcow2_private.h"

static inline uint64_t qcow2_clusters(const Qcow2 *s, uint64_t bytes)
{
    return bytes / s->cluster_size + (bytes % s->cluster_size != 0);
}

static inline uint64_t qcow2_max_refcount(const Qcow2 *s)
{
    return UINT64_MAX >> (64 - BIT(s->h.refcount_order));
}

/* ---- qcow2_count.c -------------------------------------------------------------------
 */

/* A counter for each cluster, in a window of the file that begins where it is told and
 * ends where memory does: what lies beyond is left for the next window.  512 MiB are
 * enough for 128 Mi clusters, 8 TiB in clusters of 64 KiB; a full image of 16 TiB takes
 * three windows, and each goes through its 2 GiB of L2 tables. */
typedef struct Qcow2Counts Qcow2Counts;

#define QCOW2_COUNT_TABLE BIT(31) /* the cluster is metadata */
#define QCOW2_COUNT_CLASH BIT(30) /* and something else as well */
#define QCOW2_COUNT_MASK  (BIT(29) - 1)

enum { QCOW2_COUNTS_PAGE = 16384 }; /* counters that lie together */

Qcow2Counts *qcow2_counts_new(uint64_t bytes);
void qcow2_counts_free(Qcow2Counts *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Counts, qcow2_counts_free)

/* Forgets all, and begins a window at a cluster. */
void qcow2_counts_begin(Qcow2Counts *c, uint64_t start);
/* The window's first cluster, and the first one beyond it (UINT64_MAX: nothing is). */
uint64_t qcow2_counts_start(const Qcow2Counts *c);
uint64_t qcow2_counts_end(const Qcow2Counts *c);
bool qcow2_counts_failed(const Qcow2Counts *c); /* no memory: they are not right */
/* Adds to n clusters, as far as they lie in the window.  Metadata that meets anything
 * else marks the cluster as a clash. */
void qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, uint64_t n, uint32_t weight,
                      bool table);
/* The first clusters of the pages there are, in order: uint64_t. */
GArray *qcow2_counts_pages(Qcow2Counts *c);
/* The counters of the page that holds a cluster; NULL: all are 0. */
uint32_t *qcow2_counts_page(Qcow2Counts *c, uint64_t cluster);

static inline uint32_t qcow2_counts_get(Qcow2Counts *c, uint64_t cluster)
{
    uint32_t *page = qcow2_counts_page(c, cluster);

    return page ? page[cluster % QCOW2_COUNTS_PAGE] : 0;
}

/* ---- qcow2_tree.c --------------------------------------------------------------------
 */

/* One entry of the snapshot table.  What it says beyond these fields is kept in `raw`. */
typedef struct Qcow2Snapshot {
    uint8_t *raw; /* as in the file; a multiple of 8 bytes */
    size_t len;
    char *id, *name;
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t extra_len;
    uint64_t vm_state_size, disk_size;
    bool fresh; /* its L1 table is to become a copy of the active one */
} Qcow2Snapshot;

typedef struct Qcow2L2Ref { /* an L2 table */
    uint64_t offset;        /* where the L1 tables say it is */
    uint64_t moved;         /* where a changed copy of it is; 0: there is none */
    uint32_t weight;        /* how many L1 entries refer to it */
    uint32_t active;        /* of them, in the active L1 table and its fresh copies */
    uint32_t l1_index;      /* the last one of these */
} Qcow2L2Ref;

/* What a header refers to, but for the refcounts. */
typedef struct Qcow2Tree {
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint64_t *l1;     /* active, in the host's byte order */
    GPtrArray *snaps; /* of Qcow2Snapshot */
    uint64_t snaps_offset, snaps_len;
    GArray *l2s; /* of Qcow2L2Ref, by offset, each once */
} Qcow2Tree;

/* Where findings go. */
typedef struct Qcow2Report {
    ImageCheck *sum; /* counted here */
    void (*say)(void *opaque, const char *text);
    void *opaque;
    unsigned said;
    bool bad_refs;  /* stored refcounts cannot be used to allocate */
    bool bad_links; /* some entries refer to nothing, or to the wrong thing */
    bool failed;    /* `error` of who made it is set */
} Qcow2Report;

void qcow2_report_error(Qcow2Report *r, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void qcow2_report_leak(Qcow2Report *r, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Reads up to the end of the file, and zeroes after it. */
int qcow2_read_padded(Qcow2 *s, uint64_t offset, void *buf, uint64_t len);

void qcow2_snapshot_free(Qcow2Snapshot *snap);
/* Up to the first entry that makes no sense, which is an error; what was read before is
 * in *ret all the same. */
bool qcow2_snapshots_read(Qcow2 *s, GPtrArray *snaps, uint64_t *ret_len, GError **error);

/* The tree of the header s->h.  What makes no sense in it is reported and left out; false
 * with `error`: the file cannot be read. */
Qcow2Tree *qcow2_tree_read(Qcow2 *s, Qcow2Report *r, GError **error);
void qcow2_tree_free(Qcow2Tree *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Tree, qcow2_tree_free)
/* Finds the L2 tables again, after `l1` or `snaps` were changed. */
bool qcow2_tree_collect(Qcow2 *s, Qcow2Tree *t, Qcow2Report *r, GError **error);

/* Why an L1 entry leads to no L2 table in this file; NULL: it does. */
const char *qcow2_l1_entry_fault(const Qcow2 *s, uint64_t entry);
/* Why an L1 table cannot be where it is said to be. */
const char *qcow2_l1_table_fault(const Qcow2 *s, uint64_t offset, uint64_t entries);

/* What an L2 entry is about. */
typedef struct Qcow2Spot {
    enum { QCOW2_SPOT_NONE, QCOW2_SPOT_CLUSTER, QCOW2_SPOT_PACKED } kind;
    uint64_t offset, len; /* in the file that holds the data */
} Qcow2Spot;
Qcow2Spot qcow2_spot(const Qcow2 *s, const Qcow2Entry *e);
/* Why it cannot be so, and what to put there instead; NULL: it can.  `guest` is the
 * cluster's offset on the disk, looked at where data have to be in step with it. */
const char *qcow2_l2_entry_fault(const Qcow2 *s, const Qcow2Entry *e, uint64_t guest,
                                 Qcow2Entry *ret_instead);
/* What an entry becomes whose data are lost. */
Qcow2Entry qcow2_lost_entry(const Qcow2 *s);

Qcow2Entry qcow2_table_get(const Qcow2 *s, const uint8_t *table, uint32_t i);
void qcow2_table_put(const Qcow2 *s, uint8_t *table, uint32_t i, const Qcow2Entry *e);
static inline uint32_t qcow2_table_len(const Qcow2 *s)
{
    return s->cluster_size / s->l2_entry_size;
}

/* ---- qcow2_survey.c ------------------------------------------------------------------
 */

typedef struct Qcow2Range {
    uint64_t offset, len;
} Qcow2Range;

typedef struct Qcow2Survey {
    Qcow2 *s;
    Qcow2Tree *tree;
    Qcow2Report *report;
    Qcow2Counts *counts;
    uint64_t *reftable; /* as stored, host's byte order; NULL: not to be counted */
    uint32_t reftable_entries;
    GArray *more;      /* of Qcow2Range: counted as metadata too; NULL: none */
    uint8_t *table;    /* a cluster, aligned */
    uint64_t clusters; /* of the file */
} Qcow2Survey;

extern uint64_t qcow2_survey_memory; /* bytes for counters, in each survey */

bool qcow2_survey_init(Qcow2Survey *v, Qcow2 *s, Qcow2Tree *tree, Qcow2Report *report,
                       GError **error);
void qcow2_survey_finish(Qcow2Survey *v);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2Survey, qcow2_survey_finish)

/* Counts the references to the window that begins at a cluster.  In the first window
 * (start 0) entries are judged too, and ImageCheck's figures about data added up. */
bool qcow2_survey_count(Qcow2Survey *v, uint64_t start, GError **error);

/* Goes through the active L2 tables' entries that lie in the window, and calls fn for
 * those whose flag "refcount is exactly one" is not what the counters say; true from fn:
 * it is turned, and when the table has been gone through, write() gets it. */
typedef struct Qcow2CopiedOps {
    bool (*wrong)(void *opaque, uint64_t entry, uint32_t count);
    bool (*write)(void *opaque, Qcow2L2Ref *l2, const uint8_t *table, GError **error);
    void *opaque;
} Qcow2CopiedOps;
bool qcow2_survey_copied(Qcow2Survey *v, const Qcow2CopiedOps *ops, GError **error);

/* ---- qcow2_check.c, qcow2_mend.c, qcow2_switch.c -------------------------------------
 */

static inline uint64_t qcow2_refcounts_per_block(const Qcow2 *s)
{
    return (uint64_t)s->cluster_size * 8 >> s->h.refcount_order;
}

/* Replaces, in the file, what refers to nothing. */
bool qcow2_mend_links(Qcow2 *s, GError **error);

/* Forgets what is cached of tables and refcounts: they were changed in the file, past the
 * cache. */
bool qcow2_reload(Qcow2 *s, GError **error);

/* A way from the tree that is in the file to another one, by one write of the header:
 * everything that is different is written elsewhere before, refcounts included. */
typedef struct Qcow2Switch Qcow2Switch;
/* append: what is new goes there and behind, where nothing is used; 0: the stored
 * refcounts are right and tell where there is room. */
Qcow2Switch *qcow2_switch_new(Qcow2 *s, uint64_t append, GError **error);
void qcow2_switch_free(Qcow2Switch *w); /* gives back what was taken, unless done */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Switch, qcow2_switch_free)
/* The tree as it is in the file, to be changed. */
Qcow2Tree *qcow2_switch_tree(Qcow2Switch *w);
/* The tree is as it shall be, with disk_size.  Fresh snapshots get a copy of the active
 * L1 table. */
bool qcow2_switch_commit(Qcow2Switch *w, uint64_t disk_size, GError **error);
/* After that: gives clusters that are free now back to the host's file system. */
void qcow2_switch_punch(Qcow2Switch *w);
