/* The processor below the tests: boot information, memory, interrupts, the end of the
 * run.
 *
 * All of this runs in ring 3.  The page tables, IDT and GDT are ordinary memory there, so
 * only what the instruction set reserves for ring 0 goes through ring0(). */
#include "payload.h"

#define PTE_PWU 0x07ull
#define PTE_2M  0x80ull
#define GIB     (1ull << 30)

#define PVH_MAGIC       0x336ec578
#define MULTIBOOT_MAGIC 0x2badb002

#define DEBUG_EXIT_BYTE 0x501 /* hutch: the byte is the exit status          */
#define DEBUG_EXIT_QEMU 0xf4  /* QEMU's isa-debug-exit: status 2 * value + 1 */
#define PIC1_MASK       0x21
#define PIC2_MASK       0xa1
#define LAPIC_SPURIOUS  0xf0
#define LAPIC_ENABLE    0x100
#define PM1A_CNT        0x604
#define SLP_S5          0x3400 /* SLP_EN, SLP_TYP 5 */

BootInfo boot;
volatile uint32_t irq_count[IRQ_VECTORS];
volatile uint32_t nmi_count;
uint64_t (*volatile ring0_function)(void);
volatile uint64_t interrupt_flag;
volatile uint64_t fault_vector, fault_error, fault_rip, fault_cs, fault_address;

extern uint32_t boot_magic, boot_info;
extern char image_end[];
extern char exception_stubs[], nmi_stub[], irq_stubs[], ring0_stub[], spurious_stub[];
extern uint64_t pml4[], idt[][2];

/* ---- Boot information ---- */

typedef struct PvhInfo {
    uint32_t magic, version, flags, n_modules;
    uint64_t modules, cmdline, rsdp, memory;
    uint32_t n_memory, reserved;
} PvhInfo;

typedef struct PvhModule {
    uint64_t start, size, cmdline, reserved;
} PvhModule;

typedef struct PvhMemory {
    uint64_t start, size;
    uint32_t type, reserved;
} PvhMemory;

typedef struct MultibootInfo {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
    uint32_t n_modules, modules, syms[4], memory_length, memory;
} MultibootInfo;

typedef struct MultibootMemory {
    uint32_t entry_size;
    uint64_t start, size;
    uint32_t type;
} __attribute__((packed)) MultibootMemory;

static void boot_set_cmdline(uint64_t address)
{
    const char *s = map(address, sizeof(boot.cmdline));

    for (size_t i = 0; address && s[i] && i < sizeof(boot.cmdline) - 1; i++)
        boot.cmdline[i] = s[i];
}

static void boot_add_memory(uint64_t start, uint64_t size, uint32_t type)
{
    if (boot.n_memory < ARRAY_SIZE(boot.memory))
        boot.memory[boot.n_memory++] = (MemoryRange){start, size, type};
}

static void boot_read_pvh(const PvhInfo *info)
{
    boot.protocol = "pvh";
    boot.rsdp = info->rsdp;
    boot_set_cmdline(info->cmdline);
    boot.n_modules = info->n_modules;
    if (info->n_modules) {
        const PvhModule *module = map(info->modules, sizeof(*module));
        boot.module = module->start;
        boot.module_size = module->size;
    }
    const PvhMemory *memory = map(info->memory, info->n_memory * sizeof(*memory));
    for (unsigned i = 0; info->version >= 1 && i < info->n_memory; i++)
        boot_add_memory(memory[i].start, memory[i].size, memory[i].type);
}

static void boot_read_multiboot(const MultibootInfo *info)
{
    boot.protocol = "multiboot";
    if (info->flags & 1 << 2)
        boot_set_cmdline(info->cmdline);
    if (info->flags & 1 << 3 && info->n_modules) {
        const uint32_t *module = map(info->modules, 16);
        boot.n_modules = info->n_modules;
        boot.module = module[0];
        boot.module_size = module[1] - module[0];
    }
    if (info->flags & 1 << 6) {
        const char *at = map(info->memory, info->memory_length);
        const char *end = at + info->memory_length;

        while (at < end) {
            const MultibootMemory *entry = (const void *)at;
            boot_add_memory(entry->start, entry->size, entry->type);
            at += entry->entry_size + 4;
        }
    }
}

void boot_read(void)
{
    void *info = (void *)(uintptr_t)boot_info;

    boot.protocol = "unknown";
    if (*(uint32_t *)info == PVH_MAGIC)
        boot_read_pvh(info);
    else if (boot_magic == MULTIBOOT_MAGIC)
        boot_read_multiboot(info);
}

uint64_t ram_end(void)
{
    uint64_t end = 0;

    for (unsigned i = 0; i < boot.n_memory; i++) {
        MemoryRange *r = &boot.memory[i];
        if (r->type == 1 && r->start + r->size > end)
            end = r->start + r->size;
    }
    return end;
}

/* ---- Memory ---- */

/* From the end of the image, or of a module that the loader put right behind it. */
void *alloc(size_t size, size_t align)
{
    static uintptr_t next;

    if (!next) {
        next = (uintptr_t)image_end;
        if (boot.module >= next && boot.module < next + (16 << 20))
            next = boot.module + boot.module_size;
    }
    next = (next + align - 1) & ~(uintptr_t)(align - 1);
    void *at = (void *)next;
    next += size;
    return memset(at, 0, size);
}

static uint64_t *table_below(uint64_t *entry)
{
    static uint64_t pool[80][512] __attribute__((aligned(4096)));
    static unsigned used;

    if (!*entry) {
        if (used == ARRAY_SIZE(pool))
            fail("out of page tables");
        *entry = (uintptr_t)pool[used++] | PTE_PWU;
    }
    return (uint64_t *)(uintptr_t)(*entry & ~0xfffull);
}

/* The first 4 GiB are mapped from the start; above, whole GiBs are added as needed. */
void *map(uint64_t address, uint64_t size)
{
    for (uint64_t at = address & ~(GIB - 1); at < address + size; at += GIB) {
        if (at < 4 * GIB)
            continue;
        uint64_t *level3 = table_below(&pml4[at >> 39 & 511]);
        uint64_t *level2 = table_below(&level3[at >> 30 & 511]);
        for (unsigned i = 0; i < 512 && !level2[511]; i++)
            level2[i] = (at + ((uint64_t)i << 21)) | PTE_PWU | PTE_2M;
    }
    return (void *)(uintptr_t)address;
}

/* ---- Interrupts and ring 0 ---- */

static void set_gate(unsigned vector, const char *stub)
{
    uint64_t at = (uintptr_t)stub;

    idt[vector][0] = (at & 0xffff) | SEL_CODE0 << 16 | 0x8eull << 40 |
                     (at >> 16 & 0xffff) << 48;
    idt[vector][1] = at >> 32;
}

void interrupts_init(void)
{
    for (unsigned i = 0; i < 22; i++)
        set_gate(i, exception_stubs + i * STUB_SIZE);
    set_gate(2, nmi_stub);
    for (unsigned i = 0; i < IRQ_VECTORS; i++)
        set_gate(VECTOR_IRQ + i, irq_stubs + i * STUB_SIZE);
    set_gate(6, ring0_stub);
    set_gate(VECTOR_SPURIOUS, spurious_stub);
}

uint64_t ring0(uint64_t (*function)(void))
{
    uint64_t result;

    ring0_function = function;
    asm volatile("ud2"
                 : "=a"(result)
                 :
                 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    return result;
}

static uint64_t nothing(void)
{
    return 0;
}

/* "sti" in ring 3 would do, were it not for a KVM that interprets what touches RFLAGS.IF.
 */
void interrupts_enable(void)
{
    volatile uint32_t *lapic = (void *)(uintptr_t)LAPIC;

    outb(PIC1_MASK, 0xff);
    outb(PIC2_MASK, 0xff);
    lapic[LAPIC_SPURIOUS / 4] = LAPIC_ENABLE | VECTOR_SPURIOUS;
    interrupt_flag = RFLAGS_IF;
    ring0(nothing);
}

/* Entered from start.S after an exception, in ring 3 on a stack of its own. */
void fault_report(void)
{
    fail("exception %lu, error 0x%lx, at 0x%lx in ring %lu, cr2 0x%lx", fault_vector,
         fault_error, fault_rip, fault_cs & 3, fault_address);
}

/* ---- The end ---- */

static void triple_fault(void)
{
    memset(idt, 0, 4096);
    asm volatile("int $3");
}

void machine_exit(unsigned status)
{
    if (status == 0)
        outw(PM1A_CNT, SLP_S5);
    outb(DEBUG_EXIT_BYTE, (uint8_t)status);
    outb(DEBUG_EXIT_QEMU, (uint8_t)status);
    triple_fault();
    for (;;)
        pause();
}
