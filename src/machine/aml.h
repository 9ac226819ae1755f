/* ACPI Machine Language, as much as our DSDT needs (ACPI 6.4, chapter 20; resource
 * descriptors: 6.4).  Calls append to one buffer in the order in which ASL would be
 * written; what opens is closed by aml_end().  Main thread; a wrong use is a programming
 * error and shows up as a table that iasl refuses. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum { AML_MAX_DEPTH = 8 };

typedef struct Aml {
    GByteArray *bytes;
    unsigned depth;
    unsigned open[AML_MAX_DEPTH]; /* where the package length goes */
} Aml;

void aml_init(Aml *a);
GByteArray *aml_finish(Aml *a); /* the caller's to free */

/* Blocks: each until its aml_end().  Names are one to four characters, or a path such as
 * "\\_SB.PCI0" for aml_scope(). */
void aml_scope(Aml *a, const char *path);
void aml_device(Aml *a, const char *name);
void aml_method(Aml *a, const char *name, unsigned n_args);   /* not serialized */
void aml_if_bits(Aml *a, unsigned arg, uint64_t bits);        /* If (Arg & bits) */
void aml_named_package(Aml *a, const char *name, unsigned n); /* n elements follow */
void aml_package(Aml *a, unsigned n);
void aml_end(Aml *a);

/* Name(name, value) */
void aml_name_int(Aml *a, const char *name, uint64_t value);
void aml_name_string(Aml *a, const char *name, const char *text);
void aml_name_eisaid(Aml *a, const char *name, const char *id); /* "PNP0A03" */

/* Elements of a package, statements of a method */
void aml_int(Aml *a, uint64_t value);
void aml_string(Aml *a, const char *text);
void aml_notify(Aml *a, const char *path, unsigned value);
void aml_notify_arg(Aml *a, const char *path,
                    unsigned arg); /* with an argument's value */
void aml_store_int(Aml *a, uint64_t value, const char *path);
/* Store(path, Local0), then a call of method(Local0, value): reads the field once. */
void aml_call_with_field(Aml *a, const char *method, const char *path, uint64_t value);

/* OperationRegion(name, SystemIO, port, length), and a Field over it of dwords, one for
 * each of the names. */
void aml_io_region(Aml *a, const char *name, uint16_t port, unsigned length);
void aml_dword_fields(Aml *a, const char *region, const char *const *names, unsigned n);

/* A resource template: Name(_CRS, ResourceTemplate() { ... }) between begin and end. */
typedef struct AmlResources {
    GByteArray *bytes;
} AmlResources;

void aml_crs_begin(AmlResources *r);
void aml_crs_end(Aml *a, AmlResources *r);
void aml_io(AmlResources *r, uint16_t base, uint8_t length);
void aml_irq(AmlResources *r, unsigned irq);       /* edge, active high, exclusive */
void aml_interrupt(AmlResources *r, uint32_t gsi); /* level, active high, exclusive */
void aml_memory32_fixed(AmlResources *r, uint32_t base, uint32_t length);

/* Windows of a bridge: what it hands on to the bus behind it. */
void aml_window_bus(AmlResources *r, uint16_t first, uint16_t last);
void aml_window_io(AmlResources *r, uint16_t first, uint16_t last);
void aml_window_memory32(AmlResources *r, uint32_t first, uint32_t last);
void aml_window_memory64(AmlResources *r, uint64_t first, uint64_t last);
/* Memory that the device itself takes up, above 4 GiB. */
void aml_memory64_fixed(AmlResources *r, uint64_t base, uint64_t length);
