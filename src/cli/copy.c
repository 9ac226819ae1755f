/* hutch cp, put and get: files between here and a guest, by its agent. */
#include <signal.h>
#include <string.h>

#include "src/cli/agent.h"
#include "src/cli/copy_private.h"

enum { MAX_SAID = 65536, SCRIPT_MS = 3600 * 1000 };

static const ParamDesc copy_desc[] = {IMAGE_ARG_QUIET, IMAGE_ARG_PROGRESS, {0}};
const ParamTable copy_args = {.size = sizeof(ImageArgs), .desc = copy_desc};

const char copy_about[] =
    "A file or a folder with all that is in it.  Where the destination is a folder, it "
    "goes there under its own name.  A file is written under another name and takes its "
    "own when it is complete; a folder must not be there yet.  Permission bits are kept; "
    "owners are not.  A folder needs tar in the guest.";

/* ---- scripts --------------------------------------------------------------------------
 */

typedef struct Said {
    GString *out, *err;
} Said;

static bool on_output(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    Said *said = opaque;
    GString *to = fd == 1 ? said->out : said->err;

    if (!to) /* what nobody asked for is dropped */
        return true;
    if (len > MAX_SAID - to->len)
        return fail(error, VM_ERROR_CORRUPT, "the guest says too much");
    g_string_append_len(to, data, (gssize)len);
    return true;
}

bool copy_script(Copy *c, GString *out, GError **error, const char *script, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GString) err = g_string_new(NULL);
    g_autofree char *why = NULL;
    Said said = {out, err};
    AgentExec x = {.output = on_output,
                   .stop = interrupt_stop,
                   .timeout_ms = SCRIPT_MS,
                   .opaque = &said};
    bool timed_out;
    va_list ap;
    int status;

    g_ptr_array_add(argv, (char *)"sh");
    g_ptr_array_add(argv, (char *)"-c");
    g_ptr_array_add(argv, (char *)script);
    g_ptr_array_add(argv, (char *)"sh");
    va_start(ap, script);
    do
        g_ptr_array_add(argv, va_arg(ap, char *));
    while (g_ptr_array_index(argv, argv->len - 1));
    va_end(ap);
    x.argv = (const char *const *)argv->pdata;
    if (!agent_exec(c->agent, &x, &status, &timed_out, error))
        return false;
    why = agent_text(g_strchomp(err->str));
    return (status == 0 && !timed_out) || fail(error, VM_ERROR_IO, "VM '%s': %s", c->vm,
                                               *why ? why : "the guest could not do it");
}

bool copy_interrupted(GError **error)
{
    return interrupt_signal() && !interrupt_fail(error);
}

/* ---- the verbs ------------------------------------------------------------------------
 */

typedef bool Direction(Copy *c, const char *from, const char *to, GError **error);

static bool copy(Direction *direction, const ImageArgs *args, const char *vm,
                 const char *from, const char *to, GError **error)
{
    const char *there = direction == copy_put ? to : from;
    Copy c = {.args = args, .vm = vm};
    bool ok;

    if (*there != '/')
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a path in the guest, and those begin with '/'", there);
    interrupt_watch();
    g_snprintf(c.suffix, sizeof(c.suffix), ".hutch-%08x", g_random_int());
    c.agent = agent_connect(vm, CLI_AGENT_MS, error);
    if (!c.agent)
        return false;
    ok = direction(&c, from, to, error);
    agent_free(c.agent);
    return ok;
}

bool put_act(void *options, char **names, int *status, GError **error)
{
    return copy(copy_put, options, names[0], names[1], names[2], error);
}

bool get_act(void *options, char **names, int *status, GError **error)
{
    return copy(copy_get, options, names[0], names[1], names[2] ? names[2] : ".", error);
}

/* "VM:/path"; a colon behind a '/' belongs to a file here.  NULL: it is one. */
static char *split(const char *name, const char **ret_path)
{
    size_t len = strcspn(name, ":/");

    if (!len || name[len] != ':')
        return NULL;
    *ret_path = name + len + 1;
    return g_strndup(name, len);
}

bool cp_act(void *options, char **names, int *status, GError **error)
{
    const char *from = NULL, *to = NULL;
    g_autofree char *from_vm = split(names[0], &from);
    g_autofree char *to_vm = split(names[1], &to);

    if (!from_vm == !to_vm)
        return fail(error, VM_ERROR_INVALID,
                    "one of '%s' and '%s' has to be in a guest: VM:/PATH", names[0],
                    names[1]);
    if (to_vm)
        return copy(copy_put, options, to_vm, names[0], to, error);
    return copy(copy_get, options, from_vm, from, names[1], error);
}
