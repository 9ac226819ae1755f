/* What the files of `hutch test` share.
 *
 * A test is a command run in a cell: a throwaway VM.  Without a matrix there is one cell,
 * which runs in this process; the cells of a matrix run in a process each.  A cell has
 * one more process, the keeper, which holds the monitor by the hand: see test_keeper.c.
 *
 *     test.c           options, the verb
 *     test_matrix.c    cells, from the options and a file
 *     test_config.c    the Config of a cell, overlays of its disks
 *     test_folder.c    temporary folders, of which nothing stays
 *     test_keeper.c    the monitor, its end, its last words
 *     test_guest.c     the command in the guest
 *     test_cell.c      one cell from beginning to end
 *     test_schedule.c  many of them within limits
 *     test_memory.c    how much memory there is for them
 *     test_report.c    JSON, JUnit, table */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "src/cli/cli.h"

extern const ParamTable test_args;
extern const char test_about[], test_notes[];
extern const ExitStatus test_statuses[];
bool test_act(void *options, char **names, int *status, GError **error);

/* ---- what is asked ---------------------------------------------------------------- */

/* What a cell may have of its own. */
enum {
    TEST_IMAGE,
    TEST_KERNEL,
    TEST_INITRD,
    TEST_CMDLINE,
    TEST_CPUS,
    TEST_MEMORY,
    TEST_KEYS,
};
extern const char *const test_keys[TEST_KEYS + 1];

typedef struct TestOptions {
    char *value[TEST_KEYS];
    char *share, *workdir, *matrix, *junit;
    char *json; /* "-": standard error; else a file */
    char **env;
    uint64_t jobs, timeout_s, boot_timeout_s; /* 0: by the CPUs; none */
    bool keep;
} TestOptions;

/* ---- what comes of it ------------------------------------------------------------- */

typedef enum {
    TEST_PASSED,  /* status 0 */
    TEST_FAILED,  /* the command's own */
    TEST_TIMEOUT, /* 124 */
    TEST_ERROR,   /* 125: could not be carried out */
    TEST_CRASH,   /* 126 */
    TEST_PANIC,   /* 127 */
    TEST_STOPPED, /* 128 + a signal's number */
    TEST_VERDICTS,
} TestVerdict;

typedef struct TestResult {
    TestVerdict verdict;
    int status;
    char *detail;  /* a sentence; NULL for passed and failed */
    char *output;  /* the end of what the command said, */
    char *console; /* and of the guest's console; both UTF-8, or NULL */
    double boot_s, run_s;
    char *kept; /* --keep-on-failure: a sentence on how to get there, or NULL */
} TestResult;

void test_result_clear(TestResult *r);

/* Replaces what is there by an error; `detail` is a new string. */
void test_result_fail(TestResult *r, TestVerdict verdict, int status, char *detail);

/* ---- test_matrix.c ---------------------------------------------------------------- */

typedef struct TestCell {
    char *name;             /* "cpus=2,memory=1G"; without a matrix, the image's */
    char *value[TEST_KEYS]; /* its own over those of the options; NULL: not given */
    Config *config;
    TestResult result;
} TestCell;

enum { TEST_MAX_CELLS = 1000 };

TestCell *test_cell_new(const TestOptions *options);
void test_cell_free(TestCell *c);

/* Cells (TestCell *, at least one) by a file: every combination of the lists in it,
 * without those that "exclude" names, and those of "include".  NULL on failure. */
GPtrArray *test_matrix_load(const char *path, const TestOptions *options, GError **error);
GPtrArray *test_matrix_cells(json_t *json, const char *base, const TestOptions *options,
                             GError **error); /* the same; paths count from `base` */

/* ---- test_config.c ---------------------------------------------------------------- */

#define TEST_TAG "hutch" /* of the shared folder */

/* Makes c->config, so that what is wrong in it is said before anything runs. */
bool test_config_make(TestCell *c, GError **error);

/* Writes FOLDER/config.json for a monitor, with an overlay in FOLDER for each disk that
 * the guest may write to; the path, a new string. */
char *test_config_write(const TestCell *c, const TestOptions *options, const char *folder,
                        const char *vm, GError **error);

/* What makes disks throwaway: an overlay in `folder` for each that the guest may write
 * to, and its options, which the first alone sets as well. */
bool test_overlay_disks(json_t *config, const char *folder, GError **error);
void test_throwaway_disks(json_t *config);

/* ---- test_folder.c ---------------------------------------------------------------- */

/* A cell's temporary folder, $TMPDIR/hutch-test-XXXXXX (/var/tmp without TMPDIR), mode
 * 0700.  While its file `lock` is locked somebody needs it; what a killed process left is
 * removed by the next `hutch test` of the same user. */
typedef struct TestFolder {
    char *path; /* NULL: none */
    char *vm;   /* a VM's name that goes with it, "test-XXXXXX" */
    int lock_fd;
} TestFolder;

/* With a folder for run folders in it, which becomes XDG_RUNTIME_DIR, if the user has
 * none. */
bool test_folder_make(TestFolder *f, GError **error);
/* Also the VM's run folder, unless somebody runs it.  Harmless on one that is not there.
 */
void test_folder_remove(TestFolder *f);
void test_folder_leave(TestFolder *f);  /* for the user, who removes it */
void test_folder_let_go(TestFolder *f); /* what becomes of it is the keeper's business */
void test_folder_sweep(void);           /* what others left */

/* ---- test_keeper.c ---------------------------------------------------------------- */

typedef struct TestVm TestVm;

/* Starts `hutch run --config CONFIG` with a keeper.  The keeper ends it when we let go of
 * it, however we do that, and then removes the folder. */
TestVm *test_vm_start(TestFolder *folder, const char *config, GError **error);

/* Waits for the monitor's end; false: it still runs after timeout_ms. */
bool test_vm_wait(TestVm *vm, int timeout_ms);

/* Lets go of it and frees it; afterwards nothing is left of it, unless it is kept: the VM
 * if it runs, else its folder.  NULL is fine. */
void test_vm_end(TestVm *vm, bool keep);

/* How the monitor ended, and its guest's console, into a result: after a test_vm_wait()
 * that returned true, or test_vm_stop(). */
void test_vm_verdict(TestVm *vm, TestResult *ret);
void test_vm_stop(TestVm *vm);       /* ends it, but leaves the folder */
char *test_vm_console(TestVm *vm);   /* its last lines; a new string, UTF-8 */
int test_vm_leash(const TestVm *vm); /* shut down, it ends the VM; for a signal handler */

/* The end of `text`, for people: at most `lines` lines, no control characters. */
char *test_last_lines(const char *text, size_t len, unsigned lines);

/* ---- test_cell.c ------------------------------------------------------------------ */

typedef struct TestRun {
    const TestOptions *options;
    const char *const *command; /* NULL-terminated */
} TestRun;

/* Runs the cell in this process, whose standard output and error are the command's. */
void test_cell_run(const TestRun *run, const TestCell *c, TestResult *ret);

/* ---- test_guest.c ----------------------------------------------------------------- */

/* Waits for the guest's agent, for as long as the VM runs and nobody stops us. */
bool test_guest_wait(TestVm *vm, const char *name, int64_t timeout_ms, GError **error);

/* Mounts what is shared and runs the command; sets verdict, status, output and run_s. */
bool test_guest_run(const TestRun *run, const char *name, TestResult *ret,
                    GError **error);

/* ---- test_schedule.c -------------------------------------------------------------- */

typedef struct TestSchedule {
    unsigned jobs;   /* cells at a time */
    uint64_t memory; /* bytes, of all that run at a time */
    /* In a process of its own. */
    void (*run)(void *opaque, const TestCell *c, TestResult *ret);
    void (*ended)(void *opaque, const TestCell *c); /* here; may be NULL */
    void *opaque;
} TestSchedule;

/* What a cell takes of the memory: its guest's, and something for the monitor. */
uint64_t test_cell_memory(const TestCell *c);

/* Runs all cells, in order as far as memory allows, and fills in their results.  What
 * they print goes to our standard output and error, each line with the cell's name. */
void test_schedule_run(const TestSchedule *s, TestCell **cells, unsigned n);

/* ---- test_memory.c ---------------------------------------------------------------- */

uint64_t test_memory_available(void); /* bytes; also by our control groups' limits */
uint64_t test_memory_parse(const char *meminfo); /* /proc/meminfo's; 0: does not say */

/* ---- test_report.c ---------------------------------------------------------------- */

/* 0, or the status of the first cell, in their order, that did not pass. */
int test_status(TestCell *const *cells, unsigned n);

json_t *test_result_to_json(const TestResult *r); /* all of it */
bool test_result_from_json(TestResult *ret, const json_t *json);

/* New strings: the object of --json, a JUnit file, a table for people. */
char *test_report_json(TestCell *const *cells, unsigned n, bool matrix, double seconds);
char *test_report_junit(TestCell *const *cells, unsigned n, double seconds);
char *test_report_table(TestCell *const *cells, unsigned n);
char *test_result_line(const TestCell *c); /* "cpus=1: failed with status 2 (...)" */

void test_xml_append(GString *out, const char *text); /* any bytes, as valid XML 1.0 */
