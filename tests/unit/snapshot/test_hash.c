/* SHA-256: the vectors of FIPS 180-4's examples and of NIST's CAVP. */
#include <string.h>
#include <unistd.h>

#include "snapshot/hash.h"

static const struct {
    const char *text, *hash;
} vectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopq"
     "klmnopqrlmnopqrsmnopqrstnopqrstu",
     "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
};

static void assert_hash(Hasher *h, const char *wanted)
{
    uint8_t hash[HASH_BYTES];
    char text[HASH_TEXT + 1];

    hasher_end(h, hash);
    hash_to_text(hash, text);
    g_assert_cmpstr(text, ==, wanted);
}

/* In pieces as well; a Hasher begins anew each time. */
static void known_texts_have_known_hashes(void)
{
    g_autoptr(Hasher) h = hasher_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
        hasher_add(h, vectors[i].text, strlen(vectors[i].text));
        assert_hash(h, vectors[i].hash);
        for (const char *at = vectors[i].text; *at; at++)
            hasher_add(h, at, 1);
        assert_hash(h, vectors[i].hash);
    }
}

static void a_million_letters_have_a_known_hash(void)
{
    g_autofree char *letters = g_strnfill(1000 * 1000, 'a');
    g_autoptr(Hasher) h = hasher_new();

    hasher_add(h, letters, 1000 * 1000);
    assert_hash(h, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Whatever library it is that does the work. */
static void glib_is_of_the_same_opinion(void)
{
    g_autoptr(Hasher) h = hasher_new();
    uint8_t data[300];

    for (unsigned len = 0; len < sizeof(data); len++) {
        g_autofree char *wanted = NULL;

        data[len] = (uint8_t)(len * 7);
        wanted = g_compute_checksum_for_data(G_CHECKSUM_SHA256, data, len);
        hasher_add(h, data, len);
        assert_hash(h, wanted);
    }
}

static void what_is_no_hash_is_not_read_as_one(void)
{
    g_autofree char *good = g_strnfill(HASH_TEXT, 'a');
    uint8_t hash[HASH_BYTES];

    g_assert_true(hash_from_text(good, hash));
    g_assert_cmpuint(hash[31], ==, 0xaa);
    good[63] = 'A';
    g_assert_false(hash_from_text(good, hash));
    good[63] = 'g';
    g_assert_false(hash_from_text(good, hash));
    good[63] = 0;
    g_assert_false(hash_from_text(good, hash));
    g_assert_false(hash_from_text("", hash));
    g_free(good);
    good = g_strnfill(HASH_TEXT + 1, 'a');
    g_assert_false(hash_from_text(good, hash));
}

static void files_are_hashed_and_links_are_not(void)
{
    g_autofree char *folder = g_dir_make_tmp("hutch-hash-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "f", NULL);
    g_autofree char *link = g_build_filename(folder, "l", NULL);
    g_autofree char *hash = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t size;

    g_assert_true(g_file_set_contents(path, "abc", 3, NULL));
    g_assert_cmpint(symlink(path, link), ==, 0);
    hash = hash_file(path, &size, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(hash, ==, vectors[1].hash);
    g_assert_cmpuint(size, ==, 3);
    g_assert_null(hash_file(link, &size, NULL));
    g_assert_null(hash_file(folder, &size, &error));
    g_assert_true(g_str_has_prefix(error->message, "'"));
    unlink(link);
    unlink(path);
    rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/hash/" #name, name)
    ADD(known_texts_have_known_hashes);
    ADD(a_million_letters_have_a_known_hash);
    ADD(glib_is_of_the_same_opinion);
    ADD(what_is_no_hash_is_not_read_as_one);
    ADD(files_are_hashed_and_links_are_not);
    return g_test_run();
}
