/* What verbs print with --json. */
#include <stdio.h>

#include "src/cli/cli.h"

void cli_print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
}
