/* A guest that says which life of its machine it is in: for clones.  Typed at its serial
 * port:
 *
 *     i   says the VM generation ID, and whether the event that it changed has come since
 *         it was asked last
 *     w   writes to as many pages of its own as `pages` says, and says their sum before
 *     q   ends */
#include "payload.h"

#define VMGENID     0xfe028 /* where the board puts it: layout.h, and 40 bytes */
#define VMGENID_GPE 5
#define GPE0_STATUS 0x620

static uint64_t *data;
static unsigned n_pages;

static void say_life(void)
{
    const uint8_t *guid = map(VMGENID, 16);
    uint8_t events = inb(GPE0_STATUS);

    print("life ");
    for (unsigned i = 0; i < 16; i++)
        print("%02x", guid[i]);
    print(" event=%u\n", events >> VMGENID_GPE & 1);
    outb(GPE0_STATUS, (uint8_t)(1 << VMGENID_GPE));
}

static void write_pages(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n_pages; i++) {
        sum += data[i * 512];
        data[i * 512] = i + 1;
    }
    print("written %u, were %lu\n", n_pages, sum);
}

static void test_clone(void)
{
    char letter = 0;

    n_pages = (unsigned)arg_number("pages", 1024);
    data = alloc((size_t)n_pages * 4096, 4096);
    for (unsigned i = 0; i < n_pages; i++)
        data[i * 512] = 1;
    print("clone ready\n");
    while (letter != 'q') {
        letter = inb(COM1 + COM_LSR) & LSR_RX ? (char)inb(COM1) : 0;
        if (letter == 'i')
            say_life();
        else if (letter == 'w')
            write_pages();
        else
            pause();
    }
}

const Test tests_clone[] = {{"clone", test_clone}, {NULL, NULL}};
