/* Picks the test that the command line names, runs it, and ends the run with its verdict.
 */
#include "payload.h"

static const Test *const groups[] = {
    tests_basic,     tests_smp,        tests_pci,     tests_blk,   tests_blk_bench,
    tests_verify,    tests_net,        tests_console, tests_rng,   tests_hostile,
    tests_snapshot,  tests_count,      tests_clone,   tests_touch, tests_station,
    tests_net_speed, tests_net_queues,
};

/* Entered from start.S. */
void payload_main(void)
{
    interrupts_init();
    boot_read();

    const char *name = arg_text("test", "hello");
    for (unsigned i = 0; i < ARRAY_SIZE(groups); i++) {
        for (const Test *t = groups[i]; t->name; t++) {
            if (!text_equal(t->name, name))
                continue;
            t->run();
            print("PASS %s\n", name);
            while (arg_number("stay", 0)) /* for who looks at the monitor from outside */
                pause();
            machine_exit((unsigned)arg_number("exit", 0));
        }
    }
    fail("no such test");
}
