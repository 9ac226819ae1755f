/* Rules as text or JSON, and frames that meet them.  What parses says the same again
 * through its text and through its JSON; what does not says where.  The index of rules
 * finds what looking at all of them finds.  A gate of few flows
 * with these rules keeps its bound and does what it said it would.
 *
 * Input: a text, a byte of 0, then frames: a byte of what happens (FRAME_*), two of a
 * length, and that many bytes. */
#include <stdlib.h>
#include <string.h>

#include "src/firewall/rules.h"

enum { FRAME_OUT = 1, FRAME_LATER = 2, FRAME_NEW_RULES = 4, FRAME_NO_RULES = 8 };
enum { FLOWS = 6, ROUNDS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

static bool is_named(void *opaque, const char *name, const Ip *ip)
{
    return (name[0] ^ ip->b[15]) & 1;
}

static bool is_own(void *opaque, const Ip *ip)
{
    return ip->b[15] == 1;
}

static const FwWorld world = {
    .is_vm = is_named,
    .is_group = is_named,
    .is_network = is_named,
    .is_name = is_named,
    .is_dns = is_own,
    .is_dhcp = is_own,
};

/* The same text again, however it is handed on. */
static void check_round_trips(const Firewall *fw)
{
    char *text = firewall_text(fw), *twice, *through;
    json_t *json = firewall_to_json(fw);
    char *dump = json_dumps(json, 0);
    Firewall *by_text = firewall_parse(text, "text", NULL);
    Firewall *by_json = firewall_parse(dump, "json", NULL);

    check(by_text && by_json);
    twice = firewall_text(by_text);
    through = firewall_text(by_json);
    check(strcmp(text, twice) == 0 && strcmp(text, through) == 0);
    check(fw->rules->len == by_json->rules->len);
    check(firewall_has_names(fw) == firewall_has_names(by_json));
    g_free(text);
    g_free(twice);
    g_free(through);
    free(dump);
    json_decref(json);
    firewall_unref(by_text);
    firewall_unref(by_json);
}

static void check_verdict(const FwVerdict *v, const FwVerdict *test, bool allow)
{
    char *text = fw_verdict_text(v);

    check(text && *text);
    check(v->allow == allow && test->allow == allow && test->reason == v->reason &&
          test->rule == v->rule && test->set == v->set && test->reject == v->reject &&
          !(allow && v->reject));
    check(allow || (v->reason != FW_BY_NONE && v->reason != FW_BY_FLOW));
    g_free(text);
}

/* The index finds what looking at all rules finds. */
static void check_index(const Firewall *fw, FwDirection direction, const Packet *p,
                        const uint8_t *frame, size_t len)
{
    Subject s = {.direction = direction, .p = p, .frame = frame, .len = len};
    unsigned found, first = 0;

    while (first < fw->rules->len && !rule_matches(fw->rules->pdata[first], &s, &world))
        first++;
    set_judge(fw, &s, &world, &found);
    check(found == (first < fw->rules->len ? first : UINT_MAX));
}

static void one_frame(FwGate *gate, const Firewall *fw, unsigned what,
                      const uint8_t *bytes, size_t len, int64_t now_ns)
{
    FwDirection direction = what & FRAME_OUT ? FW_OUT : FW_IN;
    uint8_t *frame = malloc(len ? len : 1);
    FwVerdict test, v;
    Packet p;
    bool allow;

    if (len)
        memcpy(frame, bytes, len);
    if (packet_parse(frame, len, &p)) {
        check_index(fw, direction, &p, frame, len);
        fw_gate_test(gate, direction, &p, frame, len, now_ns, &test);
        allow = fw_gate_pass(gate, direction, &p, frame, len, now_ns, &v);
        check_verdict(&v, &test, allow);
        check(fw_gate_n_flows(gate) <= FLOWS);
    }
    free(frame);
}

static void send_frames(FwGate *gate, Firewall *fw, const uint8_t *data, size_t size)
{
    int64_t now_ns = 1;

    for (unsigned i = 0; i < ROUNDS && size >= 3; i++) {
        unsigned what = data[0];
        size_t len = MIN((size_t)(data[1] << 8 | data[2]), size - 3);

        if (what & FRAME_LATER)
            now_ns += 25000000000ll;
        if (what & (FRAME_NEW_RULES | FRAME_NO_RULES))
            fw_gate_set(gate, what & FRAME_NO_RULES ? NULL : fw,
                        what & FRAME_NEW_RULES ? fw : NULL);
        one_frame(gate, fw, what, data + 3, len, now_ns);
        data += 3 + len;
        size -= 3 + len;
    }
    json_decref(fw_gate_flows(gate, now_ns));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    size_t len = end ? (size_t)(end - data) : size;
    char *text = g_strndup((const char *)data, len);
    GError *error = NULL;
    Firewall *fw = firewall_parse(text, "x.rules", &error);

    check(!fw == !!error);
    if (error)
        check(g_str_has_prefix(error->message, "x.rules:") &&
              g_utf8_validate(error->message, -1, NULL));
    g_clear_error(&error);
    if (fw) {
        FwGate *gate = fw_gate_new(&world, FLOWS);

        check_round_trips(fw);
        fw_gate_set(gate, NULL, fw);
        if (end)
            send_frames(gate, fw, end + 1, size - len - 1);
        fw_gate_free(gate);
    }
    firewall_unref(fw);
    g_free(text);
    return 0;
}
