/* Interrupt lines and messages, on a fake controller. */
#include "core/irq.h"

#include "util/fd.h"

typedef struct Fake {
    bool level[IRQ_MAX_GSI];
    unsigned changes, allocated, freed, routed;
    int bound_fd;
    bool refuse_route;
} Fake;

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    Fake *f = opaque;

    f->level[gsi] = level;
    f->changes++;
}

static int msi_alloc(void *opaque, GError **error)
{
    Fake *f = opaque;

    return (int)(100 + f->allocated++);
}

static void msi_free_(void *opaque, int handle)
{
    ((Fake *)opaque)->freed++;
}

static bool route(void *opaque, int handle, uint64_t addr, uint32_t data)
{
    Fake *f = opaque;

    f->routed++;
    return !f->refuse_route;
}

static bool bind_fd(void *opaque, int handle, int fd, bool on)
{
    ((Fake *)opaque)->bound_fd = on ? fd : -1;
    return true;
}

static const IrqOps ops = {set_gsi, msi_alloc, msi_free_, route, bind_fd};

static void a_shared_pin_is_high_while_any_line_is(void)
{
    Fake f = {0};
    IrqController ic;
    IrqLine a, b;

    irq_controller_init(&ic, &ops, &f);
    irq_connect(&a, &ic, 16);
    irq_connect(&b, &ic, 16);
    irq_set(&a, true);
    irq_set(&a, true);
    irq_set(&b, true);
    irq_set(&a, false);
    g_assert_true(f.level[16]);
    irq_set(&b, false);
    g_assert_false(f.level[16]);
    g_assert_cmpuint(f.changes, ==, 2);
}

static void a_line_connected_to_nothing_may_be_set(void)
{
    IrqLine line = {0};
    IrqController ic;

    irq_set(&line, true);
    irq_controller_init(&ic, &ops, NULL);
    irq_connect(&line, &ic, IRQ_MAX_GSI);
    irq_set(&line, true);
}

static void a_message_is_an_eventfd_bound_once_and_rerouted_only_on_change(void)
{
    Fake f = {.bound_fd = -1};
    IrqController ic;
    Msi msi = {0};

    irq_controller_init(&ic, &ops, &f);
    msi_fire(&msi);
    g_assert_true(msi_route(&msi, &ic, 0xfee00000, 0x41));
    g_assert_true(msi_route(&msi, &ic, 0xfee00000, 0x41));
    g_assert_true(msi_route(&msi, &ic, 0xfee00000, 0x42));
    g_assert_cmpuint(f.routed, ==, 2);
    g_assert_cmpuint(f.allocated, ==, 1);
    msi_fire(&msi);
    g_assert_true(fd_event_take(f.bound_fd));
    msi_finish(&msi);
    msi_finish(&msi);
    g_assert_cmpuint(f.freed, ==, 1);
    g_assert_cmpint(f.bound_fd, ==, -1);
}

static void a_message_that_cannot_be_routed_leaves_nothing_behind(void)
{
    Fake f = {.refuse_route = true};
    IrqController ic;
    Msi msi = {0};

    irq_controller_init(&ic, &ops, &f);
    g_assert_false(msi_route(&msi, &ic, 0, 0));
    g_assert_null(msi.ic);
    g_assert_cmpuint(f.freed, ==, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/irq/" #name, name)
    TEST(a_shared_pin_is_high_while_any_line_is);
    TEST(a_line_connected_to_nothing_may_be_set);
    TEST(a_message_is_an_eventfd_bound_once_and_rerouted_only_on_change);
    TEST(a_message_that_cannot_be_routed_leaves_nothing_behind);
    return g_test_run();
}
