/* touch: a guest whose memory is full, and that wants some of it: for what a restore
 * costs afterwards.  Typed at its serial port:
 *
 *     x   reads `pages` of `of` pages, checks them, and writes to every fourth, in an
 *         order in which no page is near the one before, always the same
 *     e   tells a device to look at its ring, behind the pages, ejects the device in
 *         `slot` (devices/pci_hotplug.h), resets the first, and goes on as for x
 *     ?   says that it is here */
#include "verify.h"
#include "virtio.h"

#define PAGE       4096
#define EJECT_PORT 0x648

static volatile uint64_t *at;
static uint64_t pages, of, round;

/* Prime, and not near a power of two: coprime to what `of` may be. */
static uint64_t page_of(uint64_t i)
{
    return i * 1000003 % of;
}

static void touch(void)
{
    for (uint64_t i = 0; i < pages; i++) {
        volatile uint64_t *page = at + page_of(i) * (PAGE / 8);

        CHECK(page[1] == verify_mix(page_of(i)), "page %lu has 0x%lx", page_of(i),
              page[1]);
        if (i % 4 == 0)
            page[0] = round;
    }
}

/* Nothing but registers, and the device's thread finds its ring first. */
static void eject(VirtioDevice *d)
{
    uint32_t slots = 1u << arg_number("slot", 0);

    d->ops->notify(d, 0);
    outl(EJECT_PORT, slots);
    d->ops->set_status(d, 0);
}

static void test_touch(void)
{
    static Virtq ring;
    VirtioDevice *d = arg_number("slot", 0) ? virtio_find(VIRTIO_RNG, 0) : NULL;

    pages = arg_number("pages", 1000);
    of = arg_number("of", 10 * pages);
    at = alloc(of * PAGE, 1 << 21);
    map((uintptr_t)at, of * PAGE);
    for (uint64_t i = 0; i < of; i++) {
        at[i * (PAGE / 8)] = 0;
        at[i * (PAGE / 8) + 1] = verify_mix(i);
    }
    if (d) {
        virtio_start(d, 0);
        virtq_init(&ring, d, 0, 0);
        virtio_driver_ok(d);
    }
    print("touch ready\n");
    for (;;) {
        char letter;

        while (!(inb(COM1 + COM_LSR) & LSR_RX))
            pause();
        letter = (char)inb(COM1);
        if (letter == '?') { /* is it there? */
            print("here\n");
            continue;
        }
        if (letter == 'e' && d)
            eject(d);
        round++;
        touch();
        print("touched %lu\n", round);
    }
}

const Test tests_touch[] = {{"touch", test_touch}, {NULL, NULL}};
