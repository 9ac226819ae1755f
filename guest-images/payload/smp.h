/* Secondary CPUs, for tests that want work from them. */
#ifndef PAYLOAD_SMP_H
#define PAYLOAD_SMP_H

#include "payload.h"

/* Starts all of them, and waits until `expected`, this one included, are up; how many
 * are.  Each runs `work` with its number, 1 and on (NULL: it counts), with interrupts
 * off.  Those up to AP_INTERRUPTS may take interrupts. */
uint32_t smp_start(uint32_t expected, void (*work)(uint32_t cpu));

uint32_t smp_cpu(void); /* which this is: its local APIC id */

/* Interrupts a CPU: vector VECTOR_IRQ + index. */
void smp_interrupt(uint32_t cpu, unsigned index);

#endif
