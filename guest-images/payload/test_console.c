/* virtio-console: virtio 1.2, 5.3.  Hello on one port and one line back, through the
 * control queue when the device has several ports. */
#include "virtio.h"

#define F_MULTIPORT  BIT64(1)
#define CONFIG_PORTS 4

enum {
    DEVICE_READY,
    PORT_ADD,
    PORT_REMOVE,
    PORT_READY,
    CONSOLE_PORT,
    RESIZE,
    PORT_OPEN,
    PORT_NAME
};

typedef struct Control {
    uint32_t port;
    uint16_t event, value;
    char name[64];
} Control;

static Virtq control_in, control_out, in, out;

static void control_send(uint32_t port, uint16_t event, uint16_t value)
{
    static Control message;
    Buffer buffer = {&message, 8, false};

    message = (Control){.port = port, .event = event, .value = value};
    virtq_do(&control_out, &buffer, 1);
}

/* Answers what the device says until it has named every port it has. */
static void control_talk(unsigned wanted)
{
    static Control messages[16];
    bool added = false, opened = false;
    uint32_t size;

    for (unsigned i = 0; i < ARRAY_SIZE(messages); i++) {
        Buffer buffer = {&messages[i], sizeof(Control), true};
        virtq_add(&control_in, &buffer, 1, &messages[i]);
    }
    virtq_kick(&control_in);
    control_send(0, DEVICE_READY, 1);
    while (!added || !opened) {
        Control *m = virtq_wait(&control_in, &size);

        CHECK(m, "port %u: added %d, opened %d", wanted, added, opened);
        print("control port=%u event=%u value=%u %s\n", m->port, m->event, m->value,
              m->event == PORT_NAME ? m->name : "");
        if (m->event == PORT_ADD) {
            control_send(m->port, PORT_READY, 1);
            control_send(m->port, PORT_OPEN, 1);
            added |= m->port == wanted;
        } else if (m->event == PORT_OPEN || m->event == CONSOLE_PORT) {
            opened |= m->port == wanted;
        }
        memset(m, 0, sizeof(*m));
        Buffer again = {m, sizeof(*m), true};
        virtq_add(&control_in, &again, 1, m);
        virtq_kick(&control_in);
    }
}

static void port_write(const char *s, size_t n)
{
    Buffer buffer = {(void *)(uintptr_t)s, (uint32_t)n, false};

    virtq_do(&out, &buffer, 1);
}

/* 5.3.2: port 0 owns queues 0 and 1, 2 and 3 are for control, port n owns 2n + 2. */
static void exercise(VirtioDevice *d, uint64_t mode)
{
    static char line[256], part[64];
    unsigned port = (unsigned)arg_number("port", 0);
    uint16_t first = (uint16_t)(port ? 2 * port + 2 : 0);
    size_t n = 0;

    virtio_start(d, mode | F_MULTIPORT);
    bool multiport = d->features & F_MULTIPORT;
    unsigned ports = multiport ? config_read32(d, CONFIG_PORTS) : 1;
    CHECK(port < ports, "port %u of %u", port, ports);
    virtq_init(&in, d, first, 0);
    virtq_init(&out, d, (uint16_t)(first + 1), 0);
    if (multiport) {
        virtq_init(&control_in, d, 2, 0);
        virtq_init(&control_out, d, 3, 0);
    }
    virtio_driver_ok(d);
    if (multiport)
        control_talk(port);

    static const char hello[] = "hello from the guest\n";
    port_write(hello, sizeof(hello) - 1);
    print("console %s ports=%u port=%u said hello\n", ring_mode_name(mode), ports, port);
    while (arg_number("answer", 1) && (n == 0 || line[n - 1] != '\n') &&
           n < sizeof(line)) {
        Buffer buffer = {part, sizeof(part), true};
        uint32_t got = virtq_do(&in, &buffer, 1);

        for (uint32_t i = 0; i < got && n < sizeof(line); i++)
            line[n++] = part[i];
    }
    if (n) {
        port_write(line, n);
        print("console got %u bytes: ", (unsigned)n);
        print_bytes(line, n);
    }
}

/* In one ring layout only, the richest allowed: a host that types an answer types it
 * once. */
static void test_console(void)
{
    VirtioDevice *d = virtio_find(VIRTIO_CONSOLE, (unsigned)arg_number("dev", 0));

    exercise(d, best_ring_mode(d));
}

const Test tests_console[] = {
    {"console", test_console},
    {NULL, NULL},
};
