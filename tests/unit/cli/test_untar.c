/* Unpacking what a hostile guest's tar says. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/untar.h"
#include "util/fd.h"

enum { BLOCK = 512 };

static GString *stream;
static char *folder; /* "in" in it is unpacked to */

static void begin(void)
{
    g_autofree char *in = NULL;

    stream = g_string_new(NULL);
    folder = g_dir_make_tmp("hutch-untar-XXXXXX", NULL);
    in = g_build_filename(folder, "in", NULL);
    g_assert_cmpint(mkdir(in, 0700), ==, 0);
}

static void end(void)
{
    const char *argv[] = {"rm", "-rf", folder, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                 NULL, NULL);
    g_string_free(stream, TRUE);
    g_free(folder);
}

/* Puts the right sum into it. */
static void seal(char *header)
{
    unsigned sum = 0;

    memset(header + 148, ' ', 8);
    for (unsigned i = 0; i < BLOCK; i++)
        sum += (unsigned char)header[i];
    snprintf(header + 148, 8, "%06o", sum);
}

static void entry(char type, const char *name, const char *link, unsigned mode,
                  const char *data)
{
    char header[BLOCK] = "";

    g_strlcpy(header, name, 100);
    snprintf(header + 100, 8, "%07o", mode);
    snprintf(header + 124, 12, "%011o", (unsigned)strlen(data));
    header[156] = type;
    g_strlcpy(header + 157, link, 100);
    memcpy(header + 257,
           "ustar\0"
           "00",
           8);
    seal(header);
    g_string_append_len(stream, header, BLOCK);
    g_string_append(stream, data);
    while (stream->len % BLOCK)
        g_string_append_c(stream, '\0');
}

static void finish(void)
{
    for (unsigned i = 0; i < 2 * BLOCK; i++)
        g_string_append_c(stream, '\0');
}

/* In pieces of that many bytes. */
static bool unpack(size_t piece, unsigned *left_out, GError **error)
{
    g_autofree char *in = g_build_filename(folder, "in", NULL);
    autofd fd = open(in, O_DIRECTORY | O_RDONLY);
    g_autoptr(Untar) u = untar_new(fd);

    for (size_t at = 0; at < stream->len; at += piece)
        if (!untar_feed(u, stream->str + at, MIN(piece, stream->len - at), error))
            return false;
    return untar_finish(u, left_out, error);
}

static char *contents(const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

static void entries_arrive_in_pieces_of_any_length(void)
{
    static const size_t pieces[] = {1, 511, 512, 513, 100000};

    for (unsigned i = 0; i < G_N_ELEMENTS(pieces); i++) {
        g_autofree char *a = NULL, *b = NULL, *c = NULL;
        g_autoptr(GError) error = NULL;
        unsigned left_out;

        begin();
        entry('5', "t/", "", 0755, "");
        entry('0', "t/a", "", 0640, "hello");
        entry('L', "././@LongLink", "", 0, "t/other");
        entry('0', "t/oth", "", 0600, "");
        entry('1', "t/hard", "t/a", 0640, "");
        entry('2', "t/soft", "a", 0777, "");
        finish();
        unpack(pieces[i], &left_out, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(left_out, ==, 0);
        a = contents("in/t/soft");
        b = contents("in/t/hard");
        c = contents("in/t/other");
        g_assert_cmpstr(a, ==, "hello");
        g_assert_cmpstr(b, ==, "hello");
        g_assert_cmpstr(c, ==, "");
        end();
    }
}

static void names_that_lead_out_are_refused(void)
{
    static const char *const names[] = {"../out", "/out", "t/../../out", "..", "", "/"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *out = NULL;
        unsigned left_out;

        begin();
        entry('0', names[i], "", 0600, "bad");
        finish();
        g_assert_false(unpack(512, &left_out, NULL));
        out = contents("out");
        g_assert_null(out);
        end();
    }
}

/* Each would write outside if a link were followed. */
static void links_are_not_followed(void)
{
    for (unsigned i = 0; i < 4; i++) {
        g_autofree char *out = NULL;
        unsigned left_out;

        begin();
        entry('2', i == 3 ? "link" : "dir", i == 1 ? "../out" : "..", 0777, "");
        if (i == 0)
            entry('0', "dir/out", "", 0600, "bad");
        else if (i == 1)
            entry('0', "dir", "", 0600, "bad");
        else if (i == 2)
            entry('5', "dir", "", 0777, "");
        else
            entry('1', "here", "link/in", 0600, "");
        finish();
        g_assert_false(unpack(512, &left_out, NULL));
        out = contents("out");
        g_assert_null(out);
        end();
    }
}

static void nobody_gets_special_bits_or_devices(void)
{
    g_autofree char *path = NULL;
    unsigned left_out = 0;
    struct stat st;

    begin();
    entry('0', "f", "", 06755, "x");
    entry('3', "dev", "", 0666, "");
    entry('6', "fifo", "", 0666, "");
    finish();
    g_assert_true(unpack(512, &left_out, NULL));
    g_assert_cmpuint(left_out, ==, 2);
    path = g_build_filename(folder, "in", "f", NULL);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0755);
    end();
}

static void streams_that_are_no_tar_are_refused(void)
{
    for (unsigned i = 0; i < 6; i++) {
        unsigned left_out;

        begin();
        entry(i == 3 ? 'x' : i == 4 ? 'L' : '0', "f", "", 0600, "data");
        if (i == 0)
            stream->str[0] = 'g'; /* the sum is wrong */
        if (i == 1)
            g_string_truncate(stream, BLOCK + 2);
        if (i == 2)
            g_string_overwrite(stream, 0, "no tar at all");
        if (i == 4) { /* a name without end */
            memcpy(stream->str + 124, "\x80\0\0\0\0\0\0\x7f\xff\xff\xff\xff", 12);
            seal(stream->str);
        }
        if (i != 1 && i != 5)
            finish();
        g_assert_false(unpack(512, &left_out, NULL));
        end();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/untar/" #name, name)
    ADD(entries_arrive_in_pieces_of_any_length);
    ADD(names_that_lead_out_are_refused);
    ADD(links_are_not_followed);
    ADD(nobody_gets_special_bits_or_devices);
    ADD(streams_that_are_no_tar_are_refused);
    return g_test_run();
}
