/* What `hutch snapshot serve` and its clients say to each other, over a stream socket;
 * docs/snapshot-format.md, "Over a socket".  Little-endian.  Both sides are hostile to
 * each other: a message has a size that is known before it is read. */
#pragma once

#include "page_source.h"
#include "snapshot/manifest.h"
#include "util/bits.h"
#include "util/unixsocket.h"

enum {
    WIRE_VERSION = 1,
    WIRE_HELLO = 16,   /* bytes: "HUTCHSNP", u32 version, u32 0; each side sends it */
    WIRE_REQUEST = 24, /* u32 WIRE_MAGIC, u32 type, u64 at, u32 n, u32 file */
    WIRE_REPLY = 16,   /* u32 WIRE_MAGIC, u32 status, u32 bytes that follow, u32 type */
    WIRE_PIECE = 1 << 20, /* most bytes of a file in one reply */
    WIRE_PAGES = PAGE_SOURCE_MOST,
    WIRE_BITMAP = WIRE_PAGES / 8,
    WIRE_MOST = WIRE_BITMAP + WIRE_PAGES * 4096, /* bytes in a reply */
    WIRE_SENTENCE = 512,                         /* bytes of an error's text */
};
#define WIRE_MAGIC 0x70616e73u /* "snap" */

/* WIRE_FILE: at most n bytes from byte `at` on of a file; fewer: it ends there.
 * WIRE_READ: n pages from page `at` on: a bitmap of those that are not zero, of
 *   (n + 63) / 64 * 8 bytes, then these pages.
 * WIRE_NEXT: u64 page, u64 n: the next pages from `at` on that may not be zero; n 0:
 * none. */
enum { WIRE_FILE = 1, WIRE_READ, WIRE_NEXT };
enum { WIRE_OK, WIRE_FAILED /* the text says why */ };

/* In the order of their numbers. */
extern const char *const wire_files[]; /* manifest.json, config.json, state; NULL */

typedef struct WireRequest {
    uint32_t type, n, file;
    uint64_t at;
} WireRequest;

/* An address: unix:PATH or tcp:HOST:PORT ([..] around IPv6). */
bool wire_is_address(const char *text);
/* A connected, blocking socket, of which nothing waits longer than WIRE_WAIT_S; -1 on
 * failure. */
enum { WIRE_WAIT_S = 10 };
int wire_dial(const char *address, GError **error);

typedef struct WireListener {
    int fd; /* non-blocking */
    UnixListener unix_socket;
} WireListener;
bool wire_listen(WireListener *l, const char *address, GError **error);
void wire_unlisten(WireListener *l); /* after a failure, too */
char *wire_listens_at(const WireListener *l,
                      const char *address); /* with the real port */

/* All of it, or an error.  The second: false without an error: the peer has hung up
 * before the first byte. */
bool wire_send(int fd, const void *data, size_t len, GError **error);
bool wire_receive(int fd, void *data, size_t len, GError **error);

bool wire_send_hello(int fd, GError **error);
bool wire_receive_hello(int fd, GError **error);
