/* The event loop: posts, calls, timers, watches. */
#include "util/ioloop.h"

#include <string.h>

#include "util/fd.h"

static void count(void *opaque)
{
    ++*(int *)opaque;
}

static void quit(void *opaque)
{
    ioloop_quit(opaque);
}

static void a_call_returns_after_the_function_ran_on_the_loops_thread(void)
{
    g_autoptr(IoLoop) loop = ioloop_start("test", NULL);
    int n = 0;

    for (int i = 0; i < 1000; i++)
        ioloop_call(loop, count, &n);
    g_assert_cmpint(n, ==, 1000);
    g_assert_false(ioloop_on(loop));
}

static void a_call_to_a_loop_that_does_not_run_is_a_plain_call(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    int n = 0;

    ioloop_call(loop, count, &n);
    g_assert_cmpint(n, ==, 1);
}

static void a_post_that_is_queued_is_not_queued_twice(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    int n = 0;
    IoPost post = {.fn = count, .opaque = &n}, stop = {.fn = quit, .opaque = loop};

    ioloop_post(loop, &post);
    ioloop_post(loop, &post);
    ioloop_post(loop, &stop);
    ioloop_run(loop);
    g_assert_cmpint(n, ==, 1);
    ioloop_post(loop, &post);
    ioloop_post(loop, &stop);
    ioloop_run(loop);
    g_assert_cmpint(n, ==, 2);
}

typedef struct Order {
    char text[8];
    int n;
    IoLoop *loop;
} Order;

static Order order;

static void first(void *opaque)
{
    order.text[order.n++] = 'a';
}

static void second(void *opaque)
{
    order.text[order.n++] = 'b';
    ioloop_quit(order.loop);
}

static void cancelled(void *opaque)
{
    order.text[order.n++] = 'x';
}

static void timers_run_in_the_order_of_their_deadlines(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    IoTimer a = {0}, b = {0}, c = {0};
    int64_t now = clock_ns();

    order = (Order){.loop = loop};
    ioloop_timer(loop, &b, now + 2000000, second, NULL);
    ioloop_timer(loop, &c, now + 1500000, cancelled, NULL);
    ioloop_timer(loop, &a, now + 1000000, first, NULL);
    ioloop_timer_cancel(&c);
    ioloop_run(loop);
    g_assert_cmpstr(order.text, ==, "ab");
    g_assert_cmpint(clock_ns() - now, >=, 2000000);
}

typedef struct Soon {
    IoLoop *loop;
    IoTimer timer;
    _Atomic unsigned n;
} Soon;

enum { SOON_TIMES = 20000 };

/* Again after 0 to 2 us: while the loop works out how long to sleep, that is over. */
static void on_soon(void *opaque)
{
    Soon *s = opaque;

    if (++s->n < SOON_TIMES)
        ioloop_timer(s->loop, &s->timer, clock_ns() + s->n * 7 % 2000, on_soon, s);
}

static void a_timer_that_expires_while_the_loop_goes_to_sleep_still_runs(void)
{
    Soon s = {.loop = ioloop_start("soon", NULL)};
    int64_t end = clock_ns() + 60000000000;

    ioloop_call(s.loop, on_soon, &s);
    while (s.n < SOON_TIMES && clock_ns() < end)
        g_usleep(1000);
    g_assert_cmpuint(s.n, ==, SOON_TIMES);
    ioloop_free(s.loop);
}

typedef struct Pair {
    IoLoop *loop;
    IoWatch watch[2];
    int fd[2];
    int calls;
} Pair;

static void unwatch_the_other(void *opaque, uint32_t events)
{
    Pair *p = opaque;

    p->calls++;
    ioloop_unwatch(&p->watch[0]);
    ioloop_unwatch(&p->watch[1]);
    ioloop_quit(p->loop);
}

static void a_watch_taken_off_gets_no_event_of_the_same_batch(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    Pair p = {.loop = loop};

    for (int i = 0; i < 2; i++) {
        p.fd[i] = fd_event(NULL);
        fd_event_signal(p.fd[i]);
        g_assert_true(ioloop_watch(loop, &p.watch[i], p.fd[i], EPOLLIN, unwatch_the_other,
                                   &p, NULL));
    }
    ioloop_run(loop);
    g_assert_cmpint(p.calls, ==, 1);
    close(p.fd[0]);
    close(p.fd[1]);
}

typedef struct Posts {
    IoLoop *loop;
    IoPost post[3];
    unsigned ran;
} Posts;

static void unpost_the_others(void *opaque)
{
    Posts *p = opaque;

    p->ran++;
    for (unsigned i = 0; i < G_N_ELEMENTS(p->post); i++)
        ioloop_unpost(p->loop, &p->post[i]);
    ioloop_quit(p->loop);
}

static void a_post_that_was_taken_back_does_not_run(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    Posts p = {.loop = loop};

    for (unsigned i = 0; i < G_N_ELEMENTS(p.post); i++) {
        p.post[i] = (IoPost){.fn = unpost_the_others, .opaque = &p};
        ioloop_post(loop, &p.post[i]);
    }
    ioloop_run(loop);
    g_assert_cmpuint(p.ran, ==, 1); /* the others were in the same batch */
    ioloop_post(loop, &p.post[0]);
    ioloop_unpost(loop, &p.post[0]);
    ioloop_unpost(loop, &p.post[0]);
    ioloop_post(loop, &p.post[1]);
    ioloop_run(loop);
    g_assert_cmpuint(p.ran, ==, 2);
    g_assert_false(p.post[0].queued);
}

static bool poll_three_times(void *opaque)
{
    int *n = opaque;

    return ++*n < 3;
}

static void the_loop_does_not_sleep_while_a_poller_finds_work(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    int n = 0;
    IoPoller poller = {.fn = poll_three_times, .opaque = &n};
    IoTimer timer = {0};

    ioloop_poller_add(loop, &poller);
    ioloop_timer(loop, &timer, clock_ns() + 5000000, quit, loop);
    ioloop_run(loop);
    ioloop_poller_remove(loop, &poller);
    g_assert_cmpint(n, ==, 3);
}

static void a_file_that_cannot_be_watched_is_an_error_with_its_number(void)
{
    g_autoptr(IoLoop) loop = ioloop_new(NULL);
    g_autoptr(GError) error = NULL;
    IoWatch watch = {0};

    g_assert_false(
        ioloop_watch(loop, &watch, 9999, EPOLLIN, unwatch_the_other, NULL, &error));
    g_assert_nonnull(strstr(error->message, "9999"));
    ioloop_unwatch(&watch);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/ioloop/" #name, name)
    TEST(a_call_returns_after_the_function_ran_on_the_loops_thread);
    TEST(a_call_to_a_loop_that_does_not_run_is_a_plain_call);
    TEST(a_post_that_is_queued_is_not_queued_twice);
    TEST(timers_run_in_the_order_of_their_deadlines);
    TEST(a_timer_that_expires_while_the_loop_goes_to_sleep_still_runs);
    TEST(a_watch_taken_off_gets_no_event_of_the_same_batch);
    TEST(a_post_that_was_taken_back_does_not_run);
    TEST(the_loop_does_not_sleep_while_a_poller_finds_work);
    TEST(a_file_that_cannot_be_watched_is_an_error_with_its_number);
    return g_test_run();
}
