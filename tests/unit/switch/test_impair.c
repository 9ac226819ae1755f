/* Bad wires.  Frames carry their number; what comes out is looked at by that. */
#include "src/switch/impair.h"

#include <glib.h>
#include <string.h>

enum { LEN = 100, AT = 20 /* where the number is */ };

static Switch sw;
static Port port;
static GArray *out; /* numbers, in the order in which frames left */
static unsigned expected, broken;
static uint8_t data[FRAME_ROOM + 70000];

static uint32_t number_of(const Frame *f)
{
    uint32_t n;

    memcpy(&n, f->data + AT, sizeof(n));
    return n;
}

/* Played by the test: the rest of the switch. */
void switch_resume(Port *p, Direction direction, Frame *f)
{
    uint32_t n = number_of(f);

    g_assert_true(p == &port && direction == TO_VM);
    for (size_t i = AT + 4; i < f->len; i++) {
        if (f->data[i] != 0x55) {
            broken++;
            break;
        }
    }
    g_array_append_val(out, n);
}

void switch_flush(Switch *s)
{
    if (out->len >= expected)
        ioloop_quit(s->loop);
}

static Frame frame_of(uint32_t n)
{
    Frame f = {.data = data + FRAME_ROOM, .len = LEN};

    memset(f.data, 0x55, LEN);
    memcpy(f.data + 12, "\x88\xb5", 2);
    memcpy(f.data + AT, &n, sizeof(n));
    packet_parse(f.data, f.len, &f.p);
    return f;
}

static Impair *begin(const ImpairOptions *o)
{
    g_autoptr(GError) error = NULL;

    sw.loop = ioloop_new(&error);
    g_assert_no_error(error);
    memset(&port, 0, sizeof(port));
    port.sw = &sw;
    broken = 0;
    out = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    return impair_new(&port, TO_VM, o);
}

static void end(Impair *im)
{
    impair_free(im);
    ioloop_free(sw.loop);
    g_array_free(out, TRUE);
}

static void send_frames(Impair *im, uint32_t first, unsigned n)
{
    for (uint32_t i = first; i < first + n; i++) {
        Frame f = frame_of(i);

        sw.now_ns = clock_ns();
        if (impair_pass(im, &f))
            switch_resume(&port, TO_VM, &f);
    }
}

static void wait_for(unsigned n)
{
    expected = n;
    if (out->len < n)
        ioloop_run(sw.loop);
    g_assert_cmpuint(out->len, ==, n);
}

static uint32_t at(unsigned i)
{
    return g_array_index(out, uint32_t, i);
}

static void frames_are_late_and_in_order(void)
{
    ImpairOptions o = {.delay_us = 20000, .jitter_us = 10000, .seed = 1};
    Impair *im = begin(&o);
    int64_t from = clock_ns();

    send_frames(im, 0, 200);
    g_assert_cmpuint(out->len, ==, 0);
    wait_for(200);
    g_assert_cmpint(clock_ns() - from, >=, 20000000);
    for (unsigned i = 0; i < 200; i++)
        g_assert_cmpuint(at(i), ==, i);
    g_assert_cmpuint(broken + port.count[TO_VM].lost, ==, 0);
    end(im);
}

static void what_is_probable_happens_as_often(void)
{
    ImpairOptions o = {.loss = 0.25, .duplicate = 0.125, .corrupt = 0.5, .seed = 2};
    Impair *im = begin(&o);
    unsigned lost, twice = 0;

    send_frames(im, 0, 4000);
    impair_change(im, &(ImpairOptions){.seed = 2});
    send_frames(im, 4000, 1); /* behind all that is held */
    expected = 0;
    while (!out->len || at(out->len - 1) != 4000)
        ioloop_run(sw.loop);
    g_array_set_size(out, out->len - 1);
    lost = (unsigned)port.count[TO_VM].lost;
    for (unsigned i = 1; i < out->len; i++)
        twice += at(i) == at(i - 1);
    g_assert_cmpuint(lost, >, 900);
    g_assert_cmpuint(lost, <, 1100);
    g_assert_cmpuint(out->len, ==, 4000 - lost + twice);
    g_assert_cmpuint(twice, >, 300);
    g_assert_cmpuint(twice, <, 450);
    g_assert_cmpuint(broken, >, out->len * 4 / 10); /* some in what is not looked at */
    g_assert_cmpuint(broken, <, out->len / 2);
    end(im);
}

static void nothing_happens_that_was_not_asked_for(void)
{
    ImpairOptions o = {.loss = 1, .seed = 3};
    Impair *im = begin(&o);

    send_frames(im, 0, 100);
    g_assert_cmpuint(port.count[TO_VM].lost, ==, 100);
    o.loss = 0;
    impair_change(im, &o);
    send_frames(im, 0, 100);
    g_assert_cmpuint(out->len, ==, 100);
    end(im);
}

static void a_frame_is_overtaken_by_the_next(void)
{
    ImpairOptions o = {.reorder = 0.2, .seed = 4};
    Impair *im = begin(&o);
    unsigned moved = 0, seen[500] = {0};

    send_frames(im, 0, 500);
    wait_for(500); /* nothing is lost, the last one included */
    for (unsigned i = 0; i < 500; i++) {
        g_assert_cmpuint(at(i), <, 500);
        seen[at(i)]++;
        moved += i && at(i) < at(i - 1);
    }
    for (unsigned i = 0; i < 500; i++)
        g_assert_cmpuint(seen[i], ==, 1);
    g_assert_cmpuint(moved, >, 10);
    end(im);
}

static void a_seed_repeats_a_run(void)
{
    ImpairOptions o = {.loss = 0.5, .seed = 5};
    g_autofree uint32_t *before = NULL;
    unsigned n = 0;

    for (unsigned run = 0; run < 2; run++) {
        Impair *im = begin(&o);

        send_frames(im, 0, 300);
        if (run == 0) {
            n = out->len;
            before = g_memdup2(out->data, n * sizeof(*before));
        } else {
            g_assert_cmpmem(before, n * sizeof(*before), out->data,
                            out->len * sizeof(*before));
        }
        end(im);
    }
    o.seed = 0;
    for (unsigned run = 0; run < 2; run++) {
        Impair *im = begin(&o);

        g_assert_cmpuint(impair_options(im)->seed, !=, 0); /* made up, and can be read */
        end(im);
    }
}

static void what_is_held_is_bounded(void)
{
    ImpairOptions o = {.delay_us = 60000000};
    Impair *im = begin(&o);
    Frame big = frame_of(0);

    send_frames(im, 0, IMPAIR_MAX_FRAMES + 10);
    g_assert_cmpuint(port.count[TO_VM].lost, ==, 10);
    end(im);

    im = begin(&o);
    big.len = 65536;
    for (unsigned i = 0; i < IMPAIR_MAX_BYTES / big.len + 3; i++)
        g_assert_false(impair_pass(im, &big));
    g_assert_cmpuint(port.count[TO_VM].lost, ==, 3);
    end(im);
}

/* A TCP segment of `payload` bytes with what a driver leaves to others. */
static Frame segment_of(size_t payload)
{
    Frame f = {.data = data + FRAME_ROOM, .len = 54 + payload};
    uint8_t *p = f.data;

    memset(p, 0, f.len);
    memcpy(p, "\2\0\0\0\0\1\2\0\0\0\0\2\x08\x00\x45", 15);
    p[16] = (uint8_t)((40 + payload) >> 8);
    p[17] = (uint8_t)(40 + payload);
    memcpy(p + 22, "\x40\x06\0\0\x0a\5\0\7\x0a\5\0\x08", 12);
    p[46] = 5 << 4;
    f.hdr = (VnetHdr){.flags = VNET_NEEDS_CSUM,
                      .gso_type = VNET_GSO_TCPV4,
                      .gso_size = 1000,
                      .csum_start = 34,
                      .csum_offset = 16};
    packet_parse(f.data, f.len, &f.p);
    return f;
}

/* Else 5% of loss would be 5% of loss of 64 KiB at once. */
static void dice_are_thrown_for_frames_and_not_for_segments(void)
{
    ImpairOptions o = {.loss = 0.5, .seed = 6};
    Impair *im = begin(&o);

    for (unsigned i = 0; i < 20; i++) {
        Frame f = segment_of(50000);

        g_assert_false(impair_pass(im, &f));
    }
    g_assert_cmpuint(port.count[TO_VM].lost + out->len, ==, 1000);
    g_assert_cmpuint(out->len, >, 400);
    g_assert_cmpuint(out->len, <, 600);
    end(im);
}

/* Whose checksum is still to be filled in would else have a right one afterwards. */
static void a_corrupt_frame_has_a_checksum_that_shows_it(void)
{
    ImpairOptions o = {.corrupt = 1, .seed = 7};
    Impair *im = begin(&o);

    for (unsigned i = 0; i < 50; i++) {
        Frame f = segment_of(500);
        g_autofree uint8_t *whole = g_memdup2(f.data, f.len);
        VnetHdr hdr = f.hdr;
        unsigned turned = 0;

        f.hdr.gso_type = VNET_GSO_NONE;
        vnet_finish_checksum(&hdr, whole, f.len);
        g_assert_true(impair_pass(im, &f));
        g_assert_cmphex(f.hdr.flags, ==, 0);
        for (size_t k = 0; k < f.len; k++)
            turned += (unsigned)__builtin_popcount(f.data[k] ^ whole[k]);
        g_assert_cmpuint(turned, ==, 1);
    }
    end(im);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/impair/frames_are_late_and_in_order", frames_are_late_and_in_order);
    g_test_add_func("/impair/what_is_probable_happens_as_often",
                    what_is_probable_happens_as_often);
    g_test_add_func("/impair/nothing_happens_that_was_not_asked_for",
                    nothing_happens_that_was_not_asked_for);
    g_test_add_func("/impair/a_frame_is_overtaken_by_the_next",
                    a_frame_is_overtaken_by_the_next);
    g_test_add_func("/impair/a_seed_repeats_a_run", a_seed_repeats_a_run);
    g_test_add_func("/impair/what_is_held_is_bounded", what_is_held_is_bounded);
    g_test_add_func("/impair/dice_are_thrown_for_frames_and_not_for_segments",
                    dice_are_thrown_for_frames_and_not_for_segments);
    g_test_add_func("/impair/a_corrupt_frame_has_a_checksum_that_shows_it",
                    a_corrupt_frame_has_a_checksum_that_shows_it);
    return g_test_run();
}
