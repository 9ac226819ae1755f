/* Names of clones by a pattern, which is a user's and no format of printf's. */
#include <stdio.h>
#include <string.h>

#include "src/cli/clone.h"

/* At a '%': how long the conversion is, 0 if it is none; *ret_width of the number, with
 * zeroes. */
static size_t conversion(const char *at, int *ret_width)
{
    *ret_width = 0;
    if (at[1] == '%' || at[1] == 'd')
        return 2;
    if (at[1] == '0' && at[2] >= '1' && at[2] <= '9' && at[3] == 'd') {
        *ret_width = at[2] - '0';
        return 4;
    }
    return 0;
}

char *clone_expand(const char *pattern, unsigned number)
{
    GString *out = g_string_new(NULL);

    while (*pattern) {
        int width;
        size_t len = *pattern == '%' ? conversion(pattern, &width) : 0;

        if (!len)
            g_string_append_c(out, *pattern++);
        else if (pattern[1] == '%')
            g_string_append_c(out, '%');
        else
            g_string_append_printf(out, "%0*u", width, number);
        pattern += len;
    }
    return g_string_free(out, FALSE);
}

bool clone_check_pattern(const char *option, const char *pattern, bool *ret_numbered,
                         GError **error)
{
    *ret_numbered = false;
    for (const char *at = strchr(pattern, '%'); at; at = strchr(at, '%')) {
        int width;
        size_t len = conversion(at, &width);

        if (!len)
            return fail(error, VM_ERROR_INVALID,
                        "--%s %s: %% stands before d, the clone's number, or 0Nd, that "
                        "with N digits; %%%% is a %%",
                        option, pattern);
        *ret_numbered |= at[1] != '%';
        at += len;
    }
    return true;
}
