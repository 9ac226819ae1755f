/* What launch.c and first_run.c agree on. */
#pragma once

#include <stdbool.h>

/* Environment: the descriptor that the moment, a struct timespec, is written to. */
#define FIRST_RUN_FD "BENCH_FIRST_RUN_FD"
