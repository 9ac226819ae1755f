/* Intel 8042 keyboard controller with nothing plugged in (IBM PS/2 Technical Reference,
 * "Keyboard and auxiliary device controller"): what kernels use of it to reset the
 * machine and to open the A20 gate, and answers that let a probe find no keyboard and no
 * mouse without waiting for time-outs.  System control port A at 0x92 does the same two
 * jobs.
 *
 * The gate is only remembered: KVM's guests always see all address lines. */
#include "devices/platform.h"
#include "devices/regs.h"
#include "devices/state_private.h"

enum { DATA_PORT = 0x60, COMMAND_PORT = 0x64, CONTROL_A_PORT = 0x92 };

enum {
    STATUS_OUTPUT_FULL = 1,
    STATUS_SYSTEM = 4,
    STATUS_COMMAND = 8,
    STATUS_UNLOCKED = 16
};
enum { MODE_SYSTEM = 4, MODE_NO_KEYBOARD = 16, MODE_NO_AUX = 32 };
enum { OUT_NOT_RESET = 1, OUT_A20 = 2, OUT_DEFAULT = 0xcf };
enum { CONTROL_A_RESET = 1, CONTROL_A_A20 = 2 };

enum {
    CMD_READ_RAM = 0x20, /* 0x20-0x3f; byte 0 is the mode */
    CMD_WRITE_RAM = 0x60,
    CMD_AUX_OFF = 0xa7,
    CMD_AUX_ON = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KEYBOARD_TEST = 0xab,
    CMD_KEYBOARD_OFF = 0xad,
    CMD_KEYBOARD_ON = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_KEYBOARD_ECHO = 0xd2,
    CMD_AUX_ECHO = 0xd3,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_PULSE = 0xf0, /* 0xf0-0xff: the low bits that are 0 pulse low */
};
enum {
    RAM_SIZE = 32,
    SELF_TEST_PASSED = 0x55,
    AUX_CLOCK_STUCK = 2,
    INPUT_UNLOCKED = 0x80
};

typedef struct I8042State { /* guest-visible */
    uint8_t ram[RAM_SIZE];  /* [0]: the mode */
    uint8_t out_port, output, output_full;
    uint8_t command; /* that waits for its data byte, or 0 */
    uint8_t last_was_command;
} I8042State;

static const StateField i8042_fields[] = {
    STATE_INTS(I8042State, ram, 1, U8, .help = "controller RAM; byte 0 is the mode"),
    STATE_FIELD(I8042State, out_port, 2, U8, .help = "output port: A20 and reset"),
    STATE_FIELD(I8042State, output, 3, U8, .help = "byte last given to the driver"),
    STATE_FIELD(I8042State, output_full, 4, BOOL, .help = "the driver has not read it"),
    STATE_FIELD(I8042State, command, 5, U8, .help = "command that waits for its data"),
    STATE_FIELD(I8042State, last_was_command, 6, BOOL,
                .help = "what was written last was a command"),
    {},
};

const StateTable i8042_state_table = {
    .name = "i8042", .version = 1, .size = sizeof(I8042State), .fields = i8042_fields};

typedef struct I8042 {
    Device dev;
    I8042State s;
    BusRegion data, command, control_a;
    Bus *pio;
    const PlatformEvents *events;
} I8042;

static void pull_reset(I8042 *k)
{
    k->events->reset(k->events->opaque);
}

static void answer(I8042 *k, uint8_t byte)
{
    k->s.output = byte;
    k->s.output_full = true;
}

static void write_out_port(I8042 *k, uint8_t value)
{
    k->s.out_port = value | OUT_NOT_RESET;
    if (!(value & OUT_NOT_RESET))
        pull_reset(k);
}

/* ---- 0x60 ---------------------------------------------------------------------- */

static uint64_t data_read(Device *d, uint64_t offset, unsigned size)
{
    I8042 *k = (I8042 *)d;

    k->s.output_full = false;
    return k->s.output;
}

/* The second byte of a command, or a byte for the keyboard that is not there. */
static void data_write(Device *d, uint64_t offset, unsigned size, uint64_t wide)
{
    I8042 *k = (I8042 *)d;
    uint8_t command = k->s.command, value = wide;

    k->s.command = 0;
    k->s.last_was_command = false;
    if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + RAM_SIZE)
        k->s.ram[command - CMD_WRITE_RAM] = value;
    else if (command == CMD_WRITE_OUTPUT)
        write_out_port(k, value);
    else if (command == CMD_KEYBOARD_ECHO || command == CMD_AUX_ECHO)
        answer(k, value); /* never marked as the mouse's: that port does not exist */
}

static const BusOps data_ops = {data_read, data_write};

/* ---- 0x64 ---------------------------------------------------------------------- */

static uint64_t status_read(Device *d, uint64_t offset, unsigned size)
{
    I8042 *k = (I8042 *)d;
    uint8_t status = STATUS_UNLOCKED;

    if (k->s.output_full)
        status |= STATUS_OUTPUT_FULL;
    if (k->s.ram[0] & MODE_SYSTEM)
        status |= STATUS_SYSTEM;
    if (k->s.last_was_command)
        status |= STATUS_COMMAND;
    return status;
}

static void run_command(I8042 *k, uint8_t command)
{
    I8042State *s = &k->s;

    if (command >= CMD_PULSE) {
        if (!(command & 1))
            pull_reset(k);
        return;
    }
    if (command >= CMD_READ_RAM && command < CMD_READ_RAM + RAM_SIZE) {
        answer(k, s->ram[command - CMD_READ_RAM]);
        return;
    }
    switch (command) {
    case CMD_AUX_OFF:
        s->ram[0] |= MODE_NO_AUX;
        break;
    case CMD_AUX_ON:
        s->ram[0] &= ~MODE_NO_AUX;
        break;
    case CMD_AUX_TEST:
        answer(k, AUX_CLOCK_STUCK);
        break;
    case CMD_SELF_TEST:
        s->ram[0] |= MODE_SYSTEM;
        answer(k, SELF_TEST_PASSED);
        break;
    case CMD_KEYBOARD_TEST:
        answer(k, 0);
        break;
    case CMD_KEYBOARD_OFF:
        s->ram[0] |= MODE_NO_KEYBOARD;
        break;
    case CMD_KEYBOARD_ON:
        s->ram[0] &= ~MODE_NO_KEYBOARD;
        break;
    case CMD_READ_INPUT:
        answer(k, INPUT_UNLOCKED);
        break;
    case CMD_READ_OUTPUT:
        answer(k, s->out_port);
        break;
    case CMD_A20_OFF:
        s->out_port &= ~OUT_A20;
        break;
    case CMD_A20_ON:
        s->out_port |= OUT_A20;
        break;
    default:
        s->command = command; /* takes a data byte, or is unknown and swallows one */
        break;
    }
}

static void command_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    I8042 *k = (I8042 *)d;

    k->s.command = 0;
    k->s.last_was_command = true;
    run_command(k, value);
}

static const BusOps command_ops = {status_read, command_write};

/* ---- 0x92 ---------------------------------------------------------------------- */

static uint64_t control_a_read(Device *d, uint64_t offset, unsigned size)
{
    I8042 *k = (I8042 *)d;

    return k->s.out_port & OUT_A20 ? CONTROL_A_A20 : 0;
}

static void control_a_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    I8042 *k = (I8042 *)d;

    if (value & CONTROL_A_A20)
        k->s.out_port |= OUT_A20;
    else
        k->s.out_port &= ~OUT_A20;
    if (value & CONTROL_A_RESET)
        pull_reset(k);
}

static const BusOps control_a_ops = {control_a_read, control_a_write};

/* ---- life ---------------------------------------------------------------------- */

static void i8042_reset(Device *d)
{
    I8042 *k = (I8042 *)d;

    k->s = (I8042State){.out_port = OUT_DEFAULT};
    k->s.ram[0] = MODE_SYSTEM | MODE_NO_AUX;
}

static void i8042_save(Device *d, StateWriter *w)
{
    state_put(w, d->id, &i8042_state_table, &((I8042 *)d)->s);
}

static bool i8042_load(Device *d, StateReader *r, GError **error)
{
    return state_get(r, d->id, &i8042_state_table, &((I8042 *)d)->s, error);
}

static void i8042_release(Device *d)
{
    I8042 *k = (I8042 *)d;

    bus_unmap(k->pio, &k->data);
    bus_unmap(k->pio, &k->command);
    bus_unmap(k->pio, &k->control_a);
    device_finish(d);
    g_free(k);
}

static const DeviceOps i8042_ops = {
    .name = "i8042",
    .reset = i8042_reset,
    .release = i8042_release,
    .save = i8042_save,
    .load = i8042_load,
};

Device *i8042_new(Bus *pio, const PlatformEvents *events)
{
    I8042 *k = g_new0(I8042, 1);
    Device *d = &k->dev;

    device_init(d, &i8042_ops, "i8042");
    k->pio = pio;
    k->events = events;
    k->data = (BusRegion){.dev = d, .ops = &data_ops, .size = 1};
    k->command = (BusRegion){.dev = d, .ops = &command_ops, .size = 1};
    k->control_a = (BusRegion){.dev = d, .ops = &control_a_ops, .size = 1};
    i8042_reset(d);
    bus_map(pio, &k->data, DATA_PORT);
    bus_map(pio, &k->command, COMMAND_PORT);
    bus_map(pio, &k->control_a, CONTROL_A_PORT);
    return d;
}
