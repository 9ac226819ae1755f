/* Private to top*.c: what a VM does, as figures, and the screen. */
#pragma once

#include <jansson.h>

#include "util/error.h"

/* What a VM had done at one moment, of its metrics. */
typedef struct TopFigures {
    int64_t at_ns;    /* CLOCK_MONOTONIC */
    double cpu, vcpu; /* seconds of processor time: all of it, and its vCPUs' */
    double exits;
    double disk_read, disk_write, net_rx, net_tx; /* bytes */
    double resident, private_, shared, swapped;   /* bytes */
    char state[16];
} TopFigures;

/* A row of the table: what it does now, a second. */
typedef struct TopRow {
    char *name;
    char state[16];
    double cpu, vcpu; /* percent of one processor */
    double resident, private_, shared, swapped;
    double disk_read, disk_write, net_rx, net_tx, exits;
} TopRow;

typedef enum { TOP_BY_CPU, TOP_BY_MEMORY, TOP_BY_DISK, TOP_BY_NET } TopOrder;

/* ---- top_rows.c ------------------------------------------------------------------- */

/* What x-hutch-query-metrics returned, which may be of any version; what is missing
 * counts as 0. */
void top_figures(json_t *metrics, int64_t at_ns, TopFigures *ret);

/* The rates between two moments; `name` is copied.  A VM that was started anew in between
 * has done nothing. */
void top_row(const char *name, const TopFigures *before, const TopFigures *now,
             TopRow *ret);
void top_sort(GArray *rows, TopOrder order); /* of TopRow; the busiest first */

/* Keeps the last figures of each VM, and turns what they say now into rows. */
typedef struct Top Top;
Top *top_new(void);
void top_free(Top *t);

/* Asks all VMs; `rows`, of TopRow, is replaced.  VMs seen for the first time have no
 * rates yet, and are left out if `known` is set. */
bool top_sample(Top *t, bool known, GArray *rows, GError **error);
GArray *top_rows_new(void);

/* New strings.  The table, in lines of `width` bytes at most (0: any), and rows as JSON.
 */
char *top_table(const GArray *rows, TopOrder order, unsigned width);
json_t *top_json(const GArray *rows);

/* ---- top_screen.c ----------------------------------------------------------------- */

/* Shows the table until the person quits or a signal ends it; the terminal is given back
 * however that happens.  *ret_signal is 0, or the signal. */
bool top_screen(Top *t, double interval_s, int *ret_signal, GError **error);
