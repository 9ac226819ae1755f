/* Tests of the machine itself: boot information, memory, serial port, and the ways to
 * end. */
#include "payload.h"

#define KEYBOARD_COMMAND 0x64
#define RESET_CONTROL    0xcf9
#define PVPANIC          0x505
#define PM1_STS          0x600
#define PWRBTN_STS_BYTE  1 /* of its second byte */
#define SERIAL_IER       0x3f9
#define IER_TX           2

#define CTRL_D 4

/* Says what the loader handed over. */
static void test_hello(void)
{
    print("hello protocol=%s rsdp=0x%lx\n", boot.protocol, boot.rsdp);
    print("cmdline %s\n", boot.cmdline);
    for (unsigned i = 0; i < boot.n_memory; i++)
        print("memory 0x%lx 0x%lx type=%u\n", boot.memory[i].start, boot.memory[i].size,
              boot.memory[i].type);
    if (boot.n_modules) {
        const char *module = map(boot.module, boot.module_size);
        size_t n = boot.module_size < 32 ? boot.module_size : 32;

        print("modules %u first at 0x%lx size %lu: ", boot.n_modules, boot.module,
              boot.module_size);
        print_bytes(module, n);
        print("\n");
    }
}

/* Ends with the status of `exit=N`, which main() does for every test. */
static void test_exit(void)
{
}

static bool memory_is_ours(uint64_t at)
{
    extern char image_end[];

    return at < 0x100000 || (at >= 0x100000 && at < (uintptr_t)image_end) ||
           (boot.n_modules && at >= boot.module && at < boot.module + boot.module_size);
}

/* Writes every `step`th word of RAM, and the last one of each range, then reads them all.
 */
static void test_mem(void)
{
    uint64_t step = arg_number("step", 2 << 20), total = 0, words = 0;

    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < boot.n_memory; i++) {
            MemoryRange r = boot.memory[i];

            if (r.type != 1 || r.size < 16)
                continue;
            total += pass ? 0 : r.size;
            map(r.start, r.size);
            for (uint64_t off = 0;;
                 off = off + step < r.size - 8 ? off + step : r.size - 8) {
                volatile uint64_t *word = (void *)(uintptr_t)(r.start + off);
                uint64_t want = ~(r.start + off) * 0x9e3779b97f4a7c15;

                if (memory_is_ours(r.start + off) || memory_is_ours(r.start + off + 7))
                    ;
                else if (pass == 0)
                    *word = want;
                else
                    CHECK(*word == want, "0x%lx reads 0x%lx", r.start + off, *word);
                words += pass;
                if (off == r.size - 8)
                    break;
            }
        }
    }
    CHECK(total, "no memory map");
    print("memory bytes=%lu words=%lu end=0x%lx\n", total, words, ram_end());
}

static void test_acpi(void)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "SSDT", "SRAT", "WAET"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        const uint8_t *table = acpi_find(names[i]);
        if (!table)
            continue;

        uint32_t length = *(const uint32_t *)(table + 4);
        uint8_t sum = 0;
        for (uint32_t at = 0; at < length; at++)
            sum = (uint8_t)(sum + table[at]);
        CHECK(sum == 0, "checksum of %s", names[i]);
        print("acpi %s length=%u\n", names[i], length);
    }
    CHECK(acpi_find("FACP"), "no FACP");
}

/* Sends every byte back, names breaks and NMIs, and ends at Ctrl-D. */
static void test_serial_echo(void)
{
    uint32_t breaks = 0, bytes = 0;

    print("serial-echo ready\n");
    for (;;) {
        uint8_t status = inb(COM1 + COM_LSR);

        if (status & LSR_BREAK)
            breaks++;
        if (!(status & LSR_RX)) {
            pause();
            continue;
        }
        char c = (char)inb(COM1);
        if (c == CTRL_D)
            break;
        if (!(status & LSR_BREAK)) {
            bytes++;
            print_bytes(&c, 1);
        }
    }
    print("\nserial-echo bytes=%u breaks=%u nmis=%u\n", bytes, breaks, nmi_count);
}

/* Numbered lines as fast as they go; the reader checks that none is missing. */
static void test_serial_storm(void)
{
    unsigned count = (unsigned)arg_number("count", 1000);

    for (unsigned i = 0; i < count; i++)
        print("storm %06u abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n", i);
}

static uint64_t triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) empty;

    asm volatile("lidt %0; ud2" : : "m"(empty));
    return 0;
}

static void test_crash(void)
{
    print("crash now\n");
    ring0(triple_fault);
    fail("survived a triple fault");
}

static uint64_t compare_exchange_16(void)
{
    static uint64_t value[2] __attribute__((aligned(16)));
    uint64_t low = 0, high = 0;

    asm volatile("lock cmpxchg16b %0"
                 : "+m"(value), "+a"(low), "+d"(high)
                 : "b"(1ull), "c"(2ull));
    return value[0];
}

/* An instruction in ring 0 that KVM's emulator does not know, and every processor does.
 */
static void test_illegal(void)
{
    print("illegal now\n");
    CHECK(ring0(compare_exchange_16) == 1, "cmpxchg16b did not exchange");
    print("illegal executed\n");
}

static void test_panic(void)
{
    print("panic events=0x%02x\n", inb(PVPANIC));
    outb(PVPANIC, 1);
    print("panic reported\n");
    for (;;)
        pause();
}

static uint64_t halt(void)
{
    asm volatile("cli; 1: hlt; jmp 1b");
    return 0;
}

/* Never ends: busy in ring 3, or with `how=hlt` asleep with interrupts off. */
static void test_spin(void)
{
    print("spin ready\n");
    if (text_equal(arg_text("how", "busy"), "hlt"))
        ring0(halt);
    for (;;)
        pause();
}

/* Waits for the power button, then ends as an operating system does.  Before that, with
 * `program=1`, it speaks as a kernel does for a program: with the transmit interrupt on,
 * which nobody serves. */
static void test_button(void)
{
    print("button ready\n");
    if (arg_number("program", 0)) {
        outb(SERIAL_IER, IER_TX);
        print("a program speaks\n");
    }
    while (!(inb(PM1_STS + 1) & PWRBTN_STS_BYTE))
        pause();
    print("button pressed\n");
}

/* how=keyboard (default), how=cf9, or how=insist: again and again, as kernels do. */
static void test_reset(void)
{
    print("reset now\n");
    if (text_equal(arg_text("how", "keyboard"), "cf9")) {
        outb(RESET_CONTROL, 2);
        outb(RESET_CONTROL, 6);
    } else if (text_equal(arg_text("how", ""), "insist")) {
        for (;;)
            outb(KEYBOARD_COMMAND, 0xfe);
    } else {
        outb(KEYBOARD_COMMAND, 0xfe);
    }
    (void)WAIT_UNTIL(false);
    fail("survived a reset");
}

const Test tests_basic[] = {
    {"hello", test_hello},
    {"exit", test_exit},
    {"mem", test_mem},
    {"acpi", test_acpi},
    {"serial-echo", test_serial_echo},
    {"serial-storm", test_serial_storm},
    {"crash", test_crash},
    {"illegal", test_illegal},
    {"panic", test_panic},
    {"spin", test_spin},
    {"reset", test_reset},
    {"button", test_button},
    {NULL, NULL},
};
