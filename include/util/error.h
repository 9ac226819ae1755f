/* Failing: one sentence per failure, with context added on the way up by whoever knows
 * it (g_prefix_error), reported once, by the verb that failed.  What a guest does wrong
 * is never an error; see virtio_broken() for that. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef enum {
    VM_ERROR_INVALID,     /* the request makes no sense             */
    VM_ERROR_BUSY,        /* right request, wrong moment            */
    VM_ERROR_UNSUPPORTED, /* this host, kernel or build cannot      */
    VM_ERROR_IO,          /* a system call failed                   */
    VM_ERROR_CORRUPT,     /* a file or stream is not what it claims */
    VM_ERROR_NOT_FOUND,   /* there is no device, job or VM of that name */
} VmErrorCode;

#define VM_ERROR (vm_error_quark())
GQuark vm_error_quark(void);

/* Both always return false, so that a failing line reads "return fail(...)".  The second
 * appends ": " and the text of errno, which it reads before doing anything else. */
bool fail(GError **error, VmErrorCode code, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
bool fail_errno(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
