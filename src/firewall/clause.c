/* The parts of a rule: protocols, ends, ports, types of ICMP, filters.  Text and JSON are
 * read by the same functions, so that they cannot differ. */
#include "src/firewall/rules.h"

#include <netinet/in.h>

const char *const fw_direction_names[] = {"in", "out"};

static const struct {
    const char *name;
    int proto;
} protos[] = {
    {"tcp", IPPROTO_TCP},      {"udp", IPPROTO_UDP},   {"icmp", PROTO_ICMP_BOTH},
    {"icmp4", IPPROTO_ICMP},   {"gre", IPPROTO_GRE},   {"esp", IPPROTO_ESP},
    {"icmp6", IPPROTO_ICMPV6}, {"sctp", IPPROTO_SCTP},
};

/* RFC 792, RFC 1256, RFC 4443, RFC 4861, RFC 2710. */
static const struct {
    const char *name;
    IcmpType type;
} types[] = {
    {"echo-request", {8, 128}},
    {"echo-reply", {0, 129}},
    {"unreachable", {3, 1}},
    {"packet-too-big", {-1, 2}},
    {"time-exceeded", {11, 3}},
    {"parameter-problem", {12, 4}},
    {"redirect", {5, 137}},
    {"timestamp-request", {13, -1}},
    {"timestamp-reply", {14, -1}},
    {"router-solicitation", {10, 133}},
    {"router-advertisement", {9, 134}},
    {"neighbour-solicitation", {-1, 135}},
    {"neighbour-advertisement", {-1, 136}},
    {"listener-query", {-1, 130}},
    {"listener-report", {-1, 131}},
    {"listener-done", {-1, 132}},
    {"listener-report-2", {-1, 143}},
};

static const struct {
    const char *word;
    WhoKind kind;
} whos[] = {{"vm", WHO_VM}, {"group", WHO_GROUP}, {"net", WHO_NET}, {"name", WHO_NAME}};

bool clause_is_action(const Lexer *lex)
{
    return lexer_is(lex, "allow") || lexer_is(lex, "deny") || lexer_is(lex, "reject");
}

bool clause_action(Lexer *lex, Rule *rule, GError **error)
{
    if (!clause_is_action(lex))
        return lexer_fail(lex, error,
                          "%s stands where 'allow', 'deny' or 'reject' has to",
                          lexer_said(lex));
    rule->allow = lexer_is(lex, "allow");
    rule->reject = lexer_is(lex, "reject");
    return lexer_next(lex, error);
}

const char *clause_action_text(const Rule *rule)
{
    return rule->allow ? "allow" : rule->reject ? "reject" : "deny";
}

bool clause_direction(Lexer *lex, Rule *rule, GError **error)
{
    if (!lexer_is(lex, "in") && !lexer_is(lex, "out"))
        return lexer_fail(lex, error,
                          "%s stands where 'in' (to the VM) or 'out' (from it) has to",
                          lexer_said(lex));
    rule->direction = lexer_is(lex, "in") ? FW_IN : FW_OUT;
    return lexer_next(lex, error);
}

/* A number from 0 to max at `text`, of `len` digits. */
static bool number(const char *text, size_t len, unsigned max, unsigned *ret)
{
    unsigned n = 0;

    if (!len || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isdigit(text[i]))
            return false;
        n = n * 10 + (unsigned)(text[i] - '0');
    }
    *ret = n;
    return n <= max;
}

/* ---- protocols -----------------------------------------------------------------------
 */

static int find_proto(const Lexer *lex)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(protos); i++) {
        if (lexer_is(lex, protos[i].name))
            return protos[i].proto;
    }
    return PROTO_ANY;
}

bool clause_is_proto(const Lexer *lex)
{
    return find_proto(lex) != PROTO_ANY;
}

bool clause_proto(Lexer *lex, Rule *rule, GError **error)
{
    unsigned n;

    rule->proto = find_proto(lex);
    if (rule->proto == PROTO_ANY) {
        if (!number(lex->text->str, lex->text->len, 255, &n) || lex->kind != TOKEN_WORD)
            return lexer_fail(
                lex, error,
                "%s is no protocol: tcp, udp, icmp, icmp4, icmp6, gre, esp, "
                "sctp and numbers from 0 to 255 are",
                lexer_said(lex));
        rule->proto = (int)n;
    }
    return lexer_next(lex, error);
}

char *clause_proto_text(const Rule *rule)
{
    if (rule->proto == PROTO_ANY)
        return NULL;
    for (unsigned i = 0; i < G_N_ELEMENTS(protos); i++) {
        if (rule->proto == protos[i].proto)
            return g_strdup(protos[i].name);
    }
    return g_strdup_printf("%d", rule->proto);
}

/* ---- lists ---------------------------------------------------------------------------
 */

/* One item after the other, with commas between them.  `item` adds to the array. */
static bool list(Lexer *lex, GArray *to,
                 bool (*item)(Lexer *lex, GArray *to, GError **error), GError **error)
{
    for (;;) {
        if (to->len == RULES_MAX_ITEMS)
            return lexer_fail(lex, error,
                              "a list has %d items at most; write a second rule",
                              RULES_MAX_ITEMS);
        if (!item(lex, to, error))
            return false;
        if (lex->kind != TOKEN_COMMA)
            return true;
        if (!lexer_next(lex, error))
            return false;
    }
}

/* ---- ends ----------------------------------------------------------------------------
 */

/* A host name that DNS can have been asked for, in small letters; "*." may be first. */
static bool is_domain(const char *text)
{
    const char *at = g_str_has_prefix(text, "*.") ? text + 2 : text;
    size_t label = 0;

    if (strlen(text) > RULES_MAX_NAME)
        return false;
    for (; *at; at++) {
        if (*at == '.' ? label == 0 : !g_ascii_isalnum(*at) && !strchr("-_", *at))
            return false;
        label = *at == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return label > 0;
}

static bool is_name(const char *text, size_t max)
{
    for (const char *at = text; *at; at = g_utf8_next_char(at)) {
        if (!g_unichar_isprint(g_utf8_get_char(at)))
            return false;
    }
    return *text && strlen(text) <= max;
}

static bool named(Lexer *lex, const char *word, Who *who, GError **error)
{
    if (!lexer_next(lex, error))
        return false;
    if (who->kind == WHO_NAME) {
        g_autofree char *small = g_ascii_strdown(lex->text->str, -1);

        if (g_str_has_suffix(small, "."))
            small[strlen(small) - 1] = '\0';
        if (lex->kind == TOKEN_COMMA || lex->kind == TOKEN_END || !is_domain(small))
            return lexer_fail(
                lex, error, "%s is no domain: \"example.org\" and \"*.example.org\" are",
                lexer_said(lex));
        who->name = g_steal_pointer(&small);
    } else {
        if (lex->kind == TOKEN_COMMA || lex->kind == TOKEN_END ||
            !is_name(lex->text->str, RULES_MAX_NAME))
            return lexer_fail(lex, error, "%s stands where a name has to, after '%s'",
                              lexer_said(lex), word);
        who->name = g_strdup(lex->text->str);
    }
    return true;
}

static void who_clear(gpointer opaque)
{
    g_free(((Who *)opaque)->name);
}

static bool who_item(Lexer *lex, GArray *to, GError **error)
{
    Who who = {.kind = WHO_ADDRESS};
    const char *word = NULL;
    g_autoptr(GError) cause = NULL;

    if (lexer_is(lex, "any")) {
        who.prefix.bits = UINT8_MAX; /* who_list() sees it */
    } else {
        for (unsigned i = 0; i < G_N_ELEMENTS(whos) && !word; i++) {
            if (lexer_is(lex, whos[i].word)) {
                word = whos[i].word;
                who.kind = whos[i].kind;
            }
        }
        if (word && !named(lex, word, &who, error))
            return false;
        if (!word && (lex->kind != TOKEN_WORD || (!strchr(lex->text->str, ':') &&
                                                  !g_ascii_isdigit(lex->text->str[0]))))
            return lexer_fail(lex, error,
                              "%s stands where 'any', an address, 'vm NAME', 'group "
                              "LABEL', 'net NAME' or 'name DOMAIN' has to",
                              lexer_said(lex));
        if (!word && !ip_prefix_parse(lex->text->str, &who.prefix, &cause))
            return lexer_fail(lex, error, "%s", cause->message);
    }
    g_array_append_val(to, who);
    return lexer_next(lex, error);
}

static bool who_list(Lexer *lex, Rule *rule, End end, GError **error)
{
    GArray *array = rule->who[end] = g_array_new(FALSE, FALSE, sizeof(Who));
    bool any = false;

    g_array_set_clear_func(array, who_clear);
    if (!list(lex, array, who_item, error))
        return false;
    for (unsigned i = 0; i < array->len; i++)
        any |= g_array_index(array, Who, i).prefix.bits == UINT8_MAX;
    if (any)
        g_clear_pointer(&rule->who[end], g_array_unref);
    return true;
}

bool clause_from(Lexer *lex, Rule *rule, GError **error)
{
    return who_list(lex, rule, END_FROM, error);
}

bool clause_to(Lexer *lex, Rule *rule, GError **error)
{
    return who_list(lex, rule, END_TO, error);
}

/* Whether a name can be read back without quotes. */
static bool is_plain(const char *name)
{
    return !strpbrk(name, " \t,\"#\\");
}

static char *quoted(const char *text)
{
    GString *s = g_string_new("\"");

    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            g_string_append_c(s, '\\');
        g_string_append_c(s, *text);
    }
    g_string_append_c(s, '"');
    return g_string_free(s, FALSE);
}

char *clause_who_text(const Who *who)
{
    char text[IP_TEXT + 4];
    g_autofree char *name = NULL;

    if (who->kind == WHO_ADDRESS)
        return g_strdup(ip_prefix_text(&who->prefix, text));
    name = is_plain(who->name) ? g_strdup(who->name) : quoted(who->name);
    return g_strdup_printf("%s %s", whos[who->kind - WHO_VM].word, name);
}

/* ---- ports ---------------------------------------------------------------------------
 */

static bool port_item(Lexer *lex, GArray *to, GError **error)
{
    const char *text = lex->text->str, *dash = strchr(text, '-');
    size_t len = dash ? (size_t)(dash - text) : strlen(text);
    unsigned first, last;

    if (lex->kind != TOKEN_WORD || !number(text, len, 65535, &first))
        return lexer_fail(lex, error,
                          "%s is no port: \"80\" and \"8000-8099\" are, up to 65535",
                          lexer_said(lex));
    last = first;
    if (dash && !number(dash + 1, strlen(dash + 1), 65535, &last))
        return lexer_fail_at(lex, len + 1, error,
                             "%s has no port of up to 65535 after its '-'",
                             lexer_said(lex));
    if (last < first)
        return lexer_fail(lex, error, "%s ends before it begins", lexer_said(lex));
    Ports ports = {(uint16_t)first, (uint16_t)last};
    g_array_append_val(to, ports);
    return lexer_next(lex, error);
}

static bool port_list(Lexer *lex, Rule *rule, End end, GError **error)
{
    rule->ports[end] = g_array_new(FALSE, FALSE, sizeof(Ports));
    return list(lex, rule->ports[end], port_item, error);
}

bool clause_port(Lexer *lex, Rule *rule, GError **error)
{
    return port_list(lex, rule, END_TO, error);
}

bool clause_from_port(Lexer *lex, Rule *rule, GError **error)
{
    return port_list(lex, rule, END_FROM, error);
}

char *clause_ports_text(const Ports *ports)
{
    if (ports->first == ports->last)
        return g_strdup_printf("%u", ports->first);
    return g_strdup_printf("%u-%u", ports->first, ports->last);
}

/* ---- types of ICMP -------------------------------------------------------------------
 */

/* A number is kept for both families; the rule's protocol says which is meant. */
static bool type_item(Lexer *lex, GArray *to, GError **error)
{
    IcmpType type = {-1, -1};
    unsigned n;

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if (lexer_is(lex, types[i].name))
            type = types[i].type;
    }
    if (lex->kind == TOKEN_WORD && number(lex->text->str, lex->text->len, 255, &n))
        type = (IcmpType){(int16_t)n, (int16_t)n};
    if (type.v4 < 0 && type.v6 < 0)
        return lexer_fail(lex, error,
                          "%s is no type of ICMP: \"echo-request\", \"unreachable\", "
                          "\"time-exceeded\" and numbers up to 255 are",
                          lexer_said(lex));
    g_array_append_val(to, type);
    return lexer_next(lex, error);
}

bool clause_type(Lexer *lex, Rule *rule, GError **error)
{
    rule->types = g_array_new(FALSE, FALSE, sizeof(IcmpType));
    return list(lex, rule->types, type_item, error);
}

char *clause_type_text(const IcmpType *type, const Rule *rule)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        const IcmpType *t = &types[i].type;

        if (rule->proto == PROTO_ICMP_BOTH ? t->v4 == type->v4 && t->v6 == type->v6
            : rule->proto == IPPROTO_ICMP  ? t->v4 >= 0 && t->v4 == type->v4
                                           : t->v6 >= 0 && t->v6 == type->v6)
            return g_strdup(types[i].name);
    }
    return g_strdup_printf("%d", rule->proto == IPPROTO_ICMP ? type->v4 : type->v6);
}

/* ---- filters -------------------------------------------------------------------------
 */

bool clause_match(Lexer *lex, Rule *rule, GError **error)
{
    g_autoptr(GError) cause = NULL;
    size_t at;

    if (lex->kind != TOKEN_STRING)
        return lexer_fail(lex, error, "%s stands where a pcap filter in quotes has to",
                          lexer_said(lex));
    if (!bpf_check_words(lex->text->str, &at, &cause))
        return lexer_fail_at(lex, lexer_string_at(lex, at), error, "%s", cause->message);
    if (!is_name(lex->text->str, BPF_MAX_TEXT))
        return lexer_fail(lex, error,
                          "a pcap filter has up to %d printable characters, and one at "
                          "least",
                          BPF_MAX_TEXT);
    rule->filter = bpf_filter_new(lex->text->str, &cause);
    if (!rule->filter)
        return lexer_fail(lex, error, "%s", cause->message);
    rule->match = g_strdup(lex->text->str);
    return lexer_next(lex, error);
}

const Clause clauses[] = {
    {"from", clause_from},   {"to", clause_to},
    {"port", clause_port},   {"from-port", clause_from_port},
    {"type", clause_type},   {"match", clause_match},
    {"proto", clause_proto}, {},
};

/* ---- the whole -----------------------------------------------------------------------
 */

static bool has_who(const Rule *rule, End end, WhoKind kind)
{
    for (unsigned i = 0; rule->who[end] && i < rule->who[end]->len; i++) {
        if (g_array_index(rule->who[end], Who, i).kind == kind)
            return true;
    }
    return false;
}

/* A number, or a type that only has the other family, in a rule about both or the other.
 */
static const char *types_wrong(const Rule *rule)
{
    for (unsigned i = 0; i < rule->types->len; i++) {
        const IcmpType *t = &g_array_index(rule->types, IcmpType, i);

        if (rule->proto == PROTO_ICMP_BOTH && t->v4 == t->v6)
            return "numbers mean other types in ICMP and in ICMPv6: say icmp4 or icmp6, "
                   "or the type's name";
        if (rule->proto == IPPROTO_ICMP && t->v4 < 0)
            return "that is a type of ICMPv6 only: say icmp6, or icmp";
        if (rule->proto == IPPROTO_ICMPV6 && t->v6 < 0)
            return "that is a type of IPv4's ICMP only: say icmp4, or icmp";
    }
    return NULL;
}

const char *rule_wrong(const Rule *rule)
{
    bool icmp = rule->proto == PROTO_ICMP_BOTH || rule->proto == IPPROTO_ICMP ||
                rule->proto == IPPROTO_ICMPV6;

    if ((rule->ports[END_FROM] || rule->ports[END_TO]) && rule->proto != PROTO_ANY &&
        rule->proto != IPPROTO_TCP && rule->proto != IPPROTO_UDP)
        return "only tcp and udp have ports: leave the protocol out, or the ports";
    if (rule->types && !icmp)
        return "only icmp, icmp4 and icmp6 have types: say which";
    if (has_who(rule, END_FROM, WHO_NAME) ||
        (rule->direction == FW_IN && has_who(rule, END_TO, WHO_NAME)))
        return "domain names are for whom a VM may talk to: write out ... to name DOMAIN";
    return rule->types ? types_wrong(rule) : NULL;
}
