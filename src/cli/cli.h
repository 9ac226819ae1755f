/* What the files of the command line share.  Everything here runs on the main thread,
 * before or after a machine. */
#pragma once

#include "machine/config.h"
#include "util/error.h"

/* The exit status of `hutch` when it could not do what it was asked (see exit_statuses
 * for the others of `hutch run`). */
enum { EXIT_CANNOT = 125 };

/* hutch NAME ...: argv[0] is the verb itself. */
typedef struct Verb {
    const char *name;
    const char *args;
    const char *help;
    bool hidden; /* from help and completion: for the build, not for people */
    int (*run)(int argc, char **argv);
} Verb;

extern const Verb verbs[]; /* ends with a NULL name */
const Verb *verb_find(const char *name);

int verb_run(int argc, char **argv);
int verb_help(int argc, char **argv);
int verb_version(int argc, char **argv);
int verb_generate(int argc, char **argv);

typedef struct ExitStatus {
    const char *status, *meaning;
} ExitStatus;
extern const ExitStatus exit_statuses[]; /* of `hutch run`; ends with a NULL status */

extern int64_t cli_started_ns; /* when main() began, by clock_ns() */

/* ---- run.c: the options of `hutch run` that are not the Config's ----------------------
 */

typedef struct RunOptions {
    char *config;
    bool print_config, help;
} RunOptions;

/* The Config's options, then RunOptions'; ends with a NULL name. */
const ConfigOption *run_options(void);
char run_option_letter(const char *name); /* 0: it has none */

/* ---- help.c -------------------------------------------------------------------------
 */

/* All return new strings. */
char *help_overview(void);
char *help_verb(const Verb *verb);
char *help_placeholder(const ConfigOption *option); /* "FILE[,KEY=VALUE]..." or "" */
char *help_key_placeholder(const ParamDesc *desc);  /* "FILE", "on|off", "a|b" */
char *help_key_text(const ParamDesc *desc);         /* "offer IPv6 too (default: on)" */
char *help_option_text(const ConfigOption *option); /* as well as "(may be repeated)" */

char *man_page(void);                       /* man.c */
char *completion_script(const char *shell); /* completion.c; NULL: unknown shell */

/* ---- images.c: where `hutch run NAME` finds guests ------------------------------------
 */

/* The path of an image's config.json; NULL with a sentence that says what there is. */
char *images_find(const char *name, GError **error);
int images_print(void);
