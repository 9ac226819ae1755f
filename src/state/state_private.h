/* What the files of the state layer share, and nobody else needs. */
#pragma once

#include "state/state.h"

/* Where in a file we are, for sentences: a chain from the inside to the section. */
typedef struct Where {
    const struct Where *up; /* NULL: this is the section */
    const char *name;
    int64_t index; /* of an array's element; -1: none */
} Where;

/* Both always return false; "state, section 'vcpu0', field 'msrs[3].value': ..." */
bool fail_at(const Where *at, GError **error, VmErrorCode code, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);

/* Elements of an array field that are in use. */
uint32_t state_used(const StateField *f, const void *s);

/* Ranges of all fields, then check(), of a struct that is to be saved or was loaded. */
bool state_check(const StateTable *t, const void *s, const Where *at, GError **error);

/* Fields to bytes, of a checked struct, and back. */
void state_encode(const StateTable *t, const void *s, GByteArray *out);
bool state_decode(const StateTable *t, uint16_t version, const uint8_t *bytes,
                  size_t size, void *ret, const Where *at, GError **error);

/* A section as it lies in the file; it points into the reader's bytes. */
typedef struct Section {
    char name[STATE_MAX_NAME + 1], kind[STATE_MAX_NAME + 1];
    uint16_t version;
    uint32_t size;
    const uint8_t *bytes;
    bool asked_for;
} Section;

struct StateReader {
    GBytes *bytes;
    GArray *sections;    /* Section, in the file's order */
    GHashTable *by_name; /* of Section.name to its index + 1 */
};

/* state_get() without marking the section as asked for. */
bool state_fill(const Section *section, const StateTable *t, void *ret, GError **error);
