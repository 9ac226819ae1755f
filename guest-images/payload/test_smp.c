/* Secondary CPUs: started by INIT-SIPI-SIPI over the xAPIC, counted as they reach ring 3.
 */
#include "smp.h"

#define LAPIC_ID            (LAPIC + 0x20)
#define LAPIC_ICR_LOW       (LAPIC + 0x300)
#define LAPIC_ICR_HIGH      (LAPIC + 0x310)
#define ICR_INIT_ALL_OTHERS 0xc4500
#define ICR_SIPI_ALL_OTHERS 0xc4600

#define TSS_PRESENT 0x0000890000000000ull

extern char ap_trampoline[], ap_trampoline_end[];
extern uint64_t gdt_ap_tss[][2];

static volatile uint32_t cpus_up = 1;
static volatile uint64_t work_done[AP_MAX];
static void (*ap_work)(uint32_t cpu);

uint32_t smp_cpu(void)
{
    return *(volatile uint32_t *)(uintptr_t)LAPIC_ID >> 24;
}

void smp_interrupt(uint32_t cpu, unsigned index)
{
    *(volatile uint32_t *)(uintptr_t)LAPIC_ICR_HIGH = cpu << 24;
    *(volatile uint32_t *)(uintptr_t)LAPIC_ICR_LOW = VECTOR_IRQ + index;
}

/* What an interrupt needs, a stack for ring 0, and every port, as in start.S. */
static void make_tss(unsigned i)
{
    static struct __attribute__((packed)) {
        uint32_t reserved;
        uint64_t rsp0, rest[11];
        uint16_t unused, bitmap;
        uint8_t ports[65536 / 8 + 1];
    } tss[AP_INTERRUPTS] __attribute__((aligned(128)));
    static uint8_t stacks[AP_INTERRUPTS][8192] __attribute__((aligned(16)));
    uint64_t at = (uintptr_t)&tss[i];

    tss[i].rsp0 = (uintptr_t)stacks[i] + sizeof(stacks[i]);
    tss[i].bitmap = 104;
    tss[i].ports[65536 / 8] = 0xff;
    gdt_ap_tss[i][0] = (sizeof(tss[i]) - 1) | (at & 0xffffff) << 16 | TSS_PRESENT |
                       (at >> 24 & 0xff) << 56;
    gdt_ap_tss[i][1] = at >> 32;
}

/* Entered from start.S on each secondary CPU. */
void ap_main(void)
{
    uint32_t place = 1;

    asm volatile("lock; xaddl %0, %1" : "+r"(place), "+m"(cpus_up));
    if (ap_work)
        ap_work(smp_cpu());
    for (;;) {
        work_done[place % AP_MAX]++;
        pause();
    }
}

static void send_ipi(uint32_t command)
{
    *(volatile uint32_t *)(uintptr_t)LAPIC_ICR_LOW = command;
    for (unsigned i = 0; i < 10; i++)
        inb(0x80);
}

uint32_t smp_start(uint32_t expected, void (*work)(uint32_t cpu))
{
    ap_work = work;
    for (unsigned i = 0; i < AP_INTERRUPTS; i++)
        make_tss(i);
    memcpy((void *)AP_TRAMPOLINE, ap_trampoline,
           (size_t)(ap_trampoline_end - ap_trampoline));
    send_ipi(ICR_INIT_ALL_OTHERS);
    send_ipi(ICR_SIPI_ALL_OTHERS | AP_TRAMPOLINE >> 12);
    send_ipi(ICR_SIPI_ALL_OTHERS | AP_TRAMPOLINE >> 12);
    (void)WAIT_UNTIL(cpus_up >= expected);
    return cpus_up;
}

/* cpus=N: that many must come up; each must go on working. */
static void test_smp(void)
{
    uint32_t expected = (uint32_t)arg_number("cpus", 1);

    smp_start(expected, NULL);
    print("cpus=%u\n", cpus_up);
    CHECK(cpus_up == expected, "%u CPUs came up, not %u", cpus_up, expected);
    for (uint32_t i = 1; i < cpus_up; i++) {
        uint64_t before = work_done[i];
        CHECK(WAIT_UNTIL(work_done[i] != before), "CPU %u stopped", i);
    }
}

const Test tests_smp[] = {
    {"smp", test_smp},
    {NULL, NULL},
};
