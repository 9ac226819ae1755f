/* See aml.h. */
#include "aml.h"

#include <string.h>

#include "util/bits.h"

/* ACPI 6.4, table 20.2 */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5b,
    OP_EXT_REGION = 0x80,
    OP_EXT_FIELD = 0x81,
    OP_EXT_DEVICE = 0x82,
    OP_LOCAL0 = 0x60,
    OP_ARG0 = 0x68,
    OP_STORE = 0x70,
    OP_AND = 0x7b,
    OP_NOTIFY = 0x86,
    OP_IF = 0xa0,
    PREFIX_DUAL = 0x2e,
    PREFIX_MULTI = 0x2f,
};

static void put(GByteArray *b, uint64_t value, unsigned size)
{
    uint8_t bytes[8];

    store_le(bytes, value, size);
    g_byte_array_append(b, bytes, size);
}

static void op(Aml *a, uint8_t code)
{
    put(a->bytes, code, 1);
}

void aml_init(Aml *a)
{
    *a = (Aml){.bytes = g_byte_array_new()};
}

GByteArray *aml_finish(Aml *a)
{
    g_warn_if_fail(a->depth == 0);
    return g_steal_pointer(&a->bytes);
}

/* ---- package lengths (20.2.4) and names (20.2.2) ------------------------------- */

/* Counts itself: one byte up to 63, else the low four bits and one to three more bytes.
 */
static unsigned encode_length(uint8_t out[4], unsigned length)
{
    unsigned n = length + 1 < 64        ? 1
                 : length + 2 < 1 << 12 ? 2
                 : length + 3 < 1 << 20 ? 3
                                        : 4;
    unsigned total = length + n;

    if (n == 1) {
        out[0] = total;
        return n;
    }
    out[0] = (n - 1) << 6 | (total & 15);
    for (unsigned i = 1; i < n; i++)
        out[i] = total >> (4 + 8 * (i - 1));
    return n;
}

static void open_block(Aml *a)
{
    g_return_if_fail(a->depth < AML_MAX_DEPTH);
    a->open[a->depth++] = a->bytes->len;
}

/* The length goes in front of what was written since the block was opened. */
void aml_end(Aml *a)
{
    uint8_t length[4];
    unsigned at, body, n;

    g_return_if_fail(a->depth > 0);
    at = a->open[--a->depth];
    body = a->bytes->len - at;
    n = encode_length(length, body);
    g_byte_array_append(a->bytes, length, n); /* room */
    memmove(a->bytes->data + at + n, a->bytes->data + at, body);
    memcpy(a->bytes->data + at, length, n);
}

static void name_segment(Aml *a, const char *name, size_t length)
{
    char padded[4] = {'_', '_', '_', '_'};

    g_return_if_fail(length >= 1 && length <= 4);
    memcpy(padded, name, length);
    g_byte_array_append(a->bytes, (const uint8_t *)padded, 4);
}

static void name_path(Aml *a, const char *path)
{
    unsigned n = 1;

    if (*path == '\\')
        op(a, *path++);
    for (const char *at = path; *at; at++)
        n += *at == '.';
    if (n == 2)
        op(a, PREFIX_DUAL);
    if (n > 2) {
        op(a, PREFIX_MULTI);
        op(a, n);
    }
    while (n--) {
        size_t length = strcspn(path, ".");

        name_segment(a, path, length);
        path += length + 1;
    }
}

/* ---- objects ------------------------------------------------------------------- */

void aml_int(Aml *a, uint64_t value)
{
    unsigned size = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;

    if (value <= 1) {
        op(a, value ? OP_ONE : OP_ZERO);
        return;
    }
    op(a, size == 1 ? OP_BYTE : size == 2 ? OP_WORD : size == 4 ? OP_DWORD : OP_QWORD);
    put(a->bytes, value, size);
}

void aml_string(Aml *a, const char *text)
{
    op(a, OP_STRING);
    g_byte_array_append(a->bytes, (const uint8_t *)text, strlen(text) + 1);
}

static void name(Aml *a, const char *text)
{
    op(a, OP_NAME);
    name_path(a, text);
}

void aml_name_int(Aml *a, const char *text, uint64_t value)
{
    name(a, text);
    aml_int(a, value);
}

void aml_name_string(Aml *a, const char *text, const char *value)
{
    name(a, text);
    aml_string(a, value);
}

/* Three letters of five bits and four hex digits, in big-endian order (19.3.4, "EISAID").
 */
void aml_name_eisaid(Aml *a, const char *text, const char *id)
{
    uint32_t letters = (id[0] & 31) << 10 | (id[1] & 31) << 5 | (id[2] & 31);
    uint32_t value = letters << 16 | g_ascii_strtoull(id + 3, NULL, 16);

    name(a, text);
    op(a, OP_DWORD);
    put(a->bytes, GUINT32_SWAP_LE_BE(value), 4);
}

void aml_scope(Aml *a, const char *path)
{
    op(a, OP_SCOPE);
    open_block(a);
    name_path(a, path);
}

void aml_device(Aml *a, const char *text)
{
    op(a, OP_EXT);
    op(a, OP_EXT_DEVICE);
    open_block(a);
    name_path(a, text);
}

void aml_method(Aml *a, const char *text, unsigned n_args)
{
    op(a, OP_METHOD);
    open_block(a);
    name_path(a, text);
    op(a, n_args);
}

/* And() leaves its result nowhere: a null target. */
void aml_if_bits(Aml *a, unsigned arg, uint64_t bits)
{
    op(a, OP_IF);
    open_block(a);
    op(a, OP_AND);
    op(a, OP_ARG0 + arg);
    aml_int(a, bits);
    op(a, OP_ZERO);
}

void aml_package(Aml *a, unsigned n)
{
    op(a, OP_PACKAGE);
    open_block(a);
    op(a, n);
}

void aml_named_package(Aml *a, const char *text, unsigned n)
{
    name(a, text);
    aml_package(a, n);
}

void aml_notify(Aml *a, const char *path, unsigned value)
{
    op(a, OP_NOTIFY);
    name_path(a, path);
    aml_int(a, value);
}

void aml_notify_arg(Aml *a, const char *path, unsigned arg)
{
    op(a, OP_NOTIFY);
    name_path(a, path);
    op(a, OP_ARG0 + arg);
}

void aml_store_int(Aml *a, uint64_t value, const char *path)
{
    op(a, OP_STORE);
    aml_int(a, value);
    name_path(a, path);
}

void aml_call_with_field(Aml *a, const char *method, const char *path, uint64_t value)
{
    op(a, OP_STORE);
    name_path(a, path);
    op(a, OP_LOCAL0);
    name_path(a, method);
    op(a, OP_LOCAL0);
    aml_int(a, value);
}

/* ---- registers (20.2.5.2) ------------------------------------------------------ */

enum { REGION_SYSTEM_IO = 1, FIELD_DWORD_ZEROS = 3 | 2 << 5 };

void aml_io_region(Aml *a, const char *text, uint16_t port, unsigned length)
{
    op(a, OP_EXT);
    op(a, OP_EXT_REGION);
    name_path(a, text);
    op(a, REGION_SYSTEM_IO);
    aml_int(a, port);
    aml_int(a, length);
}

void aml_dword_fields(Aml *a, const char *region, const char *const *names, unsigned n)
{
    op(a, OP_EXT);
    op(a, OP_EXT_FIELD);
    open_block(a);
    name_path(a, region);
    op(a, FIELD_DWORD_ZEROS);
    for (unsigned i = 0; i < n; i++) {
        name_segment(a, names[i], strlen(names[i]));
        op(a, 32); /* bits: a package length that does not count itself */
    }
    aml_end(a);
}

/* ---- resource descriptors (6.4) ------------------------------------------------ */

enum { /* tags, with the length where it is part of the tag */
       RES_IRQ = 0x22,
       RES_IO = 0x47,
       RES_END = 0x79,
       RES_MEMORY32_FIXED = 0x86,
       RES_DWORD = 0x87,
       RES_WORD = 0x88,
       RES_INTERRUPT = 0x89,
       RES_QWORD = 0x8a,
};
enum { SPACE_MEMORY, SPACE_IO, SPACE_BUS };
enum { MIN_FIXED = 4, MAX_FIXED = 8, CONSUMER = 1 }; /* general flags of windows */
enum { MEMORY_WRITABLE = 1, IO_ENTIRE = 3 };         /* type-specific flags */

void aml_crs_begin(AmlResources *r)
{
    r->bytes = g_byte_array_new();
}

/* A buffer: its own package length, the size as an integer, the bytes. */
void aml_crs_end(Aml *a, AmlResources *r)
{
    put(r->bytes, RES_END, 2); /* checksum 0: not used */
    name(a, "_CRS");
    op(a, OP_BUFFER);
    open_block(a);
    aml_int(a, r->bytes->len);
    g_byte_array_append(a->bytes, r->bytes->data, r->bytes->len);
    aml_end(a);
    g_byte_array_unref(g_steal_pointer(&r->bytes));
}

void aml_io(AmlResources *r, uint16_t base, uint8_t length)
{
    put(r->bytes, RES_IO, 1);
    put(r->bytes, 1, 1); /* decodes 16 bits */
    put(r->bytes, base, 2);
    put(r->bytes, base, 2);
    put(r->bytes, 1, 1); /* alignment */
    put(r->bytes, length, 1);
}

void aml_irq(AmlResources *r, unsigned irq)
{
    put(r->bytes, RES_IRQ, 1);
    put(r->bytes, 1u << irq, 2);
}

void aml_interrupt(AmlResources *r, uint32_t gsi)
{
    put(r->bytes, RES_INTERRUPT, 1);
    put(r->bytes, 6, 2);
    put(r->bytes, CONSUMER, 1); /* level, active high, exclusive: bits that are 0 */
    put(r->bytes, 1, 1);
    put(r->bytes, gsi, 4);
}

void aml_memory32_fixed(AmlResources *r, uint32_t base, uint32_t length)
{
    put(r->bytes, RES_MEMORY32_FIXED, 1);
    put(r->bytes, 9, 2);
    put(r->bytes, MEMORY_WRITABLE, 1);
    put(r->bytes, base, 4);
    put(r->bytes, length, 4);
}

typedef struct Range {
    uint8_t tag, space, general, specific;
    uint64_t first, last;
} Range;

/* Word, dword and qword address space descriptors differ in the width of five numbers. */
static void address_space(AmlResources *r, Range d)
{
    unsigned width = d.tag == RES_WORD ? 2 : d.tag == RES_DWORD ? 4 : 8;

    put(r->bytes, d.tag, 1);
    put(r->bytes, 3 + 5 * width, 2);
    put(r->bytes, d.space, 1);
    put(r->bytes, d.general | MIN_FIXED | MAX_FIXED, 1);
    put(r->bytes, d.specific, 1);
    put(r->bytes, 0, width); /* granularity */
    put(r->bytes, d.first, width);
    put(r->bytes, d.last, width);
    put(r->bytes, 0, width); /* translation */
    put(r->bytes, d.last - d.first + 1, width);
}

void aml_window_bus(AmlResources *r, uint16_t first, uint16_t last)
{
    address_space(r, (Range){RES_WORD, SPACE_BUS, 0, 0, first, last});
}

void aml_window_io(AmlResources *r, uint16_t first, uint16_t last)
{
    address_space(r, (Range){RES_WORD, SPACE_IO, 0, IO_ENTIRE, first, last});
}

void aml_window_memory32(AmlResources *r, uint32_t first, uint32_t last)
{
    address_space(r, (Range){RES_DWORD, SPACE_MEMORY, 0, MEMORY_WRITABLE, first, last});
}

void aml_window_memory64(AmlResources *r, uint64_t first, uint64_t last)
{
    address_space(r, (Range){RES_QWORD, SPACE_MEMORY, 0, MEMORY_WRITABLE, first, last});
}

void aml_memory64_fixed(AmlResources *r, uint64_t base, uint64_t length)
{
    address_space(r, (Range){RES_QWORD, SPACE_MEMORY, CONSUMER, MEMORY_WRITABLE, base,
                             base + length - 1});
}
