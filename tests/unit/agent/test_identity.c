/* The steps of agent/identity.h, run for real: this machine is the guest (fake.c), with
 * its /etc and /var in a folder, and programs before it that touch nothing else. */
#include "agent/identity.h"

#include <glib/gstdio.h>
#include <string.h>

#include "fake.h"

enum { LIMIT_MS = 20000 };

#define UUID "123e4567-e89b-12d3-a456-426614174000"

static char *root;

static char *in_root(const char *file)
{
    return g_build_filename(root, file, NULL);
}

static void put(const char *file, const char *text)
{
    g_autofree char *path = in_root(file), *folder = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_chmod(path, 0700);
}

static char *got(const char *file)
{
    g_autofree char *path = in_root(file);
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

static void is(const char *file, const char *expected)
{
    g_autofree char *text = got(file);

    g_assert_cmpstr(text, ==, expected);
}

static void empty_root(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", root);

    g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
    put("bin/hostname",
        "#!/bin/sh\n[ $# = 0 ] && echo old || echo \"$1\" >\"$ROOT/set\"\n");
    put("bin/perl", "#!/bin/sh\nwc -c >\"$ROOT/seed\"\n");
    put("bin/systemctl", "#!/bin/sh\necho \"$@\" >>\"$ROOT/systemctl\"\n");
    put("bin/ssh-keygen",
        "#!/bin/sh\nwhile [ \"$1\" != -t ]; do shift; done\nkind=$2\n"
        "[ -e \"$ROOT/no-keys\" ] && { echo no keys today >&2; exit 1; }\n"
        "while [ \"$1\" != -f ]; do shift; done\n"
        "echo \"new $kind\" >\"$2\"; echo \"public $kind\" >\"$2.pub\"\n");
    put("etc/hostname", "old\n");
}

static json_t *give(const IdentityMac *macs, unsigned n_macs)
{
    g_autoptr(Fake) f = fake_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(Agent) a = agent_connect(fake_path(f), LIMIT_MS, &error);
    g_autofree char *path = g_strdup_printf("%s/bin:/usr/bin:/bin", root);
    Identity id = {.hostname = "web-7",
                   .uuid = UUID,
                   .macs = macs,
                   .n_macs = n_macs,
                   .root = root,
                   .path = path,
                   .step_ms = LIMIT_MS};
    json_t *steps;

    g_assert_no_error(error);
    steps = identity_give(a, &id, &error);
    g_assert_no_error(error);
    return steps;
}

static const char *result(const json_t *steps, const char *name)
{
    json_t *one;
    size_t i;

    json_array_foreach(
        steps, i,
        one) if (g_str_equal(json_string_value(json_object_get(one, "step")),
                             name)) return json_string_value(json_object_get(one,
                                                                             "result"));
    return "";
}

static void files_that_say_who_a_guest_is_are_its_own_afterwards(void)
{
    json_t *steps;

    empty_root();
    put("etc/hosts", "127.0.0.1 localhost\n127.0.1.1\told old.example\n10.0.0.1 older\n");
    put("etc/machine-id", "00000000000000000000000000000001\n");
    put("var/lib/dbus/machine-id", "00000000000000000000000000000001\n");
    put("var/lib/systemd/random-seed", "stale");
    put("etc/ssh/ssh_host_ed25519_key", "shared");
    put("etc/ssh/ssh_host_ed25519_key.pub", "shared");
    put("etc/ssh/ssh_host_rsa_key", "shared");
    steps = give(NULL, 0);
    is("etc/hostname", "web-7\n");
    is("set", "web-7\n");
    is("etc/hosts",
       "127.0.0.1 localhost\n127.0.1.1\tweb-7 old.example\n10.0.0.1 older\n");
    is("etc/machine-id", "123e4567e89b12d3a456426614174000\n");
    is("var/lib/dbus/machine-id", "123e4567e89b12d3a456426614174000\n");
    is("etc/ssh/ssh_host_ed25519_key", "new ed25519\n");
    is("etc/ssh/ssh_host_ed25519_key.pub", "public ed25519\n");
    is("etc/ssh/ssh_host_rsa_key", "new rsa\n");
    is("etc/ssh/ssh_host_rsa_key.new", NULL);
    is("systemctl", "try-restart ssh.service sshd.service\n");
    is("seed", "64\n");
    {
        g_autofree char *path = in_root("var/lib/systemd/random-seed");
        GStatBuf st;

        g_assert_cmpint(g_stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, 512);
    }
    for (unsigned i = 0; i < 4; i++)
        g_assert_cmpstr(result(steps, ((const char *[]){"entropy", "hostname",
                                                        "machine-id", "ssh-keys"})[i]),
                        ==, "done");
    g_assert_cmpstr(result(steps, "network"), ==, "absent");
    json_decref(steps);
}

static void what_a_guest_has_not_is_absent_and_not_made(void)
{
    json_t *steps;

    empty_root();
    steps = give(NULL, 0);
    g_assert_cmpstr(result(steps, "machine-id"), ==, "absent");
    g_assert_cmpstr(result(steps, "ssh-keys"), ==, "absent");
    is("etc/machine-id", NULL);
    is("etc/hosts", NULL);
    json_decref(steps);
}

static void a_step_that_fails_says_why_and_the_others_are_done(void)
{
    const IdentityMac macs[] = {{"02:00:00:00:00:01", "02:00:00:00:00:02"}};
    g_autofree char *failures = NULL;
    json_t *steps;

    empty_root();
    put("no-keys", "");
    put("etc/ssh/ssh_host_ed25519_key", "shared");
    put("etc/machine-id", "x\n");
    steps = give(macs, 1); /* this machine has no such card */
    g_assert_cmpstr(result(steps, "ssh-keys"), ==, "failed");
    g_assert_cmpstr(result(steps, "network"), ==, "failed");
    g_assert_cmpstr(result(steps, "machine-id"), ==, "done");
    failures = identity_failures(steps);
    g_assert_nonnull(strstr(failures, "ssh-keys: no keys today"));
    g_assert_nonnull(
        strstr(failures, "network: no card has the address 02:00:00:00:00:01"));
    g_assert_nonnull(strstr(failures, "clock: ")); /* the fake has none */
    is("etc/ssh/ssh_host_ed25519_key", "shared");
    json_decref(steps);
}

static void a_card_that_keeps_its_address_is_left_alone(void)
{
    const IdentityMac macs[] = {{"02:00:00:00:00:01", "02:00:00:00:00:01"}};
    json_t *steps;

    empty_root();
    steps = give(macs, 1);
    g_assert_cmpstr(result(steps, "network"), ==, "absent");
    json_decref(steps);
}

static void a_vm_name_becomes_a_host_name(void)
{
    static const char *const names[][2] = {{"web-7", "web-7"},
                                           {"Web_7 b", "web-7-b"},
                                           {"..--x--", "x"},
                                           {"\303\251\303\251", "clone"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *name = identity_hostname(names[i][0]);

        g_assert_cmpstr(name, ==, names[i][1]);
    }
}

int main(int argc, char **argv)
{
    g_autofree char *command = NULL;
    int status;

    g_test_init(&argc, &argv, NULL);
    root = g_dir_make_tmp("hutch-identity-XXXXXX", NULL);
#define T(fn) g_test_add_func("/identity/" #fn, fn)
    T(files_that_say_who_a_guest_is_are_its_own_afterwards);
    T(what_a_guest_has_not_is_absent_and_not_made);
    T(a_step_that_fails_says_why_and_the_others_are_done);
    T(a_card_that_keeps_its_address_is_left_alone);
    T(a_vm_name_becomes_a_host_name);
    status = g_test_run();
    command = g_strdup_printf("rm -rf '%s'", root);
    g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL);
    g_free(root);
    return status;
}
