/* From the loader's 32-bit protected mode to C code in ring 3 of long mode.
 *
 * A KVM without hardware virtualisation interprets ring 0 at a few million instructions a
 * second, and only the plain ones: so everything that can be is prepared at link time, and
 * what remains here is as short as it gets.  Ring 3 has IOPL 3 and every page is its own. */

#include "layout.h"

#define CR0_PE_PG   0x80000001
#define CR4_PAE     0x20
#define MSR_EFER    0xc0000080
#define EFER_LME    0x100
#define PTE_PWU     0x07            /* present, writable, user */
#define PTE_2M      0x80
#define LAPIC_EOI   0xfee000b0

    .code32
    .text
    .globl start32
start32:
    cld
    movl    %eax, boot_magic
    movl    %ebx, boot_info
    lgdt    gdt_pointer
    movl    $boot_stack_top, %esp
    call    enable_long_mode
    ljmp    $SEL_CODE0, $start64

/* Leaves the CPU in compatibility mode: the caller's next jump selects 64-bit code. */
enable_long_mode:
    movl    $pml4, %eax
    movl    %eax, %cr3
    movl    %cr4, %eax
    orl     $CR4_PAE, %eax
    movl    %eax, %cr4
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LME, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $CR0_PE_PG, %eax
    movl    %eax, %cr0
    ret

    .code64
start64:
    lidt    idt_pointer
    movl    $SEL_TSS, %eax
    ltr     %ax
    movl    $boot_stack_top, %esi
    movl    $payload_main, %edi

/* Enters ring 3 with interrupts off, at %rdi, on the stack %rsi, never to return. */
enter_ring3:
    movl    $SEL_DATA3, %eax
    movl    %eax, %ds
    movl    %eax, %es
    subq    $8, %rsi                /* the ABI's alignment at a function's entry */
    pushq   $SEL_DATA3
    pushq   %rsi
    pushq   $RFLAGS_IOPL3
    pushq   $SEL_CODE3
    pushq   %rdi
    iretq

/* ---- Secondary CPUs: copied to AP_TRAMPOLINE, entered in real mode by a SIPI ---- */

    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   AP_TRAMPOLINE + (ap_gdt_pointer - ap_trampoline)
    movl    %cr0, %eax
    orb     $1, %al
    movl    %eax, %cr0
    ljmpl   $SEL_CODE32, $ap_start32
ap_gdt_pointer:
    .word   gdt_end - gdt - 1
    .long   gdt
ap_trampoline_end:

    .code32
ap_start32:
    movl    $SEL_DATA0, %eax
    movl    %eax, %ds
    movl    %eax, %ss
    movl    0xfee00020, %edi        /* local APIC id, in bits 24-31 */
    shrl    $24, %edi
    movl    %edi, %esp
    shll    $12, %esp
    addl    $ap_stacks + 4096, %esp
    call    enable_long_mode
    ljmp    $SEL_CODE0, $ap_start64

    .code64
ap_start64:
    movl    %esp, %esi
    lidt    idt_pointer
    cmpl    $AP_INTERRUPTS, %edi    /* the local APIC id, from 1 */
    ja      1f
    decl    %edi
    shll    $4, %edi
    addl    $SEL_TSS_AP, %edi
    ltr     %di
1:  movl    $ap_main, %edi
    jmp     enter_ring3

/* ---- Interrupts and exceptions ---- */

/* An exception ends the test: remember it, then report it from ring 3. */
    .macro exception_stub vector, has_error
    .balign STUB_SIZE
    .if !\has_error
    pushq   $0
    .endif
    pushq   $\vector
    jmp     exception
    .endm

    .globl exception_stubs
    .balign STUB_SIZE
exception_stubs:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21
    .if \vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21
    exception_stub \vector, 1
    .else
    exception_stub \vector, 0
    .endif
    .endr

exception:
    popq    fault_vector
    popq    fault_error
    movq    (%rsp), %rax
    movq    %rax, fault_rip
    movq    8(%rsp), %rax
    movq    %rax, fault_cs
    movq    %cr2, %rax
    movq    %rax, fault_address
    movl    $fault_stack_top, %esi
    movl    $fault_report, %edi
    jmp     enter_ring3

    .globl nmi_stub
nmi_stub:
    incl    nmi_count
    iretq

/* Device interrupts: count, acknowledge, go on. */
    .globl irq_stubs
    .balign STUB_SIZE
irq_stubs:
    .irp index, 0, 1, 2, 3, 4, 5, 6, 7
    .balign STUB_SIZE
    incl    irq_count + 4 * \index
    jmp     irq_done
    .endr

irq_done:
    pushq   %rax
    movl    $LAPIC_EOI, %eax
    movl    $0, (%rax)
    popq    %rax
spurious:
    iretq

    .globl spurious_stub
    .set spurious_stub, spurious

/* An undefined instruction while ring0_function is set asks for that function to be called
 * with ring 0's privileges.  (Not "int": a KVM that interprets it knows it in real mode
 * only.  Exceptions reach ring 0 everywhere.) */
    .globl ring0_stub
ring0_stub:
    cmpq    $0, ring0_function
    je      exception_stubs + 6 * STUB_SIZE
    addq    $2, (%rsp)              /* step over the ud2 */
    call    *ring0_function
    movq    $0, ring0_function
    movq    interrupt_flag, %rcx
    orq     %rcx, 16(%rsp)          /* the caller's RFLAGS */
    iretq

/* ---- Tables ---- */

    .section .pages, "aw"
    .balign 4096
    .globl pml4, pdpt
pml4:
    .quad   pdpt + PTE_PWU
    .fill   511, 8, 0
pdpt:
    .quad   page_directories + PTE_PWU, page_directories + 0x1000 + PTE_PWU
    .quad   page_directories + 0x2000 + PTE_PWU, page_directories + 0x3000 + PTE_PWU
    .fill   508, 8, 0
page_directories:
    .set    address, 0
    .rept   2048
    .quad   address + PTE_PWU + PTE_2M
    .set    address, address + 0x200000
    .endr

    .data
    .balign 8
gdt:
    .quad   0
    .quad   0x00af9b000000ffff      /* SEL_CODE0 */
    .quad   0x00cf93000000ffff      /* SEL_DATA0 */
    .quad   0x00affb000000ffff      /* SEL_CODE3 */
    .quad   0x00cff3000000ffff      /* SEL_DATA3 */
    .short  TSS_SIZE - 1, tss_0_15  /* SEL_TSS */
    .byte   tss_16_23, 0x89, 0, tss_24_31
    .quad   0
    .quad   0x00cf9b000000ffff      /* SEL_CODE32 */
gdt_ap_tss:                         /* SEL_TSS_AP, filled in by smp_start() */
    .rept   AP_INTERRUPTS
    .quad   0, 0
    .endr
gdt_end:

gdt_pointer:
    .word   gdt_end - gdt - 1
    .long   gdt
    .balign 8
idt_pointer:
    .word   256 * 16 - 1
    .quad   idt

/* IOPL 3 allows every port; so does the bitmap, for a KVM that interprets port accesses
 * and knows the bitmap only. */
    .balign 16
    .globl tss, gdt_ap_tss
tss:
    .long   0
    .quad   interrupt_stack_top     /* RSP0 */
    .fill   90, 1, 0
    .short  104
    .fill   65536 / 8, 1, 0
    .byte   0xff
    .set    TSS_SIZE, . - tss

    .globl boot_magic, boot_info
boot_magic:
    .long   0
boot_info:
    .long   0

    .bss
    .balign 4096
    .globl idt, ap_stacks
idt:
    .skip   4096
boot_stack:
    .skip   32768
boot_stack_top:
interrupt_stack:
    .skip   8192
interrupt_stack_top:
fault_stack:
    .skip   8192
fault_stack_top:
ap_stacks:
    .skip   AP_MAX * 4096
