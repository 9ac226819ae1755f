/* What the files of `hutch image` share.  The main thread runs everything here but what
 * says that it is a walk's. */
#pragma once

#include <stdatomic.h>

#include "backend/image.h"
#include "src/cli/cli.h"
#include "src/cli/interrupt.h"

extern const Verb image_verbs[]; /* image.c */

bool image_act_create(void *, char **, int *, GError **);
bool image_act_info(void *, char **, int *, GError **);
bool image_act_check(void *, char **, int *, GError **);
bool image_act_convert(void *, char **, int *, GError **);
bool image_act_import(void *, char **, int *, GError **);
bool image_act_resize(void *, char **, int *, GError **);
bool image_act_rebase(void *, char **, int *, GError **);
bool image_act_commit(void *, char **, int *, GError **);
bool image_act_map(void *, char **, int *, GError **);
bool image_act_compare(void *, char **, int *, GError **);
bool image_act_snapshot(void *, char **, int *, GError **);
extern const ParamTable image_create_args, image_info_args, image_check_args,
    image_convert_args, image_import_args, image_resize_args, image_rebase_args,
    image_commit_args, image_map_args, image_compare_args, image_snapshot_args;

/* ---- options that several verbs have ---------------------------------------------- */

typedef enum { OUTPUT_HUMAN, OUTPUT_JSON } OutputForm;

/* The first member of each verb's own struct; a verb's table has the rows it wants. */
typedef struct ImageArgs {
    int format, target_format; /* BlockFormat */
    int cache, source_cache;   /* BlockCache */
    int backing;               /* BlockBacking */
    int output;                /* OutputForm */
    bool json, force_share, quiet, progress;
    uint64_t rate_limit, threads;
} ImageArgs;
extern const char *const image_output_names[];

void image_print_snapshots(json_t *list); /* image_info.c */

#define IMAGE_ARG(name_, letter_, type_, member_)                                        \
    .key = name_, .letter = letter_, .type = type_, .offset = offsetof(ImageArgs, member_)
#define IMAGE_ARG_FORMAT(help_)                                                          \
    {                                                                                    \
        IMAGE_ARG("format", 'f', PARAM_ENUM, format), .choices = block_format_names,     \
                                                      .def = "auto", .help = help_       \
    }
#define IMAGE_ARG_CACHE                                                                  \
    {                                                                                    \
        IMAGE_ARG("cache", 't', PARAM_ENUM, cache),                                      \
            .choices = block_cache_names, .def = "writeback",                            \
            .help = "how what is written is cached; as in --disk"                        \
    }
#define IMAGE_ARG_SOURCE_CACHE                                                           \
    {                                                                                    \
        IMAGE_ARG("source-cache", 'T', PARAM_ENUM, source_cache),                        \
            .choices = block_cache_names, .def = "writeback",                            \
            .help = "how what is only read is cached"                                    \
    }
#define IMAGE_ARG_BACKING                                                                \
    {                                                                                    \
        IMAGE_ARG("backing", 0, PARAM_ENUM, backing),                                    \
            .choices = block_backing_names, .def = "auto",                               \
            .help = "follow backing images: auto: those that hutch put there"            \
    }
#define IMAGE_ARG_JSON                                                                   \
    {IMAGE_ARG("json", 0, PARAM_BOOL, json), .help = "print the result as JSON"},        \
    {                                                                                    \
        IMAGE_ARG("output", 0, PARAM_ENUM, output), .choices = image_output_names,       \
                                                    .def = "human",                      \
                                                    .help = "json: the same as --json"   \
    }
#define IMAGE_ARG_SHARE                                                                  \
    {                                                                                    \
        IMAGE_ARG("force-share", 'U', PARAM_BOOL, force_share),                          \
            .help = "read it although a VM may be writing to it"                         \
    }
#define IMAGE_ARG_QUIET                                                                  \
    {                                                                                    \
        IMAGE_ARG("quiet", 'q', PARAM_BOOL, quiet), .help = "print nothing but errors"   \
    }
#define IMAGE_ARG_PROGRESS                                                               \
    {                                                                                    \
        IMAGE_ARG("progress", 'p', PARAM_BOOL, progress),                                \
            .help = "tell how far it is, also where standard error is no terminal"       \
    }
#define IMAGE_ARG_RATE                                                                   \
    {                                                                                    \
        IMAGE_ARG("rate-limit", 'r', PARAM_SIZE, rate_limit),                            \
            .help = "bytes per second at most; 0: no limit"                              \
    }
#define IMAGE_ARG_THREADS                                                                \
    {                                                                                    \
        IMAGE_ARG("threads", 'm', PARAM_UINT, threads),                                  \
            .max = WALK_MAX_THREADS,                                                     \
            .help = "how many work side by side; 0: by the number of CPUs"               \
    }

char *image_size_text(uint64_t bytes); /* "1.5 GiB", a new string */
bool image_wants_json(const ImageArgs *args);
void image_print_json(json_t *json); /* takes it */

/* Opens an image for a tool, by the options above; `cache` is a BlockCache. */
BlockImage *image_open_for(const ImageArgs *args, const char *path, int format, int cache,
                           bool readonly, unsigned flags, GError **error);

/* Flushes it and closes it; NULL is fine.  What a verb does last with an image. */
bool image_finish(BlockImage *img, GError **error);

/* image_create.c: how to make an image, by the options of create and convert (NULL: not
 * given); to be freed by param_free(&image_create_params). */
ImageCreate *image_create_parse(const char *path, int format, const char *size,
                                const char *backing, const char *backing_format,
                                char **options, GError **error);

/* As image_chain_extent(), telling apart what no image has (*ret_present false) from what
 * one of them says to be zero. */
int image_find_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret,
                      unsigned *ret_depth, bool *ret_present);

/* Through the whole chain; past its end an image (or NULL) reads as zeroes. */
bool image_read_padded(BlockImage *img, uint64_t offset, uint8_t *buf, uint64_t len,
                       GError **error);
/* True if it surely reads as zeroes for *len bytes, which is made less if need be. */
bool image_look_zero(BlockImage *img, uint64_t offset, uint64_t *len, bool *ret_zero,
                     unsigned *ret_depth, GError **error);

int image_format_by_name(int format, const char *path);              /* what AUTO means */
bool image_parse_format(const char *name, int *ret, GError **error); /* BlockFormat */

/* A name in an image counts from that image's folder. */
char *image_beside(const char *image, const char *name);
/* How deep in the chain of `img` the file of `other` is, counted from 0; UINT_MAX: not at
 * all.  From there down both show the same. */
unsigned image_depth_of(BlockImage *img, BlockImage *other);

/* Size of its clusters, or a file system's block; for what is written in whole ones. */
uint64_t image_unit(BlockImage *img);

/* ---- progress.c ------------------------------------------------------------------- */

typedef struct Progress {
    const char *what; /* "convert" */
    uint64_t total;
    atomic_uint_fast64_t done; /* any thread adds */
    bool shown, lines;         /* anything at all; lines for a log instead of a bar */
    bool drawn;                /* a bar is on the terminal now */
    int64_t started_ns, last_ns;
    double rate; /* bytes per second, smoothed */
    uint64_t last_done;
} Progress;

void progress_begin(Progress *p, const ImageArgs *args, const char *what, uint64_t total);
void progress_tick(Progress *p); /* the main thread, a few times a second */
void progress_end(Progress *p);  /* takes the bar away */
char *progress_text(double fraction, uint64_t done, uint64_t total, double rate,
                    unsigned width); /* one line of at most that many columns */

/* ---- image_target.c: files that are complete or not there ------------------------- */

typedef struct Target {
    char *path;      /* where it will be */
    char *temporary; /* where it is made: the same folder; or `path` */
    bool in_place;   /* a device or an NBD export: nothing to rename */
    bool unsafe;     /* to be set by who wants no fsync */
    BlockImage *old; /* what it will replace, held so that nobody begins to use it */
} Target;

/* Refuses to replace what is in use, or is no file. */
bool target_begin(Target *t, const char *path, GError **error);
bool target_commit(Target *t, GError **error); /* nobody has it open for writing now */
void target_clear(Target *t);                  /* removes what was not committed */

/* ---- image_walk.c ----------------------------------------------------------------- */

/* What is to be done with a stretch of the disk. */
typedef enum { WALK_SKIP, WALK_ZERO, WALK_DATA } WalkKind;

typedef struct Walk Walk;

/* One thread at a time: what is at `offset`, and for how many of `len` bytes. */
typedef bool WalkLook(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                      uint64_t *ret_len, GError **error);
/* Several threads at a time, each with buffers of its own, of w->chunk bytes. */
typedef bool WalkWork(Walk *w, WalkKind kind, uint64_t offset, uint64_t len,
                      uint8_t *buf[2], GError **error);

enum { WALK_MAX_THREADS = 16, WALK_CHUNK = 2 << 20 };

struct Walk {
    uint64_t size;
    uint64_t unit; /* power of two: pieces begin and end at multiples of it (or at size);
                      a unit that is not all of one kind is data */
    WalkLook *look;
    WalkWork *work;
    unsigned threads;    /* 0: by the number of CPUs */
    uint64_t rate_limit; /* bytes of data per second; 0: none */
    Progress *progress;
    void *opaque;

    /* image_walk.c's. */
    uint64_t chunk;
    uint64_t at, data_end; /* handed out up to here; known to be data up to there */
    atomic_bool stop;
};

/* Takes the disk from its beginning to its end.  False also if a signal came. */
bool walk_run(Walk *w, GError **error);
void walk_stop(Walk *w); /* any thread: enough has been seen; no error */

/* ---- zeroes ----------------------------------------------------------------------- */

bool is_zero(const void *buf, size_t len);
