/* An agent that is none: it answers as qemu-guest-agent does, with this machine for a
 * guest, and lies when it is told to. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* What it does when it gets `command` instead of answering it. */
typedef enum {
    FAKE_SAY,    /* says `text`, and a new line */
    FAKE_HALF,   /* says `text` and no more */
    FAKE_SILENT, /* nothing */
    FAKE_FLOOD,  /* says `text` again and again, without a new line */
    FAKE_CLOSE,  /* hangs up */
} FakeDeed;

typedef struct FakeLie {
    const char *command; /* NULL: the last of them */
    FakeDeed deed;
    const char *text;
    unsigned after; /* so many it answers well, first */
} FakeLie;

typedef struct Fake Fake;

/* Serves at fake_path() on a thread of its own; `lies` stays the caller's. */
Fake *fake_new(const FakeLie *lies);
void fake_free(Fake *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fake, fake_free)
const char *fake_path(const Fake *f);
bool fake_has_folders(const Fake *f); /* those of the commands that it ran are there */
unsigned fake_count(Fake *f, const char *command); /* how often it got that */
