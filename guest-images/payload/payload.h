/* What every test program may use: printing, the command line, memory, ports, time. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- lib.c: text ---- */

/* %s %c %d %u %x %lu %lx, and a width with zeroes as in %02x; nothing else. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_bytes(const void *bytes, size_t n);

size_t text_length(const char *s);
bool text_equal(const char *a, const char *b);

/* Words of the kernel command line: `name=value`. */
const char *arg_text(const char *name, const char *otherwise);
uint64_t arg_number(const char *name, uint64_t otherwise);
uint64_t parse_number(const char *s, const char **end);

/* Says FAIL with a reason and ends the run. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define CHECK(condition, ...)                                                            \
    do {                                                                                 \
        if (!(condition))                                                                \
            fail(__VA_ARGS__);                                                           \
    } while (0)

void *memset(void *at, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* ---- machine.c: the processor and what the loader told ---- */

typedef struct MemoryRange {
    uint64_t start, size;
    uint32_t type; /* 1 is RAM */
} MemoryRange;

typedef struct BootInfo {
    const char *protocol; /* "pvh" or "multiboot" */
    char cmdline[4096];
    MemoryRange memory[128];
    unsigned n_memory;
    uint64_t module, module_size;
    unsigned n_modules;
    uint64_t rsdp; /* 0: unknown */
} BootInfo;

extern BootInfo boot;

void boot_read(void);
void interrupts_init(void);

/* Zeroed RAM that nobody else uses, never given back. */
void *alloc(size_t size, size_t align);

/* Makes physical memory accessible at its own address. */
void *map(uint64_t address, uint64_t size);

/* One past the last byte of RAM. */
uint64_t ram_end(void);

/* Interrupt counts by index; vector VECTOR_IRQ + index. */
extern volatile uint32_t irq_count[IRQ_VECTORS];
extern volatile uint32_t nmi_count;

/* Until then, interrupts are off. */
void interrupts_enable(void);

#define LAPIC 0xfee00000u /* identity-mapped, like everything */

/* Runs the function with ring 0's privileges. */
uint64_t ring0(uint64_t (*function)(void));

/* Ends the run with this status, 0 being a power off. */
void machine_exit(unsigned status) __attribute__((noreturn));

#define COM1       0x3f8 /* 16550A, the registers that the payload uses */
#define COM_FCR    2
#define COM_LSR    5
#define FCR_ENABLE 0x01
#define LSR_RX     0x01
#define LSR_BREAK  0x10
#define LSR_THRE   0x20

static inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
    asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint64_t ticks(void)
{
    uint32_t low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void pause(void)
{
    asm volatile("pause" : : : "memory");
}

/* Store, then load: what kicking a device needs, and only that. */
static inline void full_barrier(void)
{
    asm volatile("lock; orl $0, (%%rsp)" : : : "memory", "cc");
}

static inline void compiler_barrier(void)
{
    asm volatile("" : : : "memory");
}

/* Some seconds on any machine: 3 to 20. */
#define PATIENCE 20000000000ull

#define WAIT_UNTIL(condition)                                                            \
    ({                                                                                   \
        uint64_t wait_start = ticks();                                                   \
        bool wait_met;                                                                   \
        while (!(wait_met = (condition)) && ticks() - wait_start < PATIENCE)             \
            pause();                                                                     \
        wait_met;                                                                        \
    })

/* ---- acpi.c ---- */

/* The table with this signature, or NULL. */
const void *acpi_find(const char *signature);

/* ---- the tests ---- */

typedef struct Test {
    const char *name;
    void (*run)(void); /* returns: passed */
} Test;

extern const Test tests_basic[], tests_smp[], tests_pci[], tests_blk[], tests_blk_bench[],
    tests_verify[], tests_net[], tests_console[], tests_rng[], tests_hostile[],
    tests_snapshot[], tests_count[], tests_clone[], tests_touch[], tests_station[],
    tests_net_speed[], tests_net_queues[];

#endif
