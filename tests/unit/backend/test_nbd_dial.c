/* src/block: how NBD servers are named, reached and trusted. */
#include "tests/unit/backend/nbd_work.h"

/* ---- URIs ----------------------------------------------------------------------------
 */

static void what_is_wrong_with_a_uri_is_told(void)
{
    static const struct {
        const char *uri, *needle;
    } wrong[] = {
        {"nbd+unix:///x", "?socket=PATH"},
        {"nbd+unix:///x?socket=", "has no value"},
        {"nbd+unix:///x?socket=/no/such&tls-psk-file=k", "begin the URI with nbds"},
        {"nbd+unix:///x?socket=/no/such&reconect=1", "unknown query parameter 'reconect"},
        {"nbd+unix:///x?socket=/no/such&reconnect=soon", "not a number of seconds"},
        {"nbd+unix:///x?socket=/no/such&reconnect=99999999", "not a number of seconds"},
        {"nbds+unix:///x?socket=/no/such&tls-verify-peer=perhaps", "neither on nor off"},
        {"nbd+unix:///x?socket=/no/such&socket=/no/such", "socket is given twice"},
        {"nbd+unix:///x?socket=/no/such;reconnect=1", "write ; as %3B"},
        {"nbds://localhost/x", "nothing says which server to trust"},
        {"nbds+unix:///x?socket=/no/such", "nothing says which server to trust"},
        {"nbds://localhost/x?tls-certificates=/no/such", "'/no/such/ca-cert.pem'"},
        {"nbd+unix:///x?socket=/no/such", "No such file"},
        {"nbd://127.0.0.1:1/x", "Connection refused"},
        {"nbd://", "'nbd://'"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++)
        refused(wrong[i].uri, false, wrong[i].needle);
}

/* ---- transports ----------------------------------------------------------------------
 */

static void tcp_serves_as_well(void)
{
    g_autofree char *port = g_strdup_printf("%u", free_port());
    g_autofree char *uri = g_strdup_printf("nbd://127.0.0.1:%s/some/name", port);
    g_autofree char *other = g_strdup_printf("nbd://127.0.0.1:%s/another", port);
    NbdServer s;

    if (!have_programs("qemu-nbd", NULL))
        return;
    server_start(&s, DISK, QEMU_NBD, "-b", "127.0.0.1", "-p", port, "-x", "some/name",
                 "@/disk", NULL);
    random_requests(uri);
    refused(other, false, "another");
    server_end(&s);
}

static void make_keys(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    char *argv[] = {(char *)"psktool", (char *)"-u", (char *)"alice",
                    (char *)"-p",      path,         NULL};
    int status;

    g_assert_true(g_spawn_sync(NULL, argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                               NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

static void tls_needs_the_right_key(void)
{
    g_autofree char *right = NULL, *wrong = NULL, *stranger = NULL, *plain = NULL;
    g_autofree char *missing = NULL;
    NbdServer s;

    if (!have_programs("nbdkit", "psktool"))
        return;
    server_prepare(&s, DISK);
    make_keys(s.dir, "keys");
    make_keys(s.dir, "other");
    server_change(&s, NBDKIT, "-U", "@/sock", "--tls=require", "--tls-psk=@/keys", "file",
                  "@/disk", NULL);
    right = g_strdup_printf("nbds+unix://alice@/?socket=%s/sock&tls-psk-file=%s/keys",
                            s.dir, s.dir);
    wrong = g_strdup_printf("nbds+unix://alice@/?socket=%s/sock&tls-psk-file=%s/other",
                            s.dir, s.dir);
    stranger = g_strdup_printf("nbds+unix://bob@/?socket=%s/sock&tls-psk-file=%s/keys",
                               s.dir, s.dir);
    missing = g_strdup_printf("nbds+unix://alice@/?socket=%s/sock&tls-psk-file=%s/no",
                              s.dir, s.dir);
    plain = server_uri(&s, "nbd+unix", "");
    random_requests(right);
    refused(wrong, false, "gnutls");
    refused(stranger, false, "bob");
    refused(missing, false, "No such file");
    refused(plain, false, "TLS");
    server_change(&s, NBDKIT, "-U", "@/sock", "memory", "4M", NULL);
    refused(right, false, "TLS");
    server_end(&s);
}

/* An authority, and a certificate of it for a server by the name "localhost". */
static void make_certificates(const char *dir)
{
    static const char script[] =
        "cd \"$0\"; exec 2>/dev/null\n"
        "printf 'cn = test\\nca\\ncert_signing_key\\n' >ca.info\n"
        "printf 'cn = localhost\\ndns_name = localhost\\ntls_www_server\\n"
        "encryption_key\\nsigning_key\\n' >server.info\n"
        "certtool --generate-privkey --ecc --outfile=ca-key.pem\n"
        "certtool --generate-self-signed --load-privkey=ca-key.pem --template=ca.info "
        "--outfile=ca-cert.pem\n"
        "certtool --generate-privkey --ecc --outfile=server-key.pem\n"
        "certtool --generate-certificate --load-ca-certificate=ca-cert.pem "
        "--load-ca-privkey=ca-key.pem --load-privkey=server-key.pem "
        "--template=server.info --outfile=server-cert.pem\n";
    const char *argv[] = {"sh", "-ec", script, dir, NULL};
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                               NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

static void a_server_must_be_who_it_says(void)
{
    g_autofree char *port = g_strdup_printf("%u", free_port());
    g_autofree char *right = NULL, *wrong = NULL, *unknown = NULL, *unchecked = NULL;
    char *other = new_dir();
    NbdServer s;

    if (!have_programs("nbdkit", "certtool"))
        return;
    server_prepare(&s, DISK);
    make_certificates(s.dir);
    make_certificates(other);
    server_change(&s, NBDKIT, "-i", "127.0.0.1", "-p", port, "--tls=require",
                  "--tls-certificates=@", "file", "@/disk", NULL);
    right = g_strdup_printf("nbds://localhost:%s/?tls-certificates=%s", port, s.dir);
    wrong = g_strdup_printf("nbds://127.0.0.1:%s/?tls-certificates=%s", port, s.dir);
    unknown = g_strdup_printf("nbds://localhost:%s/?tls-certificates=%s", port, other);
    unchecked = g_strdup_printf("%s&tls-verify-peer=off", wrong);
    random_requests(right);
    refused(wrong, false, "certificate");
    refused(unknown, false, "certificate");
    block_file_close(open_disk(unchecked, false));
    server_end(&s);
    remove_dir(other);
}

static void qemus_tls_serves_as_well(void)
{
    g_autofree char *uri = NULL;
    NbdServer s;

    if (!have_programs("qemu-nbd", "psktool"))
        return;
    server_prepare(&s, DISK);
    make_keys(s.dir, "keys.psk"); /* QEMU's name for it */
    server_change(&s, QEMU_NBD, "-k", "@/sock", "--tls-creds=t", "--object",
                  "tls-creds-psk,id=t,endpoint=server,dir=@", "@/disk", NULL);
    uri = g_strdup_printf("nbds+unix://alice@/?socket=%s/sock&tls-psk-file=%s/keys.psk",
                          s.dir, s.dir);
    random_requests(uri);
    server_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/nbd_dial/" #fn, fn)
    T(what_is_wrong_with_a_uri_is_told);
    T(tcp_serves_as_well);
    T(tls_needs_the_right_key);
    T(a_server_must_be_who_it_says);
    T(qemus_tls_serves_as_well);
#undef T
    return g_test_run();
}
