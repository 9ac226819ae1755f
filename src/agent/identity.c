/* See agent/identity.h.  A step is a script for the shell of the guest; it ends with
 * status ABSENT where there is nothing to be done.  The order counts: keys are made after
 * the new entropy has come, and the network asks for its lease with the new machine-id.
 *
 * Nothing that is put into a script has to be quoted: it comes in the environment, as
 *     NAME   the host name
 *     ID     the machine-id, 32 hexadecimal digits
 *     MACS   OLD=NEW, one for each card that has another address now
 *     ROOT   empty */
#include "agent/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { ABSENT = 3, SEED_SIZE = 64, MAX_DETAIL = 2048, MAX_HOSTNAME = 63 };

typedef struct Step {
    const char *name;
    const char *script; /* NULL: the clock, which the agent sets by itself */
    bool seeded;        /* it reads SEED_SIZE random bytes of the host's */
} Step;

/* Who may use perl, part of each Debian, has the bytes counted as entropy and the
 * generator reseeded at once (random(4): RNDADDENTROPY, RNDRESEEDCRNG); for the others
 * they are mixed in.  The seed that is kept for the next boot was the sibling's, too. */
static const char entropy_script[] =
    "set -e\n"
    "kept=$ROOT/var/lib/systemd/random-seed\n"
    "if command -v perl >/dev/null 2>&1; then\n"
    "    perl -e 'read(STDIN, $b, 64) == 64 && open(F, \"+>\", \"/dev/urandom\")\n"
    "        && ioctl(F, 0x40085203, pack(\"iia*\", 512, 64, $b))\n"
    "        && (ioctl(F, 0x5207, 0) || 1) or die \"the kernel takes no entropy: "
    "$!\\n\"'\n"
    "else\n"
    "    cat >/dev/urandom\n"
    "fi\n"
    "if [ -f \"$kept\" ]; then head -c 512 /dev/urandom >\"$kept\"; fi\n";

static const char hostname_script[] =
    "set -e\n"
    "old=$(hostname)\n"
    "hostname \"$NAME\"\n"
    "printf '%s\\n' \"$NAME\" >\"$ROOT/etc/hostname\"\n"
    "if [ -f \"$ROOT/etc/hosts\" ] && [ -n \"$old\" ]; then\n"
    "    tab=$(printf '\\t')\n"
    "    text=$(sed \"s/\\([ $tab]\\)$old\\([ $tab]\\|\\$\\)/\\1$NAME\\2/g\" "
    "\"$ROOT/etc/hosts\")\n"
    "    printf '%s\\n' \"$text\" >\"$ROOT/etc/hosts\"\n"
    "fi\n";

static const char machine_id_script[] =
    "set -e\n"
    "file=$ROOT/etc/machine-id bus=$ROOT/var/lib/dbus/machine-id\n"
    "[ -e \"$file\" ] || [ -e \"$bus\" ] || exit 3\n"
    "if [ -e \"$file\" ]; then printf '%s\\n' \"$ID\" >\"$file\"; fi\n"
    "if [ -f \"$bus\" ] && [ ! -L \"$bus\" ]; then printf '%s\\n' \"$ID\" >\"$bus\"; "
    "fi\n";

/* A new key takes its place when it is whole. */
static const char ssh_keys_script[] =
    "set -e\n"
    "found=\n"
    "for key in \"$ROOT\"/etc/ssh/ssh_host_*_key; do\n"
    "    [ -f \"$key\" ] || continue\n"
    "    found=1 type=${key##*/ssh_host_} type=${type%_key}\n"
    "    rm -f \"$key.new\" \"$key.new.pub\"\n"
    "    ssh-keygen -q -t \"$type\" -N '' -C \"root@$NAME\" -f \"$key.new\" </dev/null\n"
    "    mv -f \"$key.new.pub\" \"$key.pub\"\n"
    "    mv -f \"$key.new\" \"$key\"\n"
    "done\n"
    "[ -n \"$found\" ] || exit 3\n"
    "if command -v systemctl >/dev/null 2>&1; then\n"
    "    systemctl try-restart ssh.service sshd.service >/dev/null 2>&1 || true\n"
    "fi\n";

/* The address is changed with the card up where its driver can (Linux's can), so that
 * routes stay.  Then whoever got the lease is to ask for another. */
static const char network_script[] =
    "[ -n \"$MACS\" ] || exit 3\n"
    "running() { command -v pidof >/dev/null 2>&1 && pidof \"$1\" >/dev/null 2>&1; }\n"
    "active() { command -v systemctl >/dev/null 2>&1 && systemctl -q is-active \"$1\"; "
    "}\n"
    "renew() {\n"
    "    if active systemd-networkd; then\n"
    "        systemctl restart systemd-networkd\n"
    "    elif active NetworkManager; then\n"
    "        nmcli device reapply \"$1\"\n"
    "    elif running dhclient; then\n"
    "        dhclient -r \"$1\"; dhclient -nw \"$1\"\n"
    "    elif running dhcpcd; then\n"
    "        dhcpcd -n \"$1\"\n"
    "    elif running udhcpc; then\n"
    "        pid=$(pidof udhcpc); kill -USR2 $pid; sleep 1; kill -USR1 $pid\n"
    "    fi\n"
    "}\n"
    "failed=0\n"
    "for pair in $MACS; do\n"
    "    old=${pair%=*} new=${pair#*=} found=\n"
    "    for card in /sys/class/net/*; do\n"
    "        [ -e \"$card/device\" ] && [ \"$(cat \"$card/address\")\" = \"$old\" ] || "
    "continue\n"
    "        found=1 name=${card##*/} up=$(($(cat \"$card/flags\") & 1))\n"
    "        ip link set dev \"$name\" address \"$new\" 2>/dev/null || {\n"
    "            ip link set dev \"$name\" down && ip link set dev \"$name\" address "
    "\"$new\" &&\n"
    "                { [ $up = 0 ] || ip link set dev \"$name\" up; }\n"
    "        } || failed=1\n"
    "        [ $up = 0 ] || renew \"$name\" || failed=1\n"
    "    done\n"
    "    [ -n \"$found\" ] || { echo \"no card has the address $old\" >&2; failed=1; }\n"
    "done\n"
    "exit $failed\n";

static const Step steps[] = {
    {"entropy", entropy_script, true},    {"clock", NULL, false},
    {"hostname", hostname_script, false}, {"machine-id", machine_id_script, false},
    {"ssh-keys", ssh_keys_script, false}, {"network", network_script, false},
};

char *identity_hostname(const char *vm)
{
    GString *out = g_string_new(NULL);

    for (const char *p = vm; *p && out->len < MAX_HOSTNAME; p++) {
        if (g_ascii_isalnum(*p))
            g_string_append_c(out, g_ascii_tolower(*p));
        else if (out->len && out->str[out->len - 1] != '-')
            g_string_append_c(out, '-');
    }
    while (out->len && out->str[out->len - 1] == '-')
        g_string_truncate(out, out->len - 1);
    if (!out->len)
        g_string_assign(out, "clone");
    return g_string_free(out, FALSE);
}

/* ---- one step -------------------------------------------------------------------------
 */

typedef struct Outcome {
    const char *result;
    GString *said;
} Outcome;

static bool on_output(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    Outcome *o = opaque;

    g_string_append_len(o->said, data, (gssize)MIN(len, MAX_DETAIL - o->said->len));
    return true;
}

static void set_failed(Outcome *o, const char *text)
{
    o->result = "failed";
    if (text)
        g_string_assign(o->said, text);
}

static char **make_environment(const Identity *id)
{
    g_autofree char *digits = g_strdup(id->uuid);
    GPtrArray *env = g_ptr_array_new();
    GString *macs = g_string_new("MACS=");
    char *to = digits;

    for (const char *from = id->uuid; *from; from++)
        if (*from != '-')
            *to++ = *from;
    *to = '\0';
    for (unsigned i = 0; i < id->n_macs; i++)
        if (strcmp(id->macs[i].now, id->macs[i].own) != 0)
            g_string_append_printf(macs, "%s%s=%s",
                                   macs->str[macs->len - 1] != '=' ? " " : "",
                                   id->macs[i].now, id->macs[i].own);
    g_ptr_array_add(env, g_strdup_printf("NAME=%s", id->hostname));
    g_ptr_array_add(env, g_strdup_printf("ID=%s", digits));
    g_ptr_array_add(env, g_string_free(macs, FALSE));
    g_ptr_array_add(env, g_strdup_printf("ROOT=%s", id->root ? id->root : ""));
    if (id->path)
        g_ptr_array_add(env, g_strdup_printf("PATH=%s", id->path));
    g_ptr_array_add(env, NULL);
    return (char **)g_ptr_array_free(env, FALSE);
}

static bool random_bytes(uint8_t *buf, size_t len, GError **error)
{
    ssize_t n;

    do
        n = getrandom(buf, len, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)len || fail_errno(error, "random bytes for the guest");
}

static void run_script(Agent *a, const Step *step, const Identity *id, char **env,
                       Outcome *o)
{
    const char *argv[] = {"/bin/sh", "-c", step->script, NULL};
    uint8_t seed[SEED_SIZE];
    AgentExec x = {.argv = argv,
                   .env = (const char *const *)env,
                   .timeout_ms = id->step_ms,
                   .input = step->seeded ? seed : NULL,
                   .input_len = step->seeded ? sizeof(seed) : 0,
                   .output = on_output,
                   .opaque = o};
    g_autoptr(GError) error = NULL;
    bool timed_out = false;
    int status = 0;

    if ((step->seeded && !random_bytes(seed, sizeof(seed), &error)) ||
        !agent_exec(a, &x, &status, &timed_out, &error)) {
        set_failed(o, error->message);
    } else if (timed_out) {
        set_failed(o, "it took too long");
    } else if (status == ABSENT) {
        o->result = "absent";
    } else if (status) {
        if (!o->said->len)
            g_string_printf(o->said, "status %d", status);
        set_failed(o, NULL);
    }
    explicit_bzero(seed, sizeof(seed));
}

static json_t *do_step(Agent *a, const Step *step, const Identity *id, char **env)
{
    Outcome o = {.result = "done", .said = g_string_new(NULL)};
    g_autoptr(GError) error = NULL;
    g_autofree char *detail = NULL;
    json_t *ret;

    if (step->script)
        run_script(a, step, id, env, &o);
    else if (!agent_set_clock(a, &error))
        set_failed(&o, error->message);
    ret = json_pack("{s:s, s:s}", "step", step->name, "result", o.result);
    detail = agent_text(g_strchomp(o.said->str));
    if (*detail && g_str_equal(o.result, "failed"))
        json_object_set_new(ret, "detail", json_string(detail));
    g_string_free(o.said, TRUE);
    return ret;
}

json_t *identity_give(Agent *a, const Identity *id, GError **error)
{
    g_auto(GStrv) env = make_environment(id);
    json_t *all = json_array(), *alive;

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++)
        json_array_append_new(all, do_step(a, &steps[i], id, env));
    alive = agent_call(a, "guest-ping", NULL, error);
    if (!alive) {
        json_decref(all);
        return NULL;
    }
    json_decref(alive);
    return all;
}

char *identity_failures(const json_t *list)
{
    GString *out = g_string_new(NULL);
    json_t *one;
    size_t i;

    json_array_foreach(list, i, one)
    {
        const char *detail = json_string_value(json_object_get(one, "detail"));

        if (!g_str_equal(json_string_value(json_object_get(one, "result")), "failed"))
            continue;
        g_string_append_printf(out, "%s%s: %s", out->len ? "; " : "",
                               json_string_value(json_object_get(one, "step")),
                               detail ? detail : "failed");
    }
    if (out->len)
        return g_string_free(out, FALSE);
    g_string_free(out, TRUE);
    return NULL;
}
