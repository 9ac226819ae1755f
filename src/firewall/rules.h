/* What a set of rules is made of.
 *
 *     lex.c     words of a line                   parse.c   the rules' text
 *     clause.c  the parts of a rule, which text and JSON have in common
 *     print.c   a rule's text                     json.c    the other form
 *     set.c     sets: reference counts, with and without a rule
 *     judge.c   which rule a packet meets         index.c   finding it without looking at
 *                                                           all of them */
#pragma once

#include "firewall/firewall.h"
#include "packet/bpf.h"

enum {
    RULES_MAX = 4096,
    RULES_MAX_TEXT = 4 << 20,
    RULES_MAX_FILTERS = 64, /* rules with `match`: each takes milliseconds to compile */
    RULES_MAX_ITEMS = 256,  /* of a list */
    RULES_MAX_NAME = 255,   /* bytes of a name */
};

enum { PROTO_ANY = -1, PROTO_ICMP_BOTH = 256 }; /* beside IPPROTO_* */

typedef enum { WHO_ADDRESS, WHO_VM, WHO_GROUP, WHO_NET, WHO_NAME } WhoKind;

typedef struct Who {
    WhoKind kind;
    IpPrefix prefix; /* of WHO_ADDRESS */
    char *name;      /* of the others */
} Who;

typedef struct Ports {
    uint16_t first, last;
} Ports;

/* -1: has no such type; what it is called: clause.c. */
typedef struct IcmpType {
    int16_t v4, v6;
} IcmpType;

/* From the packet's view: who sent it, who is to get it. */
typedef enum { END_FROM, END_TO, ENDS } End;

typedef struct RuleCount {
    uint64_t packets, bytes;
} RuleCount;

/* A line: a rule, or a default, which has an action and `log` only.  Sets share it. */
typedef struct Rule {
    int refs;
    bool allow, log, is_default;
    bool reject; /* what is not allowed is answered */
    FwDirection direction;
    int proto;
    GArray *who[ENDS];   /* Who; NULL: anyone */
    GArray *ports[ENDS]; /* Ports; NULL: any, or none */
    GArray *types;       /* IcmpType; NULL: any */
    char *match;         /* NULL: none */
    BpfFilter *filter;   /* `match`, compiled */

    /* Counts are the switch's thread's. */
    RuleCount count;
    int64_t log_ns; /* when the next line may be written: judge.c */
} Rule;

typedef struct Index Index;

struct Firewall {
    int refs;
    char *origin;
    GPtrArray *rules;  /* Rule */
    Rule *defaults[2]; /* by FwDirection */
    bool names;        /* some rule allows one */
    unsigned filters;  /* rules that have one */
    Index *index;      /* made when the set is complete */
};

extern const char *const fw_direction_names[]; /* "in", "out" */

/* ---- set.c ---------------------------------------------------------------------------
 */

Rule *rule_new(void);
Rule *rule_ref(Rule *rule);
void rule_unref(Rule *rule); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rule, rule_unref)

/* Without rules and with defaults that deny, but for the index. */
Firewall *set_new(const char *origin);
/* Takes the reference; a default replaces what there is.  NULL, or why it has no room. */
const char *set_add(Firewall *fw, unsigned at, Rule *rule);
Firewall *set_complete(Firewall *fw);

/* ---- lex.c ---------------------------------------------------------------------------
 */

typedef enum { TOKEN_WORD, TOKEN_STRING, TOKEN_COMMA, TOKEN_END } TokenKind;

/* One line, or one text of JSON.  Errors begin with `where`, and with the line and the
 * column if there is a line. */
typedef struct Lexer {
    const char *where;
    unsigned line; /* 0: JSON, no line to be told */
    const char *begin, *at, *end;
    TokenKind kind; /* of the token that is looked at */
    GString *text;  /* what it says */
    const char *token;
} Lexer;

/* Looks at the first token.  `text` to `end` is valid UTF-8 without line ends. */
bool lexer_init(Lexer *lex, const char *where, unsigned line, const char *text,
                const char *end, GError **error);
/* Looks at a TOKEN_STRING that is all of `text`; nothing follows it. */
void lexer_init_string(Lexer *lex, const char *where, const char *text);
void lexer_clear(Lexer *lex);
bool lexer_next(Lexer *lex, GError **error);
bool lexer_is(const Lexer *lex, const char *word);
/* An error at the token, or `offset` bytes into it; false. */
bool lexer_fail(const Lexer *lex, GError **error, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);
bool lexer_fail_at(const Lexer *lex, size_t offset, GError **error, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);
/* Where byte `i` of a TOKEN_STRING stands, for lexer_fail_at(). */
size_t lexer_string_at(const Lexer *lex, size_t i);
/* What the token is, for errors: "'word'", or "the end of the line". */
const char *lexer_said(const Lexer *lex);

/* ---- clause.c: each begins at the token after the clause's name ----------------------
 */

bool clause_is_action(const Lexer *lex);
bool clause_action(Lexer *lex, Rule *rule, GError **error);
bool clause_direction(Lexer *lex, Rule *rule, GError **error);
/* False without an error: it is no protocol. */
bool clause_is_proto(const Lexer *lex);
bool clause_proto(Lexer *lex, Rule *rule, GError **error);
bool clause_from(Lexer *lex, Rule *rule, GError **error);
bool clause_to(Lexer *lex, Rule *rule, GError **error);
bool clause_port(Lexer *lex, Rule *rule, GError **error);
bool clause_from_port(Lexer *lex, Rule *rule, GError **error);
bool clause_type(Lexer *lex, Rule *rule, GError **error);
bool clause_match(Lexer *lex, Rule *rule, GError **error);

typedef struct Clause {
    const char *name;
    bool (*parse)(Lexer *lex, Rule *rule, GError **error);
} Clause;
extern const Clause clauses[]; /* but for action, direction, protocol and log */

/* What only the whole rule shows; NULL: all is well. */
const char *rule_wrong(const Rule *rule);

const char *clause_action_text(const Rule *rule);
char *clause_proto_text(const Rule *rule); /* NULL: any */
char *clause_who_text(const Who *who);
char *clause_ports_text(const Ports *ports);
char *clause_type_text(const IcmpType *type, const Rule *rule);

/* ---- parse.c, print.c, json.c --------------------------------------------------------
 */

Rule *rule_parse_line(const char *where, unsigned line, const char *text, const char *end,
                      GError **error);
void rule_print(const Rule *rule, GString *to); /* without the end of the line */
Firewall *set_from_json(const char *text, const char *origin, GError **error);

/* ---- judge.c, index.c ----------------------------------------------------------------
 */

/* A packet as rules see it. */
typedef struct Subject {
    FwDirection direction;
    const Packet *p;
    const uint8_t *frame;
    size_t len;
    /* Rules that have allowed its flow, before there were other rules, or the world said
     * otherwise: what they name still has the flow's address, for it began when it had.
     * NULL: none. */
    const Rule *held[2];
} Subject;

bool rule_matches(const Rule *rule, const Subject *s, const FwWorld *world);

/* The first rule that matches; its default if there is none. */
Rule *set_judge(const Firewall *fw, const Subject *s, const FwWorld *world,
                unsigned *ret_rule);

Index *index_new(const Firewall *fw);
void index_free(Index *index); /* NULL is fine */
/* The number of the first rule that matches; UINT_MAX: none. */
unsigned index_find(const Index *index, const Subject *s, const FwWorld *world);
