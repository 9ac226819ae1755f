/* See snapshot/hash.h.  nettle is loaded, not linked: a VM that starts without a snapshot
 * has no need for it. */
#include "snapshot/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hutch-config.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/lock.h"

enum {
    FILE_PIECE = 256 * 1024,
    SMALL = 64 * 1024, /* bytes that GLib hashes before the other library is loaded */
};

/* ---- nettle --------------------------------------------------------------------------
 */

#ifdef HAVE_NETTLE
#include <dlfcn.h>
#include <nettle/sha2.h>

#define LIBRARY "libnettle.so.8" /* nettle 3 */

typedef struct sha256_ctx NettleContext;

static struct {
    void (*init)(NettleContext *ctx);
    void (*update)(NettleContext *ctx, size_t len, const uint8_t *data);
    void (*digest)(NettleContext *ctx, size_t len, uint8_t *ret);
} nettle; /* written once, under the lock */

static bool load(void)
{
    static Lock lock = LOCK_INIT;
    static bool tried;
    void *library;

    LOCK_GUARD(&lock);
    if (tried)
        return nettle.digest != NULL;
    tried = true;
    library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    *(void **)&nettle.init = dlsym(library, "nettle_sha256_init");
    *(void **)&nettle.update = dlsym(library, "nettle_sha256_update");
    if (nettle.init && nettle.update)
        *(void **)&nettle.digest = dlsym(library, "nettle_sha256_digest");
    return nettle.digest != NULL;
}
#else
typedef struct NettleContext {
    char unused;
} NettleContext;

static const struct {
    void (*init)(NettleContext *ctx);
    void (*update)(NettleContext *ctx, size_t len, const uint8_t *data);
    void (*digest)(NettleContext *ctx, size_t len, uint8_t *ret);
} nettle;

static bool load(void)
{
    return false;
}
#endif

/* ---- hashing -------------------------------------------------------------------------
 */

struct Hasher {
    GChecksum *glib; /* NULL: nettle is there */
    NettleContext nettle;
};

static Hasher *new_for(bool much)
{
    Hasher *h = g_new0(Hasher, 1);

    if (much && load())
        nettle.init(&h->nettle);
    else
        h->glib = g_checksum_new(G_CHECKSUM_SHA256);
    return h;
}

Hasher *hasher_new(void)
{
    return new_for(true);
}

void hasher_add(Hasher *h, const void *data, size_t len)
{
    if (h->glib)
        g_checksum_update(h->glib, data, (gssize)len);
    else
        nettle.update(&h->nettle, len, data);
}

void hasher_end(Hasher *h, uint8_t ret[HASH_BYTES])
{
    gsize len = HASH_BYTES;

    if (!h->glib) {
        nettle.digest(&h->nettle, HASH_BYTES, ret); /* which begins anew */
        return;
    }
    g_checksum_get_digest(h->glib, ret, &len);
    g_checksum_reset(h->glib);
}

void hasher_free(Hasher *h)
{
    if (h && h->glib)
        g_checksum_free(h->glib);
    g_free(h);
}

/* ---- as text -------------------------------------------------------------------------
 */

void hash_to_text(const uint8_t hash[HASH_BYTES], char ret[HASH_TEXT + 1])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < HASH_BYTES; i++) {
        ret[2 * i] = digits[hash[i] >> 4];
        ret[2 * i + 1] = digits[hash[i] & 15];
    }
    ret[HASH_TEXT] = 0;
}

bool hash_from_text(const char *text, uint8_t ret[HASH_BYTES])
{
    for (unsigned i = 0; i < HASH_TEXT; i++) {
        int digit = g_ascii_isupper(text[i]) ? -1 : g_ascii_xdigit_value(text[i]);

        if (digit < 0) /* the zero at its end is none, too */
            return false;
        ret[i / 2] = (uint8_t)(i % 2 ? ret[i / 2] | digit : digit << 4);
    }
    return !text[HASH_TEXT];
}

/* ---- files ---------------------------------------------------------------------------
 */

char *hash_file(const char *path, uint64_t *ret_size, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *buf = g_malloc(FILE_PIECE);
    struct stat st;
    bool much = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > SMALL;
    g_autoptr(Hasher) h = new_for(much);
    uint8_t hash[HASH_BYTES];
    uint64_t size = 0;
    ssize_t n = fd < 0 ? -1 : 1;
    char *text;

    while (n > 0) {
        n = read(fd, buf, FILE_PIECE);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0) {
            hasher_add(h, buf, (size_t)n);
            size += (uint64_t)n;
        }
    }
    if (n < 0) {
        fail_errno(error, "'%s': read it", path);
        return NULL;
    }
    hasher_end(h, hash);
    text = g_malloc(HASH_TEXT + 1);
    hash_to_text(hash, text);
    if (ret_size)
        *ret_size = size;
    return text;
}
