/* Secondary CPUs: started by INIT-SIPI-SIPI over the xAPIC, counted as they reach ring 3.
 */
#include "payload.h"

#define LAPIC_ICR_LOW       (LAPIC + 0x300)
#define ICR_INIT_ALL_OTHERS 0xc4500
#define ICR_SIPI_ALL_OTHERS 0xc4600

extern char ap_trampoline[], ap_trampoline_end[];

static volatile uint32_t cpus_up = 1;
static volatile uint64_t work_done[AP_MAX];

/* Entered from start.S on each secondary CPU. */
void ap_main(void)
{
    uint32_t place = 1;

    asm volatile("lock; xaddl %0, %1" : "+r"(place), "+m"(cpus_up));
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

/* cpus=N: that many must come up; each must go on working. */
static void test_smp(void)
{
    uint32_t expected = (uint32_t)arg_number("cpus", 1);

    memcpy((void *)AP_TRAMPOLINE, ap_trampoline,
           (size_t)(ap_trampoline_end - ap_trampoline));
    send_ipi(ICR_INIT_ALL_OTHERS);
    send_ipi(ICR_SIPI_ALL_OTHERS | AP_TRAMPOLINE >> 12);
    send_ipi(ICR_SIPI_ALL_OTHERS | AP_TRAMPOLINE >> 12);
    (void)WAIT_UNTIL(cpus_up >= expected);
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
