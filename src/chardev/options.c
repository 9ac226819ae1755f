/* Where a chardev goes, as data: its options, and which kind each of them means. */
#include "chardev_private.h"

static bool none_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    return true;
}

static void none_close(Chardev *c)
{
}

const ChardevOps chardev_none_ops = {"none", .open = none_open, .close = none_close};

const char *const chardev_type_names[] = {"none", "stdio", "pty", NULL};

bool chardev_options_check(const ChardevOptions *options, GError **error)
{
    unsigned n = !!options->type + !!options->file + !!options->socket;

    if (n == 1 && options->log && !options->socket)
        return fail(error, VM_ERROR_INVALID, "log=FILE goes with socket=PATH only");
    if (n == 1)
        return true;
    return fail(error, VM_ERROR_INVALID,
                "%s: write one of stdio, pty, none, file=FILE or socket=PATH",
                n ? "too many places to go to" : "no place to go to");
}

static bool check(void *options, GError **error)
{
    return chardev_options_check(options, error);
}

/* So that the macro finds its options under a member's name. */
typedef struct ChardevOptionsAlone {
    ChardevOptions o;
} ChardevOptionsAlone;

const ParamTable chardev_params = {
    .size = sizeof(ChardevOptionsAlone),
    .desc = (const ParamDesc[]){CHARDEV_PARAMS(ChardevOptionsAlone, o), {0}},
    .check = check,
};

const ChardevOps *chardev_ops_for(const ChardevOptions *options)
{
    if (options->file)
        return &chardev_file_ops;
    if (options->socket)
        return &chardev_socket_ops;
    if (options->type == CHARDEV_STDIO)
        return &chardev_stdio_ops;
    if (options->type == CHARDEV_PTY)
        return &chardev_pty_ops;
    return &chardev_none_ops;
}

char *chardev_filename_for(const ChardevOptions *options)
{
    if (options->socket)
        return g_strdup_printf("unix:%s,server=on", options->socket);
    if (options->file)
        return g_strdup("file");
    return g_strdup(options->type == CHARDEV_STDIO ? "stdio" : "null");
}
