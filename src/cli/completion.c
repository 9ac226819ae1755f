/* Completion for bash, zsh and fish: the words come from the option tables, the names of
 * images from `hutch run`. */

#include "src/cli/cli.h"

static char *verb_words(void)
{
    GString *out = g_string_new(NULL);

    for (const Verb *v = verbs; v->name; v++)
        if (!v->hidden)
            g_string_append_printf(out, "%s%s", out->len ? " " : "", v->name);
    return g_string_free(out, FALSE);
}

static char *choice_words(const ParamDesc *d, const char *separator)
{
    return d->type == PARAM_ENUM ? g_strjoinv(separator, (char **)d->choices)
                                 : g_strdup("");
}

/* What a value may begin with: the bare key's choices, then KEY=. */
static char *value_words(const ConfigOption *o)
{
    GString *out = g_string_new(NULL);
    const ParamDesc *first = o->scalar ? o->scalar : o->table->desc;
    g_autofree char *choices = choice_words(first, " ");

    g_string_append(out, choices);
    for (const ParamDesc *d = o->table ? o->table->desc : NULL; d && d->key; d++)
        g_string_append_printf(out, "%s%s%s", out->len ? " " : "", d->key,
                               d->type == PARAM_BOOL ? "" : "=");
    return g_string_free(out, FALSE);
}

static bool wants_file(const ConfigOption *o)
{
    const ParamDesc *first = o->scalar ? o->scalar : o->table ? o->table->desc : NULL;

    return first && first->type == PARAM_PATH;
}

/* ---- bash -----------------------------------------------------------------------------
 */

/* bash splits words at '=' and ':', which our lists of KEY=VALUE have inside, so the word
 * under the cursor is cut from the line, and from each answer what bash has as a word
 * before it. */
static const char bash_head[] =
    "# bash completion for hutch\n_hutch()\n{\n"
    "    local line=${COMP_LINE:0:COMP_POINT} cur prev shown words= files= prefix=\n"
    "    local -a before\n"
    "    cur=${line##*[[:space:]]}\n"
    "    read -ra before <<<\"${line%\"$cur\"}\"\n"
    "    prev=${before[${#before[@]}-1]}\n"
    "    COMPREPLY=()\n";

static const char bash_tail[] =
    "    esac\n"
    "    [[ $cur == *[=,]* && $cur != --* && $cur != path=* ]] && files=\n"
    "    [[ $cur == *,* ]] && prefix=${cur%,*},\n"
    "    COMPREPLY=($(compgen -P \"$prefix\" -W \"$words\" -- \"${cur##*,}\"))\n"
    "    [[ $files ]] && COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
    "    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2>/dev/null\n"
    "    shown=${cur%\"${cur##*[=:]}\"}\n"
    "    COMPREPLY=(\"${COMPREPLY[@]#\"$shown\"}\")\n"
    "    return 0\n}\n"
    "complete -o filenames -F _hutch hutch\n";

static char *bash(void)
{
    GString *out = g_string_new(bash_head);
    g_autofree char *all_verbs = verb_words();

    g_string_append_printf(
        out,
        "    if ((${#before[@]} == 1)); then\n"
        "        COMPREPLY=($(compgen -W '%s --help --version' -- \"$cur\"))\n"
        "        return\n    fi\n"
        "    if [[ ${before[1]} == help ]]; then\n"
        "        COMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n        return\n    fi\n"
        "    [[ ${before[1]} == run ]] || return\n"
        "    if [[ $cur == --*=* ]]; then\n"
        "        prev=${cur%%%%=*} cur=${cur#*=}\n    fi\n"
        "    case $prev in\n",
        all_verbs, all_verbs);
    for (const ConfigOption *o = run_options(); o->name; o++) {
        g_autofree char *words = NULL;

        if (o->value != CONFIG_VALUE_REQUIRED)
            continue;
        words = value_words(o);
        g_string_append_printf(out, "    --%s) words='%s' files=%s ;;\n", o->name, words,
                               wants_file(o) ? "yes" : "");
    }
    g_string_append(out, "    *)\n        if [[ $cur == -* ]]; then\n"
                         "            words='");
    for (const ConfigOption *o = run_options(); o->name; o++)
        g_string_append_printf(out, "--%s ", o->name);
    g_string_append(
        out,
        "'\n        else\n            words=$(hutch run 2>/dev/null)\n        fi\n"
        "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n        return ;;\n");
    g_string_append(out, bash_tail);
    return g_string_free(out, FALSE);
}

/* ---- zsh ------------------------------------------------------------------------------
 */

/* Quotes for a description within '...[...]'. */
static char *zsh_text(const char *text)
{
    GString *out = g_string_new(text);

    g_string_replace(out, "\\", "\\\\", 0);
    g_string_replace(out, "[", "\\[", 0);
    g_string_replace(out, "]", "\\]", 0);
    g_string_replace(out, ":", "\\:", 0);
    g_string_replace(out, "'", "'\\''", 0);
    return g_string_free(out, FALSE);
}

static void zsh_option(GString *out, const ConfigOption *o)
{
    g_autofree char *help = zsh_text(o->help);
    g_autofree char *words = NULL;

    g_string_append_printf(out, "        '%s--%s%s[%s]", o->repeats ? "*" : "", o->name,
                           o->value == CONFIG_VALUE_REQUIRED ? "=" : "", help);
    if (o->value == CONFIG_VALUE_REQUIRED) {
        words = value_words(o);
        if (wants_file(o))
            g_string_append(out, ":file:_files");
        else if (*words)
            g_string_append_printf(out, ":value:(%s)", words);
        else
            g_string_append(out, ":value: ");
    }
    g_string_append(out, "' \\\n");
}

static char *zsh(void)
{
    g_autofree char *all_verbs = verb_words();
    GString *out = g_string_new("#compdef hutch\n_hutch()\n{\n");

    g_string_append_printf(
        out,
        "    if ((CURRENT == 2)); then\n"
        "        compadd -- %s --help --version\n        return\n    fi\n"
        "    if [[ $words[2] == help ]]; then\n        compadd -- %s\n        return\n"
        "    fi\n    [[ $words[2] == run ]] || return\n"
        "    shift words\n    ((CURRENT--))\n    _arguments \\\n",
        all_verbs, all_verbs);
    for (const ConfigOption *o = run_options(); o->name; o++)
        zsh_option(out, o);
    g_string_append(out, "        '1:image:($(hutch run 2>/dev/null))'\n}\n"
                         "_hutch \"$@\"\n");
    return g_string_free(out, FALSE);
}

/* ---- fish -----------------------------------------------------------------------------
 */

/* For single quotes. */
static char *fish_text(const char *text)
{
    GString *out = g_string_new(text);

    g_string_replace(out, "\\", "\\\\", 0);
    g_string_replace(out, "'", "\\'", 0);
    return g_string_free(out, FALSE);
}

static char *fish(void)
{
    g_autofree char *all_verbs = verb_words();
    GString *out = g_string_new("# fish completion for hutch\n"
                                "complete -c hutch -f\n");

    for (const Verb *v = verbs; v->name; v++)
        if (!v->hidden)
            g_string_append_printf(
                out, "complete -c hutch -n __fish_use_subcommand -a %s -d '%s'\n",
                v->name, v->help);
    g_string_append_printf(out,
                           "complete -c hutch -n '__fish_seen_subcommand_from help' -a "
                           "'%s'\n"
                           "complete -c hutch -n '__fish_seen_subcommand_from run' -a "
                           "'(hutch run 2>/dev/null)' -d image\n",
                           all_verbs);
    for (const ConfigOption *o = run_options(); o->name; o++) {
        g_autofree char *help = fish_text(o->help);
        char letter[] = {' ', '-', 's', ' ', run_option_letter(o->name), 0};

        g_string_append_printf(
            out, "complete -c hutch -n '__fish_seen_subcommand_from run'%s -l %s",
            letter[4] ? letter : "", o->name);
        if (o->value == CONFIG_VALUE_REQUIRED) {
            g_autofree char *words = value_words(o);

            g_string_append_printf(out, " -r%s", wants_file(o) ? " -F" : "");
            if (*words)
                g_string_append_printf(out, " -a '%s'", words);
        }
        g_string_append_printf(out, " -d '%s'\n", help);
    }
    return g_string_free(out, FALSE);
}

char *completion_script(const char *shell)
{
    if (g_str_equal(shell, "bash"))
        return bash();
    if (g_str_equal(shell, "zsh"))
        return zsh();
    if (g_str_equal(shell, "fish"))
        return fish();
    return NULL;
}
