/* hutch config: what a VM was made from, to look at or to start another like it. */
#include <stdio.h>

#include "src/cli/fleet.h"

/* Under the name it has now; a new reference. */
static json_t *config_of(const char *vm, GError **error)
{
    json_t *config = fleet_read(vm, PLACE_CONFIG);
    PlaceInfo info;

    if (config) {
        json_object_set_new(config, "name", json_string(vm));
        return config;
    }
    if (place_look(vm, &info, error) && info.state == PLACE_NONE)
        place_fail(vm, PLACE_NONE, error);
    else if (!error || !*error)
        fail(error, VM_ERROR_NOT_FOUND, "VM '%s' has no config.json in its run folder",
             vm);
    return NULL;
}

static bool act_show(void *options, char **names, int *status, GError **error)
{
    json_t *config = config_of(names[0], error);

    if (config)
        cli_print_json(config);
    return config != NULL;
}

static bool act_save(void *options, char **names, int *status, GError **error)
{
    json_t *config = config_of(names[0], error);
    char *text = config ? json_dumps(config, JSON_INDENT(2)) : NULL;
    g_autofree char *line = text ? g_strconcat(text, "\n", NULL) : NULL;
    g_autoptr(GError) inner = NULL;
    bool ok = line && g_file_set_contents(names[1], line, -1, &inner);

    free(text);
    json_decref(config);
    if (inner)
        fail(error, VM_ERROR_IO, "%s", inner->message);
    return ok;
}

static FLEET_TABLE(config_args, FLEET_ROW_JSON);
static FLEET_TABLE(no_args, {0});

const Verb fleet_config_verbs[] = {
    {.name = "show",
     .args = "VM",
     .help = "print what a VM was made from, as 'hutch run --config' reads it",
     .act = act_show,
     .params = &config_args,
     .names = NAMES_VMS,
     .min_names = 1,
     .max_names = 1},
    {.name = "save",
     .args = "VM FILE",
     .help = "write it to a file",
     .act = act_save,
     .params = &no_args,
     .names = NAMES_VMS,
     .min_names = 2,
     .max_names = 2},
    {0},
};
