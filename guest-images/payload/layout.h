/* Numbers that start.S and the C code share. */
#ifndef PAYLOAD_LAYOUT_H
#define PAYLOAD_LAYOUT_H

#define SEL_CODE0  0x08
#define SEL_DATA0  0x10
#define SEL_CODE3  0x1b
#define SEL_DATA3  0x23
#define SEL_TSS    0x28
#define SEL_CODE32 0x38
#define SEL_TSS_AP 0x40 /* of CPU n, which may take interrupts: + 16 * (n - 1) */

#define RFLAGS_IOPL3 0x3002
#define RFLAGS_IF    0x0200

#define STUB_SIZE       16
#define VECTOR_IRQ      0x40 /* and the IRQ_VECTORS - 1 after it */
#define IRQ_VECTORS     8
#define VECTOR_SPURIOUS 0xff

#define AP_TRAMPOLINE 0x8000
#define AP_MAX        256
#define AP_INTERRUPTS 3 /* CPUs 1 and on that have a TSS */

#endif
