/* GErrors with our codes; see util/error.h. */
#include "util/error.h"

#include <errno.h>

GQuark vm_error_quark(void)
{
    return g_quark_from_static_string("hutch");
}

static void G_GNUC_PRINTF(4, 0)
    set(GError **error, VmErrorCode code, const char *tail, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    g_set_error(error, VM_ERROR, code, "%s%s%s", text, tail ? ": " : "",
                tail ? tail : "");
}

bool fail(GError **error, VmErrorCode code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set(error, code, NULL, fmt, ap);
    va_end(ap);
    return false;
}

bool fail_errno(GError **error, const char *fmt, ...)
{
    int saved = errno;
    va_list ap;

    va_start(ap, fmt);
    set(error, VM_ERROR_IO, g_strerror(saved), fmt, ap);
    va_end(ap);
    errno = saved;
    return false;
}
