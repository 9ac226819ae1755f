/* An OVF descriptor, as far as hutch can use it (DMTF DSP0243, versions 1 and 2).
 *
 * The text comes from strangers.  GMarkup knows no entities but the five of XML, so
 * nothing in it can grow; what is counted here is bounded, and what is not understood is
 * passed over.  Names are taken without their namespace's prefix, since every vendor has
 * its own. */
#include <string.h>

#include "src/cli/image_import.h"
#include "util/bits.h"

enum { MAX_DEPTH = 64, MAX_THINGS = 256, MAX_VALUE = 1024 };

/* ResourceType of CIM_ResourceAllocationSettingData */
enum {
    RES_CPU = 3,
    RES_MEMORY = 4,
    RES_NIC = 10,
    RES_FLOPPY = 14,
    RES_CD = 15,
    RES_DVD = 16,
    RES_DISK = 17,
    RES_SERIAL = 21,
    RES_USB = 23,
    RES_SOUND = 35,
};

/* One <Item>: a piece of virtual hardware. */
typedef struct Item {
    unsigned type;
    uint64_t quantity;
    char *units, *host, *address, *connection;
} Item;

typedef struct Reader {
    Ovf *ovf;
    const char *path[MAX_DEPTH]; /* names of the open elements; interned */
    unsigned depth;
    Item item;
    bool in_item;
    GString *text; /* of the innermost element */
    unsigned vbox_nics;
} Reader;

static const char *local_name(const char *name)
{
    const char *colon = strrchr(name, ':');

    return colon ? colon + 1 : name;
}

/* A new string; NULL if it is not there. */
static char *attribute(const char **names, const char **values, const char *name)
{
    for (unsigned i = 0; names[i]; i++)
        if (g_str_equal(local_name(names[i]), name))
            return g_strndup(values[i], MAX_VALUE);
    return NULL;
}

static bool inside(const Reader *r, const char *name)
{
    for (unsigned i = 0; i < r->depth; i++)
        if (g_str_equal(r->path[i], name))
            return true;
    return false;
}

/* ---- units ------------------------------------------------------------------------ */

/* "byte * 2^20", "MegaBytes", "MB", "GigaBytes": DSP0004, annex C.1, and what came before
 * it.  0: not understood. */
static uint64_t unit_of(const char *text)
{
    const char *power = text ? strstr(text, "2^") : NULL;
    uint64_t n = power ? g_ascii_strtoull(power + 2, NULL, 10) : 0;

    if (!text || !*text || g_str_equal(text, "byte"))
        return 1;
    if (power)
        return n < 50 ? 1ull << n : 0;
    switch (g_ascii_toupper(*text)) {
    case 'K':
        return KIB;
    case 'M':
        return MIB;
    case 'G':
        return GIB;
    case 'T':
        return 1024 * GIB;
    default:
        return 0;
    }
}

static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t v;

    return __builtin_mul_overflow(a, b, &v) ? UINT64_MAX : v;
}

/* ---- the elements ----------------------------------------------------------------- */

static bool room(const GArray *list, GError **error)
{
    return list->len < MAX_THINGS ||
           fail(error, VM_ERROR_CORRUPT, "it has more than %d of one kind of thing",
                MAX_THINGS);
}

static bool add_file(Reader *r, const char **names, const char **values, GError **error)
{
    OvfFile f;

    if (!room(r->ovf->files, error))
        return false;
    f = (OvfFile){attribute(names, values, "id"), attribute(names, values, "href"),
                  attribute(names, values, "compression")};
    if (attribute(names, values, "chunkSize")) {
        g_free(f.compression);
        f.compression = g_strdup("chunks");
    }
    g_array_append_val(r->ovf->files, f);
    return true;
}

static bool add_disk(Reader *r, const char **names, const char **values, GError **error)
{
    g_autofree char *capacity = attribute(names, values, "capacity");
    g_autofree char *units = attribute(names, values, "capacityAllocationUnits");
    OvfDisk d;

    if (!room(r->ovf->disks, error))
        return false;
    d = (OvfDisk){.id = attribute(names, values, "diskId"),
                  .file = attribute(names, values, "fileRef"),
                  .parent = attribute(names, values, "parentRef"),
                  .capacity = times(capacity ? g_ascii_strtoull(capacity, NULL, 10) : 0,
                                    unit_of(units))};
    g_array_append_val(r->ovf->disks, d);
    return true;
}

/* "vmw:Config key=firmware value=efi", and VirtualBox's <Firmware type="EFI"/> */
static void look_for_efi(Reader *r, const char *name, const char **names,
                         const char **values)
{
    bool config = g_str_equal(name, "Config");
    g_autofree char *key = attribute(names, values, "key");
    g_autofree char *value = attribute(names, values, config ? "value" : "type");

    if ((config && !g_strcmp0(key, "firmware")) || g_str_equal(name, "Firmware"))
        r->ovf->efi |= value && !g_ascii_strncasecmp(value, "efi", 3);
}

/* VirtualBox keeps the addresses of its cards in a section of its own, in their order. */
static void take_vbox_mac(Reader *r, const char **names, const char **values)
{
    g_autofree char *enabled = attribute(names, values, "enabled");
    char *mac = attribute(names, values, "MACAddress");
    OvfNic *nic;

    if (mac && !g_strcmp0(enabled, "true") && r->vbox_nics < r->ovf->nics->len) {
        nic = &g_array_index(r->ovf->nics, OvfNic, r->vbox_nics++);
        if (!nic->mac) {
            nic->mac = mac;
            return;
        }
    }
    g_free(mac);
}

static bool is_item(const char *name)
{
    return g_str_equal(name, "Item") || g_str_equal(name, "StorageItem") ||
           g_str_equal(name, "EthernetPortItem");
}

static void start_element(GMarkupParseContext *context, const char *full,
                          const char **names, const char **values, gpointer opaque,
                          GError **error)
{
    Reader *r = opaque;
    const char *name = local_name(full);

    if (r->depth == MAX_DEPTH) {
        fail(error, VM_ERROR_CORRUPT, "its elements are nested too deeply");
        return;
    }
    g_string_truncate(r->text, 0);
    if (g_str_equal(name, "VirtualSystem"))
        r->ovf->systems++;
    if (g_str_equal(name, "VirtualSystem") && !r->ovf->name)
        r->ovf->name = attribute(names, values, "id");
    if (is_item(name))
        r->in_item = true;
    if (g_str_equal(name, "Adapter"))
        take_vbox_mac(r, names, values);
    look_for_efi(r, name, names, values);
    if (g_str_equal(name, "File") && inside(r, "References"))
        add_file(r, names, values, error);
    if (g_str_equal(name, "Disk") && inside(r, "DiskSection"))
        add_disk(r, names, values, error);
    r->path[r->depth++] = g_intern_string(is_item(name) ? "Item" : name);
}

/* ---- hardware --------------------------------------------------------------------- */

static void leave_out(Reader *r, const char *what)
{
    for (unsigned i = 0; i < r->ovf->left_out->len; i++)
        if (g_str_equal(r->ovf->left_out->pdata[i], what))
            return;
    g_ptr_array_add(r->ovf->left_out, g_strdup(what));
}

/* "ovf:/disk/ID" or "/disk/ID"; "ovf:/file/ID" for a disk without a <Disk> */
static void attach_disk(Reader *r)
{
    char *at = r->item.host ? strrchr(r->item.host, '/') : NULL;
    char *id = at ? g_strdup(at + 1) : NULL;

    if (id)
        g_array_append_val(r->ovf->attached, id);
    else
        leave_out(r, "a disk without contents");
}

static void add_nic(Reader *r)
{
    OvfNic nic = {g_steal_pointer(&r->item.address),
                  g_steal_pointer(&r->item.connection)};

    g_array_append_val(r->ovf->nics, nic);
}

static void end_item(Reader *r, GError **error)
{
    Item *i = &r->item;
    static const struct {
        unsigned type;
        const char *what;
    } without[] = {{RES_FLOPPY, "the floppy drive"}, {RES_USB, "the USB controller"},
                   {RES_SOUND, "the sound card"},    {RES_SERIAL, "a serial port"},
                   {RES_CD, "the CD drive"},         {RES_DVD, "the CD drive"}};

    if (!room(r->ovf->attached, error) || !room(r->ovf->nics, error))
        return;
    if (i->type == RES_CPU)
        r->ovf->cpus = i->quantity;
    else if (i->type == RES_MEMORY)
        r->ovf->memory = times(i->quantity, i->units ? unit_of(i->units) : MIB);
    else if (i->type == RES_DISK)
        attach_disk(r);
    else if (i->type == RES_NIC)
        add_nic(r);
    for (unsigned n = 0; n < G_N_ELEMENTS(without); n++)
        if (without[n].type == i->type)
            leave_out(r, without[n].what);
    g_free(i->units);
    g_free(i->host);
    g_free(i->address);
    g_free(i->connection);
    *i = (Item){0};
    r->in_item = false;
}

static void set(char **at, const char *text)
{
    g_free(*at);
    *at = g_strndup(text, MAX_VALUE);
}

static void take_text(Reader *r, const char *name)
{
    const char *text = g_strstrip(r->text->str);
    Item *i = &r->item;

    if (!r->in_item) {
        if (g_str_equal(name, "Name") && r->depth >= 2 &&
            g_str_equal(r->path[r->depth - 2], "VirtualSystem"))
            set(&r->ovf->name, text);
    } else if (g_str_equal(name, "ResourceType")) {
        i->type = (unsigned)g_ascii_strtoull(text, NULL, 10);
    } else if (g_str_equal(name, "VirtualQuantity")) {
        i->quantity = g_ascii_strtoull(text, NULL, 10);
    } else if (g_str_equal(name, "AllocationUnits")) {
        set(&i->units, text);
    } else if (g_str_equal(name, "HostResource")) {
        set(&i->host, text);
    } else if (g_str_equal(name, "Address")) {
        set(&i->address, text);
    } else if (g_str_equal(name, "Connection")) {
        set(&i->connection, text);
    }
}

static void end_element(GMarkupParseContext *context, const char *full, gpointer opaque,
                        GError **error)
{
    Reader *r = opaque;
    const char *name = local_name(full);

    if (is_item(name))
        end_item(r, error);
    else
        take_text(r, name);
    r->depth--;
    g_string_truncate(r->text, 0);
}

static void add_text(GMarkupParseContext *context, const char *text, gsize len,
                     gpointer opaque, GError **error)
{
    Reader *r = opaque;

    g_string_append_len(r->text, text, (gssize)MIN(len, MAX_VALUE));
    g_string_truncate(r->text, MIN(r->text->len, MAX_VALUE));
}

/* ---- all of it -------------------------------------------------------------------- */

static void free_file(void *p)
{
    OvfFile *f = p;

    g_free(f->id);
    g_free(f->href);
    g_free(f->compression);
}

static void free_disk(void *p)
{
    OvfDisk *d = p;

    g_free(d->id);
    g_free(d->file);
    g_free(d->parent);
}

static void free_nic(void *p)
{
    OvfNic *n = p;

    g_free(n->mac);
    g_free(n->network);
}

static void free_string(void *p)
{
    g_free(*(char **)p);
}

static GArray *list_of(size_t size, GDestroyNotify clear)
{
    GArray *list = g_array_new(FALSE, FALSE, (guint)size);

    g_array_set_clear_func(list, clear);
    return list;
}

void ovf_free(Ovf *ovf)
{
    if (!ovf)
        return;
    g_free(ovf->name);
    g_array_unref(ovf->files);
    g_array_unref(ovf->disks);
    g_array_unref(ovf->attached);
    g_array_unref(ovf->nics);
    g_ptr_array_unref(ovf->left_out);
    g_free(ovf);
}

static bool parse(Reader *r, const char *text, size_t len, GError **error)
{
    static const GMarkupParser parser = {
        .start_element = start_element, .end_element = end_element, .text = add_text};
    g_autoptr(GError) why = NULL;
    GMarkupParseContext *context = g_markup_parse_context_new(
        &parser, G_MARKUP_TREAT_CDATA_AS_TEXT, r, NULL);
    bool ok;

    if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) { /* a byte order mark */
        text += 3;
        len -= 3;
    }
    ok = g_markup_parse_context_parse(context, text, (gssize)len, &why) &&
         g_markup_parse_context_end_parse(context, &why);
    g_markup_parse_context_free(context);
    return ok ||
           fail(error, VM_ERROR_CORRUPT, "not an OVF that can be read: %s", why->message);
}

Ovf *ovf_parse(const char *text, size_t len, GError **error)
{
    g_autoptr(Ovf) ovf = g_new0(Ovf, 1);
    Reader r = {.ovf = ovf, .text = g_string_new(NULL)};
    bool ok;

    ovf->files = list_of(sizeof(OvfFile), free_file);
    ovf->disks = list_of(sizeof(OvfDisk), free_disk);
    ovf->attached = list_of(sizeof(char *), free_string);
    ovf->nics = list_of(sizeof(OvfNic), free_nic);
    ovf->left_out = g_ptr_array_new_with_free_func(g_free);
    ok = parse(&r, text, len, error);
    g_string_free(r.text, TRUE);
    g_free(r.item.units);
    g_free(r.item.host);
    g_free(r.item.address);
    g_free(r.item.connection);
    if (ok && ovf->systems != 1)
        ok = fail(error, VM_ERROR_INVALID,
                  ovf->systems ? "it has %u VMs, and hutch imports one: export them one "
                                 "by one"
                               : "it describes no VM (%u)",
                  ovf->systems);
    return ok ? g_steal_pointer(&ovf) : NULL;
}

const OvfDisk *ovf_disk(const Ovf *ovf, const char *id)
{
    for (unsigned i = 0; i < ovf->disks->len; i++) {
        const OvfDisk *d = &g_array_index(ovf->disks, OvfDisk, i);

        if (!g_strcmp0(d->id, id))
            return d;
    }
    return NULL;
}

const OvfFile *ovf_file(const Ovf *ovf, const char *id)
{
    for (unsigned i = 0; i < ovf->files->len; i++) {
        const OvfFile *f = &g_array_index(ovf->files, OvfFile, i);

        if (!g_strcmp0(f->id, id))
            return f;
    }
    return NULL;
}
