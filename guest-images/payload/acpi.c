/* Finds ACPI tables, as ACPI 6.4, 5.2.5 to 5.2.8 lays them out. */
#include "payload.h"

#define HEADER_SIZE 36

static uint64_t read_number(const void *at, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, at, size);
    return value;
}

static const char *find_rsdp(void)
{
    if (boot.rsdp)
        return map(boot.rsdp, 4096);
    for (uintptr_t at = 0xe0000; at < 0x100000; at += 16)
        if (!memcmp((void *)at, "RSD PTR ", 8))
            return (void *)at;
    return NULL;
}

const void *acpi_find(const char *signature)
{
    const char *rsdp = find_rsdp();
    if (!rsdp)
        return NULL;

    bool extended = rsdp[15] >= 2 && read_number(rsdp + 24, 8);
    unsigned width = extended ? 8 : 4;
    uint64_t root_at = extended ? read_number(rsdp + 24, 8) : read_number(rsdp + 16, 4);
    const char *root = map(root_at, 4096);
    uint64_t length = read_number(root + 4, 4);

    for (uint64_t i = HEADER_SIZE; i + width <= length; i += width) {
        const char *table = map(read_number(root + i, width), 4096);
        if (!memcmp(table, signature, 4))
            return table;
    }
    return NULL;
}
