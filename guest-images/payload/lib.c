/* Text in and out: polled COM1, a small print(), and the words of the command line. */
#include <stdarg.h>

#include "payload.h"

#define FIFO_SIZE 16

void *memset(void *at, int byte, size_t n)
{
    void *p = at;
    asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(byte) : "memory");
    return at;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *p = to;
    asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;

    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return x[i] - y[i];
    return 0;
}

size_t text_length(const char *s)
{
    size_t n = 0;

    while (s[n])
        n++;
    return n;
}

bool text_equal(const char *a, const char *b)
{
    size_t n = text_length(a);

    return n == text_length(b) && !memcmp(a, b, n);
}

/* A FIFO at a time: each port access may cost the host a good deal of time. */
static void serial_write(const char *s, size_t n)
{
    static bool fifo_on;

    if (!fifo_on)
        outb(COM1 + COM_FCR, FCR_ENABLE);
    fifo_on = true;
    while (n) {
        size_t chunk = n < FIFO_SIZE ? n : FIFO_SIZE;

        n -= chunk;
        while (!(inb(COM1 + COM_LSR) & LSR_THRE))
            pause();
        asm volatile("rep outsb" : "+S"(s), "+c"(chunk) : "d"(COM1) : "memory");
    }
}

typedef struct Line {
    char text[512];
    size_t n;
} Line;

static void line_add(Line *l, char c)
{
    if (l->n < sizeof(l->text))
        l->text[l->n++] = c;
}

static void line_add_number(Line *l, uint64_t value, unsigned base, unsigned width,
                            bool negative, char pad)
{
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative)
        digits[n++] = '-';
    for (unsigned i = n; i < width; i++)
        line_add(l, pad);
    while (n)
        line_add(l, digits[--n]);
}

static void line_format(Line *l, const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            line_add(l, *f);
            continue;
        }
        f++;
        char pad = *f == '0' ? '0' : ' ';
        unsigned width = 0;
        bool wide = false;

        while (*f >= '0' && *f <= '9')
            width = width * 10 + (unsigned)(*f++ - '0');
        for (; *f == 'l' || *f == 'z'; f++)
            wide = true;
        if (*f == 's') {
            for (const char *s = va_arg(args, const char *); *s; s++)
                line_add(l, *s);
        } else if (*f == 'c') {
            line_add(l, (char)va_arg(args, int));
        } else if (*f == 'd') {
            int v = va_arg(args, int);
            line_add_number(l, v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width, v < 0, pad);
        } else if (*f == 'u' || *f == 'x') {
            uint64_t v = wide ? va_arg(args, uint64_t) : va_arg(args, unsigned);
            line_add_number(l, v, *f == 'x' ? 16 : 10, width, false, pad);
        } else {
            line_add(l, *f);
        }
    }
}

void print(const char *format, ...)
{
    Line line = {.n = 0};
    va_list args;

    va_start(args, format);
    line_format(&line, format, args);
    va_end(args);
    serial_write(line.text, line.n);
}

void print_bytes(const void *bytes, size_t n)
{
    serial_write(bytes, n);
}

void fail(const char *format, ...)
{
    Line line = {.n = 0};
    va_list args;

    va_start(args, format);
    line_format(&line, format, args);
    va_end(args);
    print("FAIL %s: ", arg_text("test", "hello"));
    serial_write(line.text, line.n);
    print("\n");
    machine_exit(1);
}

uint64_t parse_number(const char *s, const char **end)
{
    unsigned base = 10;
    uint64_t value = 0;

    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        char lower = (char)(*s | 0x20);
        unsigned digit = *s >= '0' && *s <= '9'         ? (unsigned)(*s - '0')
                         : lower >= 'a' && lower <= 'f' ? (unsigned)(lower - 'a' + 10)
                                                        : 16;
        if (digit >= base)
            break;
        value = value * base + digit;
    }
    static const char suffixes[] = "kKmMgG";
    for (unsigned i = 0; suffixes[i]; i++) {
        if (*s == suffixes[i]) {
            value <<= 10 * (i / 2 + 1);
            s++;
            break;
        }
    }
    if (end)
        *end = s;
    return value;
}

/* Values are copied out so that they end where the word does; 64 of them are plenty. */
const char *arg_text(const char *name, const char *otherwise)
{
    static char values[64][64];
    static unsigned n_values;
    size_t n = text_length(name);

    for (const char *word = boot.cmdline; *word;) {
        if (!memcmp(word, name, n) && word[n] == '=') {
            char *value = values[n_values++ % ARRAY_SIZE(values)];
            size_t length = 0;

            for (word += n + 1; *word && *word != ' ' && length < 63; word++)
                value[length++] = *word;
            value[length] = 0;
            return value;
        }
        while (*word && *word != ' ')
            word++;
        while (*word == ' ')
            word++;
    }
    return otherwise;
}

uint64_t arg_number(const char *name, uint64_t otherwise)
{
    const char *text = arg_text(name, NULL);

    return text ? parse_number(text, NULL) : otherwise;
}
