/* Boot loaders: what they put where, and how they refuse what is damaged. */
#include "machine/boot.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <glib/gstdio.h>
#include <string.h>

#include "machine/layout.h"

typedef struct Fixture {
    char *folder, *kernel, *initrd;
    GuestMem gm;
    BootSource source;
    BootContext ctx;
    BootEntry entry;
    GError *error;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    GuestMemOptions o = {.size = 64 * MIB};

    f->folder = g_dir_make_tmp("boot-XXXXXX", NULL);
    f->kernel = g_build_filename(f->folder, "kernel", NULL);
    f->initrd = g_build_filename(f->folder, "initrd", NULL);
    g_assert_true(gm_init(&f->gm, &o, NULL));
    g_assert_true(gm_add(&f->gm, 0, o.size, NULL));
    f->ctx = (BootContext){
        .gm = &f->gm,
        .source = &f->source,
        .map = {{0, LAYOUT_EBDA, MEMMAP_RAM}, {1 * MIB, 63 * MIB, MEMMAP_RAM}},
        .n_map = 2,
        .low_ram_end = o.size,
        .rsdp = LAYOUT_RSDP,
    };
}

static void tear_down(Fixture *f, gconstpointer data)
{
    boot_close(&f->source);
    gm_finish(&f->gm);
    g_unlink(f->kernel);
    g_unlink(f->initrd);
    g_rmdir(f->folder);
    g_free(f->folder);
    g_free(f->kernel);
    g_free(f->initrd);
    g_clear_error(&f->error);
}

static void put(const char *path, const void *data, size_t size)
{
    g_assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
}

/* True: opened and loaded. */
static bool boot(Fixture *f, bool with_initrd)
{
    return boot_open(&f->source, f->kernel, with_initrd ? f->initrd : NULL, "one two",
                     &f->error) &&
           boot_load(&f->ctx, &f->entry, &f->error);
}

static void assert_refused(Fixture *f, const char *with)
{
    g_assert_nonnull(f->error);
    if (!strstr(f->error->message, with))
        g_error("'%s' does not say '%s'", f->error->message, with);
}

/* ---- kernels made by hand
 * --------------------------------------------------------------- */

enum { SETUP = 1024, CODE = 4096 };

static GByteArray *bzimage(void)
{
    GByteArray *image = g_byte_array_new();
    struct setup_header h = {
        .setup_sects = SETUP / 512 - 1,
        .syssize = CODE / 16,
        .boot_flag = 0xaa55,
        .jump = 0x6aeb, /* the header reaches up to 0x202 + 0x6a */
        .header = 0x53726448,
        .version = 0x020f,
        .loadflags = LOADED_HIGH,
        .initrd_addr_max = 0x7fffffff,
        .relocatable_kernel = 1,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 255,
        .pref_address = 16 * MIB,
        .init_size = 8 * MIB,
    };

    g_byte_array_set_size(image, SETUP + CODE);
    memset(image->data, 0, image->len);
    memcpy(image->data + 0x1f1, &h, sizeof(h));
    memset(image->data + SETUP, 0x90, CODE);
    return image;
}

typedef struct SmallElf {
    Elf64_Ehdr eh;
    Elf64_Phdr ph[2];
    struct {
        Elf64_Nhdr head;
        char owner[4];
        uint32_t entry;
    } note;
    uint32_t multiboot[3];
    uint8_t code[64];
} SmallElf;

static SmallElf elf(bool pvh, bool multiboot)
{
    SmallElf e = {
        .eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
               .e_type = ET_EXEC,
               .e_machine = EM_X86_64,
               .e_entry = 0x200000,
               .e_phoff = offsetof(SmallElf, ph),
               .e_phentsize = sizeof(Elf64_Phdr),
               .e_phnum = 2},
        .ph = {{.p_type = PT_LOAD,
                .p_offset = offsetof(SmallElf, code),
                .p_paddr = 0x200000,
                .p_filesz = 64,
                .p_memsz = 8192},
               {.p_type = PT_NOTE,
                .p_offset = offsetof(SmallElf, note),
                .p_filesz = sizeof(((SmallElf *)0)->note),
                .p_align = 4}},
        .note = {{4, 4, pvh ? 18 : 17}, "Xen", 0x200010},
        .multiboot = {multiboot ? 0x1badb002 : 0, 3, -(0x1badb002u + 3)},
    };

    memset(e.code, 0xcc, sizeof(e.code));
    return e;
}

/* ---- tests
 * --------------------------------------------------------------------------------- */

static void a_bzimage_is_entered_in_long_mode_with_its_parameters(Fixture *f,
                                                                  gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();
    struct boot_params bp;
    char cmdline[8], initrd[6];

    put(f->kernel, image->data, image->len);
    put(f->initrd, "initrd", 6);
    g_assert_true(boot(f, true));
    g_assert_cmpint(f->entry.mode, ==, BOOT_LONG_MODE);
    g_assert_cmphex(f->entry.ip, ==, LAYOUT_HIGH_RAM + 0x200);
    g_assert_true(gm_read(&f->gm, f->entry.si, &bp, sizeof(bp)));
    g_assert_cmphex(bp.hdr.header, ==, 0x53726448);
    g_assert_cmpuint(bp.e820_entries, ==, 2);
    g_assert_cmphex(bp.acpi_rsdp_addr, ==, LAYOUT_RSDP);
    g_assert_true(gm_read(&f->gm, bp.hdr.cmd_line_ptr, cmdline, 8));
    g_assert_cmpstr(cmdline, ==, "one two");
    g_assert_cmpuint(bp.hdr.ramdisk_size, ==, 6);
    g_assert_true(gm_read(&f->gm, bp.hdr.ramdisk_image, initrd, 6));
    g_assert_cmpmem(initrd, 6, "initrd", 6);
    g_assert_cmphex(*(uint8_t *)gm_at(&f->gm, LAYOUT_HIGH_RAM, 1), ==, 0x90);
}

static void a_bzimage_without_a_64_bit_entry_is_entered_at_its_32_bit_one(Fixture *f,
                                                                          gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();

    store_le16(image->data + 0x236, 0);
    put(f->kernel, image->data, image->len);
    g_assert_true(boot(f, false));
    g_assert_cmpint(f->entry.mode, ==, BOOT_PROTECTED);
    g_assert_cmphex(f->entry.ip, ==, LAYOUT_HIGH_RAM);
}

static void a_truncated_bzimage_is_refused(Fixture *f, gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();

    for (unsigned len = SETUP - 300; len < image->len; len += 100) {
        put(f->kernel, image->data, len);
        g_assert_false(boot(f, false));
        assert_refused(f, "cut short");
        boot_close(&f->source);
        g_clear_error(&f->error);
    }
}

static void an_initrd_that_does_not_fit_is_refused(Fixture *f, gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();
    g_autofree char *large = g_malloc0(60 * MIB);

    put(f->kernel, image->data, image->len);
    put(f->initrd, large, 60 * MIB);
    g_assert_false(boot(f, true));
    assert_refused(f, "--memory");
}

static void a_kernel_that_needs_more_memory_than_there_is_is_refused(Fixture *f,
                                                                     gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();

    store_le32(image->data + 0x260, 64 * MIB);
    put(f->kernel, image->data, image->len);
    g_assert_false(boot(f, false));
    assert_refused(f, "--memory");
}

static void a_command_line_longer_than_the_kernel_takes_is_refused(Fixture *f,
                                                                   gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();

    store_le32(image->data + 0x238, 6);
    put(f->kernel, image->data, image->len);
    g_assert_false(boot(f, false));
    assert_refused(f, "takes 6");
}

static void an_elf_with_a_pvh_note_is_entered_with_start_info(Fixture *f, gconstpointer d)
{
    SmallElf e = elf(true, true);
    uint32_t info[10];

    memset(gm_at(&f->gm, 0x200000, 8192), 0xff, 8192);
    put(f->kernel, &e, sizeof(e));
    put(f->initrd, "initrd", 6);
    g_assert_true(boot(f, true));
    g_assert_cmpint(f->entry.mode, ==, BOOT_PROTECTED);
    g_assert_cmphex(f->entry.ip, ==, 0x200010);
    g_assert_true(gm_read(&f->gm, f->entry.bx, info, sizeof(info)));
    g_assert_cmphex(info[0], ==, 0x336ec578);
    g_assert_cmpuint(info[3], ==, 1); /* module */
    g_assert_cmphex(*(uint8_t *)gm_at(&f->gm, 0x20003f, 1), ==, 0xcc);
    g_assert_cmphex(*(uint8_t *)gm_at(&f->gm, 0x200040, 1), ==, 0); /* bss is cleared */
    g_assert_cmphex(*(uint8_t *)gm_at(&f->gm, 0x201fff, 1), ==, 0);
}

/* In turn they would, for hours. */
static void segments_that_together_are_larger_than_ram_are_refused(Fixture *f,
                                                                   gconstpointer d)
{
    SmallElf e = elf(true, false);
    struct {
        SmallElf elf;
        Elf64_Phdr ph[3];
    } file = {e, {e.ph[1], e.ph[0], e.ph[0]}};

    file.elf.eh.e_phoff = offsetof(__typeof__(file), ph);
    file.elf.eh.e_phnum = 3;
    file.ph[1].p_memsz = file.ph[2].p_memsz = 40 * MIB;
    put(f->kernel, &file, sizeof(file));
    g_assert_false(boot(f, false));
    assert_refused(f, "together do not fit");
}

static void a_multiboot_elf_is_entered_with_magic_and_information(Fixture *f,
                                                                  gconstpointer d)
{
    SmallElf e = elf(false, true);
    uint32_t info[22];

    put(f->kernel, &e, sizeof(e));
    put(f->initrd, "module", 6);
    g_assert_true(boot(f, true));
    g_assert_cmphex(f->entry.ax, ==, 0x2badb002);
    g_assert_cmphex(f->entry.ip, ==, 0x200000);
    g_assert_true(gm_read(&f->gm, f->entry.bx, info, sizeof(info)));
    g_assert_cmpuint(info[2], ==, 63 * 1024); /* mem_upper in KiB */
    g_assert_cmpuint(info[5], ==, 1);         /* mods_count */
    g_assert_cmpuint(info[11], ==, 2 * 24);   /* mmap_length */
}

static void files_that_are_no_kernel_are_refused(Fixture *f, gconstpointer d)
{
    g_autofree char *text = g_strnfill(100000, 'x');
    SmallElf e = elf(false, false);

    put(f->kernel, text, 100000);
    g_assert_false(boot(f, false));
    assert_refused(f, "no kernel");
    g_clear_error(&f->error);
    boot_close(&f->source);
    put(f->kernel, &e, sizeof(e));
    g_assert_false(boot(f, false));
    assert_refused(f, "no kernel");
    g_clear_error(&f->error);
    boot_close(&f->source);
    put(f->kernel, "", 0);
    g_assert_false(boot(f, false));
    assert_refused(f, "empty");
    g_clear_error(&f->error);
    boot_close(&f->source);
    g_unlink(f->kernel);
    g_assert_false(boot(f, false));
    assert_refused(f, "No such file");
    g_clear_error(&f->error);
    boot_close(&f->source);
    g_assert_false(boot_open(&f->source, f->folder, NULL, "", &f->error));
    assert_refused(f, "not a file");
}

/* Every byte of the headers is flipped in turn; what matters is that nothing is read or
 * written outside (ASan watches) and that a failure has a sentence. */
static void damaged_headers_never_reach_outside_the_file_or_ram(Fixture *f,
                                                                gconstpointer d)
{
    g_autoptr(GByteArray) image = bzimage();
    static const uint8_t flips[] = {0xff, 0x80, 0x01};

    for (int kind = 0; kind < 3; kind++) {
        SmallElf e = elf(kind == 1, kind == 2);
        uint8_t *bytes = kind ? (uint8_t *)&e : image->data;
        size_t size = kind ? sizeof(e) : image->len, end = kind ? size - 64 : 0x270;

        for (size_t at = kind ? 0 : 0x1f1; at < end; at++) {
            for (size_t i = 0; i < sizeof(flips); i++) {
                bytes[at] ^= flips[i];
                put(f->kernel, bytes, size);
                if (!boot(f, false))
                    g_assert_nonnull(f->error);
                bytes[at] ^= flips[i];
                boot_close(&f->source);
                g_clear_error(&f->error);
            }
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add("/boot/" #name, Fixture, NULL, set_up, name, tear_down)
    TEST(a_bzimage_is_entered_in_long_mode_with_its_parameters);
    TEST(a_bzimage_without_a_64_bit_entry_is_entered_at_its_32_bit_one);
    TEST(a_truncated_bzimage_is_refused);
    TEST(an_initrd_that_does_not_fit_is_refused);
    TEST(a_kernel_that_needs_more_memory_than_there_is_is_refused);
    TEST(a_command_line_longer_than_the_kernel_takes_is_refused);
    TEST(an_elf_with_a_pvh_note_is_entered_with_start_info);
    TEST(segments_that_together_are_larger_than_ram_are_refused);
    TEST(a_multiboot_elf_is_entered_with_magic_and_information);
    TEST(files_that_are_no_kernel_are_refused);
    TEST(damaged_headers_never_reach_outside_the_file_or_ram);
    return g_test_run();
}
