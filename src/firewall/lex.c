/* Words of the rules' text: separated by white space, a comma is one by itself, text in
 * quotes is one ('\"' and '\\' in it), '#' begins a comment. */
#include "src/firewall/rules.h"

bool lexer_init(Lexer *lex, const char *where, unsigned line, const char *text,
                const char *end, GError **error)
{
    *lex = (Lexer){.where = where,
                   .line = line,
                   .begin = text,
                   .at = text,
                   .end = end,
                   .token = text,
                   .text = g_string_new(NULL)};
    return lexer_next(lex, error);
}

void lexer_init_string(Lexer *lex, const char *where, const char *text)
{
    const char *end = text + strlen(text);

    *lex = (Lexer){.where = where,
                   .begin = text,
                   .at = end,
                   .end = end,
                   .kind = TOKEN_STRING,
                   .token = text,
                   .text = g_string_new(text)};
}

void lexer_clear(Lexer *lex)
{
    if (lex->text)
        g_string_free(lex->text, TRUE);
    lex->text = NULL;
}

bool lexer_is(const Lexer *lex, const char *word)
{
    return lex->kind == TOKEN_WORD && g_str_equal(lex->text->str, word);
}

static bool G_GNUC_PRINTF(4, 0) fail_there(const Lexer *lex, const char *there,
                                           GError **error, const char *fmt, va_list ap)
{
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    long column = g_utf8_strlen(lex->begin, there - lex->begin) + 1;

    if (!lex->line)
        return fail(error, VM_ERROR_INVALID, "%s: %s", lex->where, what);
    return fail(error, VM_ERROR_INVALID, "%s:%u:%ld: %s", lex->where, lex->line, column,
                what);
}

bool lexer_fail(const Lexer *lex, GError **error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fail_there(lex, lex->token, error, fmt, ap);
    va_end(ap);
    return false;
}

bool lexer_fail_at(const Lexer *lex, size_t offset, GError **error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fail_there(lex, lex->token + MIN(offset, (size_t)(lex->end - lex->token)), error, fmt,
               ap);
    va_end(ap);
    return false;
}

const char *lexer_said(const Lexer *lex)
{
    static __thread char text[128];

    if (lex->kind == TOKEN_END)
        return lex->line ? "the end of the line" : "nothing";
    g_snprintf(text, sizeof(text), "'%.100s%s'", lex->text->str,
               lex->text->len > 100 ? "..." : "");
    if (!g_utf8_validate(text, -1, NULL)) /* cut within a character */
        return "this";
    return text;
}

/* In text there are quotes, and '\\' before some characters; in JSON neither. */
size_t lexer_string_at(const Lexer *lex, size_t i)
{
    const char *raw = lex->token + 1;

    if (!lex->line)
        return i;
    for (; i; i--)
        raw += 1 + (raw[0] == '\\' && (raw[1] == '"' || raw[1] == '\\'));
    return (size_t)(raw - lex->token);
}

static bool next_string(Lexer *lex, GError **error)
{
    lex->kind = TOKEN_STRING;
    for (lex->at++; lex->at < lex->end && *lex->at != '"'; lex->at++) {
        if (*lex->at == '\\' && lex->at + 1 < lex->end &&
            (lex->at[1] == '"' || lex->at[1] == '\\'))
            lex->at++;
        g_string_append_c(lex->text, *lex->at);
    }
    if (lex->at == lex->end)
        return lexer_fail(lex, error, "this '\"' has no other that ends it");
    lex->at++;
    return true;
}

bool lexer_next(Lexer *lex, GError **error)
{
    while (lex->at < lex->end && g_ascii_isspace(*lex->at))
        lex->at++;
    g_string_truncate(lex->text, 0);
    lex->token = lex->at;
    if (lex->at == lex->end || *lex->at == '#') {
        lex->kind = TOKEN_END;
        return true;
    }
    if (*lex->at == '"')
        return next_string(lex, error);
    if (*lex->at == ',') {
        lex->kind = TOKEN_COMMA;
        g_string_append_c(lex->text, *lex->at++);
        return true;
    }
    lex->kind = TOKEN_WORD;
    while (lex->at < lex->end && !g_ascii_isspace(*lex->at) && !strchr(",\"#", *lex->at))
        g_string_append_c(lex->text, *lex->at++);
    return true;
}
