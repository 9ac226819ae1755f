/* What the files of the command line share.  Everything here runs on the main thread,
 * before or after a machine. */
#pragma once

#include "machine/config.h"
#include "util/error.h"

/* The exit status of `hutch` when a time limit was over, and when it could not do what it
 * was asked (see Verb.statuses for the others). */
enum { EXIT_TIMEOUT = 124, EXIT_CANNOT = 125 };

typedef struct ExitStatus {
    const char *status, *meaning;
} ExitStatus;

/* What the arguments are that are no options: for completion. */
typedef enum {
    NAMES_NOTHING,
    NAMES_FILES,
    NAMES_GUESTS,
    NAMES_VMS,
    NAMES_VMS_AND_FILES,
    NAMES_SNAPSHOTS,
    NAMES_SNAPSHOTS_AND_FILES,
    NAMES_TEMPLATES,
    NAMES_NETWORKS,
    NAMES_NETWORKS_AND_FILES,
} NamesKind;

/* hutch NAME ...: this and the tables it points to are all that is to be said of a verb.
 *
 * What a verb does is one of three: it has verbs of its own (hutch image create); it has
 * `act`, which gets its options and names parsed; or it has `run` and the arguments as
 * they came, argv[0] being the verb itself.  One with both verbs and `act` is a verb if
 * the first argument names one (hutch clone detach). */
typedef struct Verb {
    const char *group; /* the heading in help above it and those that follow; NULL: as
                          the verb before */
    const char *name;
    const char *args;
    const char *help;
    bool hidden; /* from help and completion: for the build, not for people */
    NamesKind names;
    const struct Verb *verbs; /* ends with a NULL name */
    int (*run)(int argc, char **argv);
    /* False: `error` is printed, and the status is *status or else EXIT_CANNOT.  names
     * ends with NULL. */
    bool (*act)(void *options, char **names, int *status, GError **error);
    const ParamTable *params;             /* of act's options */
    unsigned min_names, max_names;        /* how many act takes */
    const ConfigOption *(*options)(void); /* of run; NULL: none */
    const char *about;                    /* paragraphs before the options, */
    const char *notes;                    /* and after them */
    const ExitStatus *statuses;           /* ends with a NULL status; NULL: 0 and 125 */
} Verb;

/* ---- verbs.c ---------------------------------------------------------------------- */

extern const Verb verbs[]; /* ends with a NULL name */

/* NULL with a sentence that says what was probably meant; `where` is "" or "image". */
const Verb *verb_find(const Verb *table, const char *where, const char *name,
                      GError **error);
int verb_main(const Verb *verb, const char *where, int argc, char **argv);

/* Its options; an empty array if it has none.  `ret` has room for MAX_VERB_OPTIONS + 1.
 */
enum { MAX_VERB_OPTIONS = 96 };
void verb_options(const Verb *verb, ConfigOption *ret);

/* On standard output; takes it. */
void cli_print_json(json_t *json);

/* For who prints otherwise what a guest may have said: on a terminal, what is not ASCII
 * is escaped, for there are control characters beyond it, which JSON does not mind. */
size_t cli_json_flags(void);

int verb_run(int argc, char **argv); /* run.c */
extern const ExitStatus run_statuses[];
extern const char run_about[], run_notes[];

extern int64_t cli_started_ns; /* when main() began, by clock_ns() */

/* ---- options.c: arguments, by tables ---------------------------------------------- */

typedef struct Given {
    const ConfigOption *option;
    const char *value; /* NULL: none */
} Given;

typedef struct Arguments {
    Given *given;
    unsigned n_given;
    char **names; /* those that are no options, NULL-terminated; argv's */
    unsigned n_names;
} Arguments;

/* Sorts argv[1] and on into options and names; `verb` is for messages: "image create".
 * The result points into `argv` and `options`. */
bool arguments_parse(Arguments *ret, const char *verb, const ConfigOption *options,
                     char **argv, GError **error);
void arguments_clear(Arguments *a);

/* Sets the options that `table` describes in its struct; others are passed over. */
bool arguments_apply(const Arguments *a, const ParamTable *table, void *options,
                     GError **error);

/* ---- run.c: the options of `hutch run` that are not the Config's ------------------ */

typedef struct RunOptions {
    char *config, *wait, *restore, *warm;
    int memory_from, clock; /* RestoreMemory, ClockMode: of --restore */
    int working_set;        /* 0: off */
    uint64_t wait_timeout;  /* seconds; 0: none */
    bool print_config, detach, help, trust;
} RunOptions;

/* The Config's options, then RunOptions'; ends with a NULL name. */
const ConfigOption *run_options(void);

/* ---- help.c ----------------------------------------------------------------------- */

/* All return new strings. */
char *help_overview(void);
char *help_verb(const Verb *verb, const char *where);
char *help_placeholder(const ConfigOption *option); /* "FILE[,KEY=VALUE]..." or "" */
char *help_key_placeholder(const ParamDesc *desc);  /* "FILE", "on|off", "a|b" */
char *help_key_text(const ParamDesc *desc);         /* "offer IPv6 too (default: on)" */
char *help_option_text(const ConfigOption *option); /* as well as "(may be repeated)" */

/* What is required in a list of keys that only belongs to an option, the verb gives. */
bool help_shows_key(const ConfigOption *option, const ParamDesc *key);

char *man_page(void);                       /* man.c */
char *completion_script(const char *shell); /* completion.c; NULL: unknown shell */

/* ---- images.c: where `hutch run NAME` finds guests -------------------------------- */

/* The path of an image's config.json; NULL with a sentence that says what there is. */
char *images_find(const char *name, GError **error);
int images_print(void);
char *images_folder(void); /* a new string; need not exist */
bool images_check_name(const char *name, GError **error);
