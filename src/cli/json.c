/* What verbs print with --json. */
#include <stdio.h>
#include <unistd.h>

#include "src/cli/cli.h"

size_t cli_json_flags(void)
{
    return isatty(STDOUT_FILENO) ? JSON_ENSURE_ASCII : 0;
}

void cli_print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | cli_json_flags());
    putchar('\n');
    json_decref(json);
}
