/* How much memory guests may take together: what the kernel calls available, and no more
 * than the control groups that we are in still allow, as a CI job's container does. */
#include <stdlib.h>
#include <string.h>

#include "src/cli/test.h"
#include "util/bits.h"

#define CGROUPS "/sys/fs/cgroup"

enum { MAX_TEXT = 64 * KIB };

/* NULL: it is not there.  These are files of the kernel's, and small. */
static char *read_text(const char *path)
{
    char *text = NULL;
    gsize len;

    if (!g_file_get_contents(path, &text, &len, NULL))
        return NULL;
    if (len > MAX_TEXT)
        text[MAX_TEXT] = 0;
    return text;
}

/* The number behind `word` at the beginning of a line; false: there is none. */
static bool find_number(const char *text, const char *word, uint64_t *ret)
{
    for (const char *line = text; line; line = strchr(line, '\n')) {
        char *end;

        line += *line == '\n';
        if (!g_str_has_prefix(line, word))
            continue;
        line += strlen(word);
        *ret = g_ascii_strtoull(line, &end, 10);
        return end != line;
    }
    return false;
}

uint64_t test_memory_parse(const char *meminfo)
{
    uint64_t kib = 0;

    return find_number(meminfo, "MemAvailable:", &kib) ? kib * KIB : 0;
}

static bool group_number(const char *group, const char *file, const char *word,
                         uint64_t *ret)
{
    g_autofree char *path = g_build_filename(CGROUPS, group, file, NULL);
    g_autofree char *text = read_text(path);

    return text && find_number(text, word, ret);
}

/* Of one group: its limit, less what it holds and could not give back. */
static uint64_t left_in_group(const char *group)
{
    uint64_t max, current = 0, cache = 0;

    if (!group_number(group, "memory.max", "", &max)) /* "max", or no such file */
        return UINT64_MAX;
    group_number(group, "memory.current", "", &current);
    group_number(group, "memory.stat", "inactive_file ", &cache);
    current -= MIN(cache, current);
    return max - MIN(current, max);
}

/* Version 2 only, whose line is "0::/PATH"; the group and those that it is in. */
static uint64_t left_in_groups(void)
{
    g_autofree char *text = read_text("/proc/self/cgroup");
    const char *line = text ? strstr(text, "0::/") : NULL;
    g_autofree char *group = line ? g_strndup(line + 3, strcspn(line + 3, "\n")) : NULL;
    uint64_t left = UINT64_MAX;

    for (char *slash; group && (slash = strrchr(group, '/')); *slash = 0)
        left = MIN(left, left_in_group(group));
    return group ? MIN(left, left_in_group("")) : left;
}

uint64_t test_memory_available(void)
{
    g_autofree char *text = read_text("/proc/meminfo");
    uint64_t host = text ? test_memory_parse(text) : 0;

    return MIN(host ? host : UINT64_MAX, left_in_groups());
}
