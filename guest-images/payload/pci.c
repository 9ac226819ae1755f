/* PCI configuration by ports CF8/CFC, and what a driver needs of it. */
#include "pci.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc

#define BAR_IO    0x1
#define BAR_64BIT 0x4

#define LAPIC_ID 0x20

static void select_register(PciFunction f, unsigned offset)
{
    outl(CONFIG_ADDRESS, 0x80000000u | f << 8 | (offset & 0xfc));
}

static uint32_t read_by_port(PciFunction f, unsigned offset)
{
    select_register(f, offset);
    return inl(CONFIG_DATA);
}

static void write_by_port(PciFunction f, unsigned offset, unsigned size, uint32_t value)
{
    uint16_t port = (uint16_t)(CONFIG_DATA + (offset & 3));

    select_register(f, offset);
    if (size == 1)
        outb(port, (uint8_t)value);
    else if (size == 2)
        outw(port, (uint16_t)value);
    else
        outl(port, value);
}

static void write_by_ecam(PciFunction f, unsigned offset, unsigned size, uint32_t value)
{
    volatile uint8_t *at = (volatile uint8_t *)pci_ecam(f) + offset;

    if (size == 1)
        *at = (uint8_t)value;
    else if (size == 2)
        *(volatile uint16_t *)at = (uint16_t)value;
    else
        *(volatile uint32_t *)at = value;
}

/* Some machines have the ECAM alone. */
static bool ports_absent(void)
{
    static bool known, absent;

    if (!known)
        absent = read_by_port(0, PCI_VENDOR) == 0xffffffff && pci_ecam(0);
    known = true;
    return absent;
}

uint32_t pci_read(PciFunction f, unsigned offset, unsigned size)
{
    uint32_t value = ports_absent() ? pci_ecam(f)[offset / 4] : read_by_port(f, offset);

    value >>= (offset & 3) * 8;
    return size == 4 ? value : value & ((1u << size * 8) - 1);
}

void pci_write(PciFunction f, unsigned offset, unsigned size, uint32_t value)
{
    if (ports_absent())
        write_by_ecam(f, offset, size, value);
    else
        write_by_port(f, offset, size, value);
}

bool pci_exists(PciFunction f)
{
    return pci_read(f, PCI_VENDOR, 2) != 0xffff;
}

PciFunction pci_next(PciFunction f)
{
    if (f & 7 || (pci_exists(f) && pci_read(f, PCI_HEADER_TYPE, 1) & 0x80))
        return f + 1;
    return f + 8;
}

volatile uint32_t *pci_ecam(PciFunction f)
{
    static uint64_t base;
    static bool searched;

    if (!searched) {
        const uint8_t *mcfg = acpi_find("MCFG");
        base = mcfg ? *(const uint64_t *)(mcfg + 44) : arg_number("ecam", 0);
        searched = true;
    }
    return base ? map(base + f * 4096ull, 4096) : NULL;
}

static bool bar_is_64bit(PciFunction f, unsigned bar)
{
    return pci_read(f, PCI_BAR0 + 4 * bar, 4) & BAR_64BIT;
}

uint64_t pci_bar(PciFunction f, unsigned bar)
{
    uint64_t low = pci_read(f, PCI_BAR0 + 4 * bar, 4), high = 0;

    if (low & BAR_IO)
        return 0;
    if (low & BAR_64BIT)
        high = pci_read(f, PCI_BAR0 + 4 * bar + 4, 4);
    uint64_t base = high << 32 | (low & ~15u);
    if (base)
        map(base, 1 << 20);
    return base;
}

void pci_set_bar(PciFunction f, unsigned bar, uint64_t address)
{
    pci_write(f, PCI_BAR0 + 4 * bar, 4, (uint32_t)address);
    if (bar_is_64bit(f, bar))
        pci_write(f, PCI_BAR0 + 4 * bar + 4, 4, (uint32_t)(address >> 32));
}

uint64_t pci_bar_size(PciFunction f, unsigned bar)
{
    uint64_t base = pci_bar(f, bar);

    if (pci_read(f, PCI_BAR0 + 4 * bar, 4) & BAR_IO)
        return 0;
    pci_write(f, PCI_BAR0 + 4 * bar, 4, 0xffffffff);
    uint32_t mask = pci_read(f, PCI_BAR0 + 4 * bar, 4) & ~15u;
    pci_write(f, PCI_BAR0 + 4 * bar, 4, (uint32_t)base);
    return mask ? -mask & 0xffffffff : 0;
}

void pci_enable(PciFunction f)
{
    static uint64_t next_base;
    uint32_t command = pci_read(f, PCI_COMMAND, 2);

    if (!next_base)
        next_base = arg_number("bars", 0xc8000000);
    for (unsigned bar = 0; bar < 6; bar++) {
        uint64_t size = pci_bar(f, bar) ? 0 : pci_bar_size(f, bar);
        if (size) {
            next_base = (next_base + size - 1) & ~(size - 1);
            pci_set_bar(f, bar, next_base);
            next_base += size;
        }
        if (bar_is_64bit(f, bar) && !(pci_read(f, PCI_BAR0 + 4 * bar, 4) & BAR_IO))
            bar++;
    }
    pci_write(f, PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

unsigned pci_capability(PciFunction f, uint8_t id, unsigned after)
{
    unsigned at = pci_read(f, after ? after + 1 : PCI_CAPABILITIES, 1) & 0xfc;

    for (unsigned n = 0; at && n < 48; n++) {
        if (pci_read(f, at, 1) == id)
            return at;
        at = pci_read(f, at + 1, 1) & 0xfc;
    }
    return 0;
}

unsigned pci_msix_size(PciFunction f)
{
    unsigned cap = pci_capability(f, PCI_CAP_MSIX, 0);

    return cap ? (pci_read(f, cap + 2, 2) & 0x7ff) + 1 : 0;
}

volatile uint32_t *pci_msix_table(PciFunction f)
{
    unsigned cap = pci_capability(f, PCI_CAP_MSIX, 0);
    uint32_t where = pci_read(f, cap + 4, 4);

    return (void *)(uintptr_t)(pci_bar(f, where & 7) + (where & ~7u));
}

void pci_msix_route(PciFunction f, unsigned entry, unsigned index)
{
    volatile uint32_t *line = pci_msix_table(f) + 4 * entry;
    unsigned cap = pci_capability(f, PCI_CAP_MSIX, 0);
    volatile uint32_t *lapic = (void *)(uintptr_t)LAPIC;

    interrupts_enable();
    pci_write(f, cap + 2, 2, 0x8000);
    line[0] = LAPIC | (lapic[LAPIC_ID / 4] >> 24) << 12;
    line[1] = 0;
    line[2] = VECTOR_IRQ + index;
    line[3] = 0;
}

/* ---- The test: both ways of access must show the same devices ---- */

static void show(PciFunction f)
{
    print("pci %02x.%u %04x:%04x class %06x", f >> 3, f & 7, pci_read(f, PCI_VENDOR, 2),
          pci_read(f, PCI_DEVICE, 2), pci_read(f, PCI_CLASS, 4) >> 8);
    for (unsigned bar = 0; bar < 6; bar++) {
        uint32_t value = pci_read(f, PCI_BAR0 + 4 * bar, 4);
        if (value)
            print(" bar%u=0x%x", bar, value);
    }
    if (pci_msix_size(f))
        print(" msix=%u", pci_msix_size(f));
    print("\n");
}

/* Any register of 32 bits may be compared: none here changes by itself. */
static void compare_with_ecam(PciFunction f)
{
    volatile uint32_t *ecam = pci_ecam(f);

    for (unsigned at = 0; at < 256; at += 4) {
        uint32_t by_port = pci_read(f, at, 4);
        CHECK(ecam[at / 4] == by_port, "%02x.%u+0x%x: 0x%x by ECAM, 0x%x by port", f >> 3,
              f & 7, at, ecam[at / 4], by_port);
    }
}

static void test_pci(void)
{
    unsigned found = 0;

    for (PciFunction f = 0; f < PCI_FUNCTIONS; f = pci_next(f)) {
        bool by_port = pci_exists(f);

        if (pci_ecam(0))
            CHECK(by_port == ((*pci_ecam(f) & 0xffff) != 0xffff),
                  "%02x.%u exists by one access only", f >> 3, f & 7);
        if (!by_port)
            continue;
        show(f);
        if (pci_ecam(0))
            compare_with_ecam(f);
        found++;
    }
    print("pci found=%u ecam=0x%lx\n", found, (uint64_t)(uintptr_t)pci_ecam(0));
    CHECK(found, "no PCI device");
}

const Test tests_pci[] = {
    {"pci", test_pci},
    {NULL, NULL},
};
