/* The header of qcow2, as its files share it: qcow2_header.c (read and written),
 * qcow2_header_check.c (judged) and qcow2_create.c. */
#pragma once

#include "qcow2_private.h"

enum {
    QCOW2_V2_LEN = 72,
    QCOW2_V3_LEN = 104,         /* the least */
    QCOW2_AT_COMPRESSION = 104, /* compression_type */
    QCOW2_KNOWN_LEN = 112,      /* with compression_type and its padding */
    QCOW2_FEATURE_ENTRY = 48,   /* bytes, in the feature name table */
};

/* Always false: what is wrong, in words, with the header of that image. */
bool qcow2_bad_header(const Qcow2 *s, GError **error, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* L1 entries that a disk of that size needs. */
uint64_t qcow2_l1_entries(const Qcow2 *s, uint64_t size);

/* Header and extensions are in `s`. */
bool qcow2_check_features(const Qcow2 *s, GError **error);
bool qcow2_check_tables(const Qcow2 *s, unsigned flags, GError **error);
