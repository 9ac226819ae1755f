/* The smallest guest there is: its first instruction is a port write that ends the run, so
 * that the host can time everything that comes before a guest's first instruction. */

    .code32
    .text
    .globl start32
start32:
    out     %al, $0xf4
    hlt
    jmp     start32

    .globl tss
    .set tss, 0
