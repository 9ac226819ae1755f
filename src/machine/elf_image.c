/* See elf_image.h. */
#include "elf_image.h"

#include <elf.h>
#include <string.h>

#include "util/bits.h"

/* A program header in the wider of the two layouts. */
static bool program_header(const ElfImage *elf, unsigned i, Elf64_Phdr *ret)
{
    uint64_t at = elf->phoff + (uint64_t)i * elf->phentsize;
    Elf32_Phdr narrow;

    if (!range_within(at, elf->phentsize, elf->file->size))
        return false;
    if (elf->is64) {
        memcpy(ret, elf->file->data + at, sizeof(*ret));
        return true;
    }
    memcpy(&narrow, elf->file->data + at, sizeof(narrow));
    *ret = (Elf64_Phdr){
        .p_type = narrow.p_type,
        .p_offset = narrow.p_offset,
        .p_paddr = narrow.p_paddr,
        .p_filesz = narrow.p_filesz,
        .p_memsz = narrow.p_memsz,
        .p_align = narrow.p_align,
    };
    return true;
}

bool elf_parse(const BootFile *file, ElfImage *ret)
{
    ElfImage elf = {.file = file};
    Elf64_Ehdr e64;
    Elf32_Ehdr e32;

    if (file->size < sizeof(e64) || memcmp(file->data, ELFMAG, SELFMAG) ||
        file->data[EI_DATA] != ELFDATA2LSB)
        return false;
    memcpy(&e64, file->data, sizeof(e64));
    memcpy(&e32, file->data, sizeof(e32));
    if (file->data[EI_CLASS] == ELFCLASS64 && e64.e_machine == EM_X86_64)
        elf = (ElfImage){file,       true, e64.e_entry, e64.e_phoff, e64.e_phentsize,
                         e64.e_phnum};
    else if (file->data[EI_CLASS] == ELFCLASS32 &&
             (e32.e_machine == EM_386 || e32.e_machine == EM_X86_64))
        elf = (ElfImage){file,        false,           e32.e_entry,
                         e32.e_phoff, e32.e_phentsize, e32.e_phnum};
    else
        return false;
    if (elf.phentsize < (elf.is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) ||
        !range_within(elf.phoff, (uint64_t)elf.phentsize * elf.phnum, file->size))
        return false;
    *ret = elf;
    return true;
}

bool elf_load(const BootContext *ctx, const ElfImage *elf, uint64_t *ret_end,
              GError **error)
{
    uint64_t end = 0, room = ctx->gm->size;
    Elf64_Phdr ph;

    for (unsigned i = 0; i < elf->phnum && program_header(elf, i, &ph); i++) {
        if (ph.p_type != PT_LOAD || !ph.p_memsz)
            continue;
        /* Thousands that lie on top of each other would take hours to load. */
        if (ph.p_memsz > room)
            return fail(error, VM_ERROR_INVALID,
                        "kernel: '%s' has segments that together do not fit into the "
                        "guest's memory; give it more with --memory",
                        elf->file->path);
        room -= ph.p_memsz;
        if (ph.p_filesz > ph.p_memsz ||
            !range_within(ph.p_offset, ph.p_filesz, elf->file->size))
            return fail(error, VM_ERROR_CORRUPT,
                        "kernel: '%s' is cut short or damaged (segment %u)",
                        elf->file->path, i);
        if (!boot_copy(ctx, ph.p_paddr, elf->file->data + ph.p_offset, ph.p_filesz,
                       "kernel", error) ||
            !boot_clear(ctx, ph.p_paddr + ph.p_filesz, ph.p_memsz - ph.p_filesz, "kernel",
                        error))
            return false;
        end = MAX(end, ph.p_paddr + ph.p_memsz);
    }
    if (!end)
        return fail(error, VM_ERROR_CORRUPT, "kernel: '%s' has nothing to load",
                    elf->file->path);
    *ret_end = end;
    return true;
}

static const uint8_t *find_note(const uint8_t *p, uint64_t left, uint64_t align,
                                const char *owner, uint32_t type, uint32_t size)
{
    while (left >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr n;
        uint64_t name_len, desc_len;

        memcpy(&n, p, sizeof(n));
        name_len = align_up(n.n_namesz, align);
        desc_len = align_up(n.n_descsz, align);
        if (sizeof(n) + name_len + desc_len > left)
            return NULL;
        if (n.n_type == type && n.n_namesz == strlen(owner) + 1 && n.n_descsz >= size &&
            !memcmp(p + sizeof(n), owner, n.n_namesz))
            return p + sizeof(n) + name_len;
        p += sizeof(n) + name_len + desc_len;
        left -= sizeof(n) + name_len + desc_len;
    }
    return NULL;
}

const uint8_t *elf_note(const ElfImage *elf, const char *owner, uint32_t type,
                        uint32_t size)
{
    const uint8_t *note = NULL;
    uint64_t left = elf->file->size; /* what notes take, if they do not overlap */
    Elf64_Phdr ph;

    for (unsigned i = 0; i < elf->phnum && !note && program_header(elf, i, &ph); i++) {
        if (ph.p_type != PT_NOTE || ph.p_filesz > left ||
            !range_within(ph.p_offset, ph.p_filesz, elf->file->size))
            continue;
        left -= ph.p_filesz;
        note = find_note(elf->file->data + ph.p_offset, ph.p_filesz,
                         ph.p_align == 8 ? 8 : 4, owner, type, size);
    }
    return note;
}
