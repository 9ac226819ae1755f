/* The bytes of the DSDT after its header; the caller's to free. */
#pragma once

#include <glib.h>

#include "machine/acpi.h"

GByteArray *acpi_dsdt_code(const AcpiConfig *config);
