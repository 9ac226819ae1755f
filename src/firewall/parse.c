/* Rules from text: a line a rule.  docs/firewall.md has the grammar. */
#include "src/firewall/rules.h"

/* "default in deny [log]" */
static bool parse_default(Lexer *lex, Rule *rule, GError **error)
{
    rule->is_default = true;
    if (!lexer_next(lex, error) || !clause_direction(lex, rule, error) ||
        !clause_action(lex, rule, error))
        return false;
    if (lexer_is(lex, "log")) {
        rule->log = true;
        if (!lexer_next(lex, error))
            return false;
    }
    if (lex->kind != TOKEN_END)
        return lexer_fail(lex, error,
                          "%s stands where a default ends; only 'log' may follow",
                          lexer_said(lex));
    return true;
}

/* One of `clauses`, each once; `seen` has a bit for each. */
static bool parse_clause(Lexer *lex, Rule *rule, unsigned *seen, GError **error)
{
    for (unsigned i = 0; clauses[i].name; i++) {
        if (!lexer_is(lex, clauses[i].name))
            continue;
        if (*seen & 1u << i)
            return lexer_fail(lex, error,
                              "a rule has one '%s'; separate what it lists by commas",
                              clauses[i].name);
        *seen |= 1u << i;
        return lexer_next(lex, error) && clauses[i].parse(lex, rule, error);
    }
    return lexer_fail(lex, error,
                      "%s stands where a protocol, 'from', 'to', 'port', 'from-port', "
                      "'type', 'match', 'log' or the end of the line has to",
                      lexer_said(lex));
}

static bool parse_rule(Lexer *lex, Rule *rule, GError **error)
{
    unsigned seen = 0;
    const char *wrong;

    if (!clause_action(lex, rule, error) || !clause_direction(lex, rule, error))
        return false;
    while (lex->kind != TOKEN_END) {
        if (lexer_is(lex, "log") && !rule->log) {
            rule->log = true;
            if (!lexer_next(lex, error))
                return false;
        } else if (clause_is_proto(lex) && rule->proto == PROTO_ANY) {
            if (!clause_proto(lex, rule, error))
                return false;
        } else if (clause_is_proto(lex) ||
                   (lexer_is(lex, "proto") && rule->proto != PROTO_ANY)) {
            return lexer_fail(lex, error, "a rule has one protocol; write a second rule");
        } else if (!parse_clause(lex, rule, &seen, error)) {
            return false;
        }
    }
    wrong = rule_wrong(rule);
    if (!wrong)
        return true;
    lex->token = lex->begin;
    while (g_ascii_isspace(*lex->token))
        lex->token++;
    return lexer_fail(lex, error, "%s", wrong);
}

Rule *rule_parse_line(const char *where, unsigned line, const char *text, const char *end,
                      GError **error)
{
    g_autoptr(Rule) rule = rule_new();
    Lexer lex;
    bool ok = lexer_init(&lex, where, line, text, end, error);

    if (ok && !clause_is_action(&lex) && !lexer_is(&lex, "default"))
        ok = lexer_fail(&lex, error,
                        "%s stands where 'allow', 'deny', 'reject' or 'default' has to",
                        lexer_said(&lex));
    else if (ok && lexer_is(&lex, "default"))
        ok = parse_default(&lex, rule, error);
    else if (ok)
        ok = parse_rule(&lex, rule, error);
    lexer_clear(&lex);
    return ok ? g_steal_pointer(&rule) : NULL;
}

/* Whether there is nothing but a comment. */
static bool is_blank(const char *at, const char *end)
{
    while (at < end && g_ascii_isspace(*at))
        at++;
    return at == end || *at == '#';
}

static bool parse_lines(Firewall *fw, const char *text, GError **error)
{
    bool seen[2] = {false};
    const char *full;
    unsigned line = 1;

    for (const char *at = text, *end; *at; at = *end ? end + 1 : end, line++) {
        end = at + strcspn(at, "\n");
        if (is_blank(at, end))
            continue;
        g_autoptr(Rule) rule = rule_parse_line(fw->origin, line, at, end, error);
        if (!rule)
            return false;
        if (rule->is_default && seen[rule->direction])
            return fail(error, VM_ERROR_INVALID,
                        "%s:%u:1: there is a default of '%s' already; take one away",
                        fw->origin, line, fw_direction_names[rule->direction]);
        if (rule->is_default)
            seen[rule->direction] = true;
        full = set_add(fw, UINT_MAX, g_steal_pointer(&rule));
        if (full)
            return fail(error, VM_ERROR_INVALID, "%s:%u:1: %s", fw->origin, line, full);
    }
    return true;
}

/* The line and column of a place in the text. */
static bool fail_utf8(const char *origin, const char *text, const char *bad,
                      GError **error)
{
    unsigned line = 1;
    const char *begin = text;

    for (const char *at = text; at < bad; at++) {
        if (*at == '\n') {
            line++;
            begin = at + 1;
        }
    }
    return fail(error, VM_ERROR_INVALID, "%s:%u:%ld: this is no text: save it as UTF-8",
                origin, line, g_utf8_strlen(begin, bad - begin) + 1);
}

Firewall *firewall_parse(const char *text, const char *origin, GError **error)
{
    const char *bad, *at = text;
    g_autoptr(Firewall) fw = NULL;

    if (strnlen(text, RULES_MAX_TEXT + 1) > RULES_MAX_TEXT) {
        fail(error, VM_ERROR_INVALID, "%s:1:1: rules have %d MiB of text at most", origin,
             RULES_MAX_TEXT >> 20);
        return NULL;
    }
    if (!g_utf8_validate(text, -1, &bad)) {
        fail_utf8(origin, text, bad, error);
        return NULL;
    }
    while (g_ascii_isspace(*at))
        at++;
    if (*at == '{')
        return set_from_json(text, origin, error);
    fw = set_new(origin);
    if (!parse_lines(fw, text, error))
        return NULL;
    return set_complete(g_steal_pointer(&fw));
}
