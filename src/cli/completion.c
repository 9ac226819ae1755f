/* Completion for bash, zsh and fish: the words come from the option tables, the names of
 * images from `hutch run`, those of VMs from `hutch ps --quiet`, those of snapshots from
 * `hutch snapshot list --quiet`, and so on. */

#include "src/cli/cli.h"

static char *verb_words(const Verb *table)
{
    GString *out = g_string_new(NULL);

    for (const Verb *v = table; v->name; v++)
        if (!v->hidden)
            g_string_append_printf(out, "%s%s", out->len ? " " : "", v->name);
    return g_string_free(out, FALSE);
}

/* Calls fn for each verb that has options, with its path: "run", "image create". */
typedef void ForVerb(GString *out, const char *path, const Verb *v,
                     const ConfigOption *options);
static void each_verb(GString *out, const Verb *table, const char *where, ForVerb *fn)
{
    for (const Verb *v = table; v->name; v++) {
        g_autofree char *path = g_strconcat(where, *where ? " " : "", v->name, NULL);
        ConfigOption options[MAX_VERB_OPTIONS + 1];

        verb_options(v, options);
        if (v->verbs)
            each_verb(out, v->verbs, path, fn);
        if ((!v->verbs || v->act) && options->name)
            fn(out, path, v, options);
    }
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
        if (help_shows_key(o, d))
            g_string_append_printf(out, "%s%s%s", out->len ? " " : "", d->key,
                                   d->type == PARAM_BOOL ? "" : "=");
    return g_string_free(out, FALSE);
}

/* The command that prints what names there are; NULL: names of another kind. */
static const char *words_of(const Verb *v)
{
    switch (v->names) {
    case NAMES_GUESTS:
        return "hutch run";
    case NAMES_VMS:
    case NAMES_VMS_AND_FILES:
        return "hutch ps --quiet";
    case NAMES_SNAPSHOTS:
    case NAMES_SNAPSHOTS_AND_FILES:
        return "hutch snapshot list --quiet";
    case NAMES_TEMPLATES:
        return "hutch template ls --quiet";
    case NAMES_NETWORKS:
    case NAMES_NETWORKS_AND_FILES:
        return "hutch net ls --quiet";
    case NAMES_NOTHING:
    case NAMES_FILES:
        break;
    }
    return NULL;
}

/* What they are, for who completes. */
static const char *kind_of(const Verb *v)
{
    switch (v->names) {
    case NAMES_VMS:
    case NAMES_VMS_AND_FILES:
        return "vm";
    case NAMES_SNAPSHOTS:
    case NAMES_SNAPSHOTS_AND_FILES:
        return "snapshot";
    case NAMES_TEMPLATES:
        return "template";
    case NAMES_NETWORKS:
    case NAMES_NETWORKS_AND_FILES:
        return "network";
    case NAMES_GUESTS:
    case NAMES_NOTHING:
    case NAMES_FILES:
        break;
    }
    return "image";
}

static bool names_files(const Verb *v)
{
    return v->names == NAMES_FILES || v->names == NAMES_VMS_AND_FILES ||
           v->names == NAMES_SNAPSHOTS_AND_FILES || v->names == NAMES_NETWORKS_AND_FILES;
}

static bool takes_value(const ConfigOption *o)
{
    return o->value == CONFIG_VALUE_REQUIRED || (o->scalar && o->scalar->bare);
}

static bool wants_file(const ConfigOption *o)
{
    const ParamDesc *first = o->scalar ? o->scalar : o->table ? o->table->desc : NULL;

    return first && first->type == PARAM_PATH;
}

/* ---- bash ------------------------------------------------------------------------- */

/* bash splits words at '=' and ':', which our lists of KEY=VALUE have inside, so the word
 * under the cursor is cut from the line, and from each answer what bash has as a word
 * before it. */
static const char bash_head[] =
    "# bash completion for hutch\n"
    "# compgen -W expands words: a name like '$(...)' would be run.\n"
    "_hutch_names()\n{\n"
    "    local name\n"
    "    while read -r name; do\n"
    "        [[ $name == *[^[:alnum:]._@+-]* ]] || echo \"$name\"\n"
    "    done\n}\n"
    "_hutch()\n{\n"
    "    local line=${COMP_LINE:0:COMP_POINT} cur prev verb shown words= files= prefix=\n"
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

/* After `hutch image` and the like: the verbs there. */
static void bash_families(GString *out)
{
    g_string_append(out, "    case $verb in\n");
    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *words = v->verbs ? verb_words(v->verbs) : NULL;

        if (words)
            g_string_append_printf(
                out,
                "    %s)\n        if ((${#before[@]} == 2)); then\n"
                "            COMPREPLY=($(compgen -W '%s --help' -- \"$cur\"))\n"
                "            return\n        fi\n        verb=\"%s ${before[2]}\" ;;\n",
                v->name, words, v->name);
    }
    g_string_append(out, "    esac\n");
}

static void bash_values(GString *out, const char *path, const Verb *v,
                        const ConfigOption *options)
{
    for (const ConfigOption *o = options; o->name; o++) {
        g_autofree char *words = takes_value(o) ? value_words(o) : NULL;

        if (!words)
            continue;
        g_string_append_printf(out, "    '%s --%s'", path, o->name);
        if (o->letter)
            g_string_append_printf(out, " | '%s -%c'", path, o->letter);
        g_string_append_printf(out, ") words='%s' files=%s ;;\n", words,
                               wants_file(o) ? "yes" : "");
    }
}

static void bash_words(GString *out, const char *path, const Verb *v,
                       const ConfigOption *options)
{
    g_string_append_printf(out,
                           "        '%s')\n            if [[ $cur == -* ]]; then\n"
                           "                words='",
                           path);
    for (const ConfigOption *o = options; o->name; o++)
        g_string_append_printf(out, "--%s ", o->name);
    g_string_append_printf(out, "'\n            else\n                files=%s",
                           names_files(v) ? "yes" : "");
    if (words_of(v))
        g_string_append_printf(out, " words=$(%s 2>/dev/null | _hutch_names)",
                               words_of(v));
    g_string_append(out, "\n            fi ;;\n");
}

static char *bash(void)
{
    GString *out = g_string_new(bash_head);
    g_autofree char *all_verbs = verb_words(verbs);

    g_string_append_printf(
        out,
        "    if ((${#before[@]} == 1)); then\n"
        "        COMPREPLY=($(compgen -W '%s --help --version' -- \"$cur\"))\n"
        "        return\n    fi\n"
        "    if [[ ${before[1]} == help ]]; then\n"
        "        COMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n        return\n    fi\n"
        "    verb=${before[1]}\n",
        all_verbs, all_verbs);
    bash_families(out);
    g_string_append(out, "    if [[ $cur == --*=* ]]; then\n"
                         "        prev=${cur%%=*} cur=${cur#*=}\n    fi\n"
                         "    case \"$verb $prev\" in\n");
    each_verb(out, verbs, "", bash_values);
    g_string_append(out, "    *)\n        case $verb in\n");
    each_verb(out, verbs, "", bash_words);
    g_string_append(out,
                    "        esac\n"
                    "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                    "        [[ $files ]] && COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
                    "        return ;;\n");
    g_string_append(out, bash_tail);
    return g_string_free(out, FALSE);
}

/* ---- zsh -------------------------------------------------------------------------- */

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
                           takes_value(o) ? "=" : "", help);
    if (takes_value(o)) {
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

static void zsh_verb(GString *out, const char *path, const Verb *v,
                     const ConfigOption *options)
{
    g_string_append_printf(out, "    '%s')\n        _arguments \\\n", path);
    for (const ConfigOption *o = options; o->name; o++)
        zsh_option(out, o);
    if (words_of(v) && names_files(v))
        g_string_append_printf(out, "        '1:%s:($(%s 2>/dev/null))' \\\n", kind_of(v),
                               words_of(v));
    else if (words_of(v))
        g_string_append_printf(out, "        '%s:%s:($(%s 2>/dev/null))' \\\n",
                               v->max_names > 1 ? "*" : "1", kind_of(v), words_of(v));
    g_string_append(out,
                    names_files(v) ? "        '*:file:_files' ;;\n" : "        ;;\n");
}

static void zsh_families(GString *out)
{
    g_string_append(out, "    case $verb in\n");
    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *words = v->verbs ? verb_words(v->verbs) : NULL;

        if (words)
            g_string_append_printf(out,
                                   "    %s)\n        if ((CURRENT == 2)); then\n"
                                   "            compadd -- %s --help\n"
                                   "            return\n        fi\n"
                                   "        verb=\"%s $words[2]\"\n"
                                   "        shift words\n        ((CURRENT--)) ;;\n",
                                   v->name, words, v->name);
    }
    g_string_append(out, "    esac\n");
}

static char *zsh(void)
{
    g_autofree char *all_verbs = verb_words(verbs);
    GString *out = g_string_new("#compdef hutch\n_hutch()\n{\n    local verb\n");

    g_string_append_printf(
        out,
        "    if ((CURRENT == 2)); then\n"
        "        compadd -- %s --help --version\n        return\n    fi\n"
        "    if [[ $words[2] == help ]]; then\n        compadd -- %s\n        return\n"
        "    fi\n    verb=$words[2]\n    shift words\n    ((CURRENT--))\n",
        all_verbs, all_verbs);
    zsh_families(out);
    g_string_append(out, "    case $verb in\n");
    each_verb(out, verbs, "", zsh_verb);
    g_string_append(out, "    esac\n}\n_hutch \"$@\"\n");
    return g_string_free(out, FALSE);
}

/* ---- fish ------------------------------------------------------------------------- */

/* For single quotes. */
static char *fish_text(const char *text)
{
    GString *out = g_string_new(text);

    g_string_replace(out, "\\", "\\\\", 0);
    g_string_replace(out, "'", "\\'", 0);
    return g_string_free(out, FALSE);
}

/* "image create" is seen when both words are. */
static char *fish_seen(const char *path)
{
    g_auto(GStrv) words = g_strsplit(path, " ", -1);
    GString *out = g_string_new(NULL);

    for (unsigned i = 0; words[i]; i++)
        g_string_append_printf(out, "%s__fish_seen_subcommand_from %s", i ? "; and " : "",
                               words[i]);
    return g_string_free(out, FALSE);
}

static void fish_option(GString *out, const char *seen, const ConfigOption *o)
{
    g_autofree char *help = fish_text(o->help);

    g_string_append_printf(out, "complete -c hutch -n '%s'", seen);
    if (o->letter)
        g_string_append_printf(out, " -s %c", o->letter);
    g_string_append_printf(out, " -l %s", o->name);
    if (takes_value(o)) {
        g_autofree char *words = value_words(o);

        g_string_append_printf(out, " -r%s", wants_file(o) ? " -F" : "");
        if (*words)
            g_string_append_printf(out, " -a '%s'", words);
    }
    g_string_append_printf(out, " -d '%s'\n", help);
}

static void fish_verb(GString *out, const char *path, const Verb *v,
                      const ConfigOption *options)
{
    g_autofree char *seen = fish_seen(path);

    if (words_of(v))
        g_string_append_printf(out,
                               "complete -c hutch -n '%s' -a '(%s 2>/dev/null)' -d %s\n",
                               seen, words_of(v), kind_of(v));
    if (names_files(v))
        g_string_append_printf(out, "complete -c hutch -n '%s' -F\n", seen);
    for (const ConfigOption *o = options; o->name; o++)
        fish_option(out, seen, o);
}

static char *fish(void)
{
    g_autofree char *all_verbs = verb_words(verbs);
    GString *out = g_string_new("# fish completion for hutch\n"
                                "complete -c hutch -f\n");

    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *words = v->verbs ? verb_words(v->verbs) : NULL;

        if (!v->hidden)
            g_string_append_printf(
                out, "complete -c hutch -n __fish_use_subcommand -a %s -d '%s'\n",
                v->name, v->help);
        if (words)
            g_string_append_printf(
                out,
                "complete -c hutch -n '__fish_seen_subcommand_from %s; and not "
                "__fish_seen_subcommand_from %s' -a '%s'\n",
                v->name, words, words);
    }
    g_string_append_printf(
        out, "complete -c hutch -n '__fish_seen_subcommand_from help' -a '%s'\n",
        all_verbs);
    each_verb(out, verbs, "", fish_verb);
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
