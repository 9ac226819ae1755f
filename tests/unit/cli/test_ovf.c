/* Reading OVF descriptors: of three vendors, and of none. */
#include <string.h>

#include "src/cli/image_import.h"
#include "util/bits.h"

static Ovf *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    Ovf *ovf = ovf_parse(text, strlen(text), &error);

    if (!ovf)
        g_error("%s", error->message);
    return ovf;
}

static void refused(const char *text, size_t len, const char *words)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(ovf_parse(text, len, &error));
    if (!strstr(error->message, words))
        g_error("\"%s\" lacks \"%s\"", error->message, words);
}

static const char vmware[] =
    "<?xml version=\"1.0\"?><Envelope xmlns:ovf=\"o\" xmlns:rasd=\"r\" xmlns:vmw=\"v\">"
    "<References><File ovf:href=\"d.vmdk\" ovf:id=\"file1\" ovf:size=\"7\"/></References>"
    "<DiskSection><Disk ovf:capacity=\"16\" ovf:capacityAllocationUnits=\"byte * 2^30\" "
    "ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\"/></DiskSection>"
    "<VirtualSystem ovf:id=\"vm\"><Info>x</Info><Name>a &lt;b&gt; &#67;</Name>"
    "<VirtualHardwareSection>"
    "<System><vssd:ElementName xmlns:vssd=\"s\">f</vssd:ElementName></System>"
    "<Item><rasd:ResourceType>3</rasd:ResourceType>"
    "<rasd:VirtualQuantity> 4 </rasd:VirtualQuantity></Item>"
    "<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>"
    "<rasd:ResourceType>4</rasd:ResourceType>"
    "<rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>"
    "<Item><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>"
    "<rasd:ResourceType>17</rasd:ResourceType></Item>"
    "<Item><rasd:Address>00:50:56:00:00:01</rasd:Address>"
    "<rasd:Connection>VM Network</rasd:Connection>"
    "<rasd:ResourceType>10</rasd:ResourceType></Item>"
    "<Item><rasd:ResourceType>15</rasd:ResourceType></Item>"
    "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>"
    "</VirtualHardwareSection></VirtualSystem></Envelope>";

static void vmwares_is_understood(void)
{
    g_autoptr(Ovf) ovf = parse(vmware);
    const char *id = g_array_index(ovf->attached, char *, 0);
    const OvfDisk *disk = ovf_disk(ovf, id);

    g_assert_cmpstr(ovf->name, ==, "a <b> C");
    g_assert_cmpuint(ovf->cpus, ==, 4);
    g_assert_cmpuint(ovf->memory, ==, 2 * GIB);
    g_assert_true(ovf->efi);
    g_assert_cmpuint(ovf->attached->len, ==, 1);
    g_assert_cmpuint(disk->capacity, ==, 16 * GIB);
    g_assert_cmpstr(ovf_file(ovf, disk->file)->href, ==, "d.vmdk");
    g_assert_cmpuint(ovf->nics->len, ==, 1);
    g_assert_cmpstr(g_array_index(ovf->nics, OvfNic, 0).mac, ==, "00:50:56:00:00:01");
    g_assert_cmpuint(ovf->left_out->len, ==, 1);
}

/* Of version 2, with other kinds of items and addresses in VirtualBox's own section. */
static const char virtualbox[] =
    "\xef\xbb\xbf<Envelope xmlns=\"o\"><References><File href=\"d.vmdk\" id=\"f\"/>"
    "</References><DiskSection><Disk capacity=\"1048576\" diskId=\"d\" fileRef=\"f\"/>"
    "</DiskSection><VirtualSystem id=\"box\"><VirtualHardwareSection>"
    "<Item><ResourceType>4</ResourceType><AllocationUnits>MegaBytes</AllocationUnits>"
    "<VirtualQuantity>512</VirtualQuantity></Item>"
    "<StorageItem><sasd:HostResource>/disk/d</sasd:HostResource>"
    "<sasd:ResourceType>17</sasd:ResourceType></StorageItem>"
    "<EthernetPortItem><epasd:ResourceType>10</epasd:ResourceType></EthernetPortItem>"
    "</VirtualHardwareSection><vbox:Machine><Hardware><Firmware type=\"EFI\"/><Network>"
    "<Adapter slot=\"1\" enabled=\"false\" MACAddress=\"080027000000\"/>"
    "<Adapter slot=\"0\" enabled=\"true\" MACAddress=\"080027ABCDEF\"/>"
    "</Network></Hardware></vbox:Machine></VirtualSystem></Envelope>";

static void virtualboxs_is_understood(void)
{
    g_autoptr(Ovf) ovf = parse(virtualbox);

    g_assert_cmpstr(ovf->name, ==, "box");
    g_assert_cmpuint(ovf->memory, ==, 512 * MIB);
    g_assert_cmpuint(ovf->cpus, ==, 0);
    g_assert_true(ovf->efi);
    g_assert_cmpstr(g_array_index(ovf->nics, OvfNic, 0).mac, ==, "080027ABCDEF");
    g_assert_cmpstr(g_array_index(ovf->attached, char *, 0), ==, "d");
    g_assert_cmpuint(ovf_disk(ovf, "d")->capacity, ==, MIB);
}

static void units_of_memory_are_understood(void)
{
    static const struct {
        const char *units;
        uint64_t bytes;
    } cases[] = {{"byte * 2^20", 3 * MIB},
                 {"byte*2^30", 3 * GIB},
                 {"MB", 3 * MIB},
                 {"GigaBytes", 3 * GIB},
                 {"byte", 3},
                 {"KB", 3 * KIB},
                 {"byte * 2^99999", 0},
                 {"furlongs", 0}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdup_printf(
            "<E><VirtualSystem><Item><ResourceType>4</ResourceType><AllocationUnits>%s"
            "</AllocationUnits><VirtualQuantity>3</VirtualQuantity></Item>"
            "</VirtualSystem></E>",
            cases[i].units);
        g_autoptr(Ovf) ovf = parse(text);

        g_assert_cmpuint(ovf->memory, ==, cases[i].bytes);
    }
}

static char *repeat(const char *text, unsigned n)
{
    GString *out = g_string_new(NULL);

    for (unsigned i = 0; i < n; i++)
        g_string_append(out, text);
    return g_string_free(out, FALSE);
}

static void hostile_text_is_refused_with_a_sentence(void)
{
    g_autofree char *deep = repeat("<a>", 10000);
    g_autofree char *items = repeat("<Item><ResourceType>10</ResourceType></Item>", 1000);
    g_autofree char *many = g_strdup_printf("<E><VirtualSystem>%s</VirtualSystem></E>",
                                            items);
    static const char entity[] = "<!DOCTYPE x [<!ENTITY a \"b\">]><E>&a;</E>";

    refused("", 0, "not an OVF");
    refused("\0\0\0", 3, "not an OVF");
    refused("<E/>", 4, "describes no VM");
    refused(vmware, sizeof(vmware) - 20, "not an OVF");
    refused(deep, strlen(deep), "nested too deeply");
    refused(many, strlen(many), "more than 256");
    refused(entity, strlen(entity), "not an OVF");
}

/* Bytes changed at random: an answer, and nothing for the sanitizers to see. */
static void damaged_text_gets_an_answer(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    for (unsigned i = 0; i < 3000; i++) {
        g_autofree char *text = g_strdup(i % 2 ? vmware : virtualbox);
        g_autoptr(GError) error = NULL;
        g_autoptr(Ovf) ovf = NULL;
        size_t len = strlen(text);

        for (unsigned n = 0; n < 1 + i % 5; n++)
            text[g_rand_int_range(rand, 0, (int)len)] = (char)g_rand_int(rand);
        ovf = ovf_parse(text, len, &error);
        g_assert_true(!ovf == !!error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/ovf/" #fn, fn)
    T(vmwares_is_understood);
    T(virtualboxs_is_understood);
    T(units_of_memory_are_understood);
    T(hostile_text_is_refused_with_a_sentence);
    T(damaged_text_gets_an_answer);
    return g_test_run();
}
