/* What a boot loader looks for in the file: with -DMULTIBOOT a multiboot 1 header, otherwise
 * the ELF note that names the PVH entry.  Never both, because QEMU refuses an ELF64 file
 * as soon as it finds a multiboot header in it. */

#ifdef MULTIBOOT
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 3                  /* modules on page boundaries, memory map wanted */

    .section .multiboot, "a"
    .balign 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)
#else
#define XEN_ELFNOTE_PHYS32_ENTRY 18

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32
#endif
