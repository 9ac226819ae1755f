/* The config.json of a VM that is imported, from what its OVF says. */
#include <string.h>

#include "src/cli/image_import.h"
#include "util/bits.h"
#include "util/log.h"

/* A name that can be printed; NULL: nothing is left of it. */
static char *clean_name(const char *name)
{
    enum { MAX_NAME = 64 };
    GString *out = g_string_new(NULL);

    for (const char *p = name; p && *p && out->len < MAX_NAME; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (g_unichar_isprint(c))
            g_string_append_unichar(out, c);
    }
    return g_string_free(out, !out->len);
}

/* Sixteen digits or pairs with colons or dashes; NULL: no card's address. */
static char *clean_mac(const char *mac)
{
    GString *out = g_string_new(NULL);
    unsigned digits = 0;

    for (const char *p = mac; p && *p; p++) {
        if (*p == ':' || *p == '-')
            continue;
        if (!g_ascii_isxdigit(*p))
            break;
        if (digits && digits % 2 == 0)
            g_string_append_c(out, ':');
        g_string_append_c(out, g_ascii_tolower(*p));
        digits++;
    }
    /* The lowest bit of the first byte is a group's. */
    return g_string_free(out, digits != 12 || g_ascii_xdigit_value(out->str[1]) % 2 ||
                                  g_str_equal(out->str, "00:00:00:00:00:00"));
}

static json_t *nics_json(const Appliance *a)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < a->ovf->nics->len; i++) {
        const OvfNic *nic = &g_array_index(a->ovf->nics, OvfNic, i);
        g_autofree char *mac = clean_mac(nic->mac);
        json_t *one = json_pack("{s:s}", "type", "user");

        if (mac)
            json_object_set_new(one, "mac", json_string(mac));
        json_array_append_new(list, one);
    }
    return list;
}

uint64_t appliance_cpus(const Appliance *a)
{
    return CLAMP(a->ovf->cpus, 1, CONFIG_MAX_CPUS);
}

uint64_t appliance_memory(const Appliance *a)
{
    return a->ovf->memory ? align_down(MIN(a->ovf->memory, 1ull << 62), MIB) : 512 * MIB;
}

static json_t *make_config(const Appliance *a)
{
    g_autofree char *name = clean_name(a->args->name ? a->args->name : a->ovf->name);
    json_t *config = json_object();

    if (name)
        json_object_set_new(config, "name", json_string(name));
    json_object_set_new(config, "cpus", json_integer((json_int_t)appliance_cpus(a)));
    json_object_set_new(config, "memory",
                        json_pack("{s:I}", "size", (json_int_t)appliance_memory(a)));
    if (json_array_size(a->disks))
        json_object_set(config, "disk", a->disks);
    if (a->ovf->nics->len)
        json_object_set_new(config, "net", nics_json(a));
    return config;
}

bool appliance_write_config(const Appliance *a, GError **error)
{
    g_autofree char *path = g_build_filename(a->partial, "config.json", NULL);
    g_autoptr(Config) cfg = config_new();
    json_t *config = make_config(a);
    int err = json_dump_file(config, path, JSON_INDENT(2));

    json_decref(config);
    if (err)
        return fail_errno(error, "'%s': write it", path);
    return config_load(cfg, path, error);
}

void appliance_tell_what_is_missing(const Appliance *a)
{
    if (a->args->common.quiet)
        return;
    if (a->ovf->cpus > CONFIG_MAX_CPUS)
        log_info("it had %" G_GUINT64_FORMAT
                 " CPUs and has %d, the most that hutch gives",
                 a->ovf->cpus, CONFIG_MAX_CPUS);
    for (unsigned i = 0; i < a->ovf->left_out->len; i++)
        log_info("%s is left out: hutch has none", (char *)a->ovf->left_out->pdata[i]);
    if (a->ovf->nics->len)
        log_info("its network cards go to the user-mode network of hutch; edit 'net' in "
                 "the config for another");
    log_info("it started by %s, which this version of hutch has not: copy its kernel and "
             "initrd out of the disk, and add 'kernel', 'initrd' and 'cmdline' to the "
             "config",
             a->ovf->efi ? "UEFI firmware" : "a BIOS");
}
