/* Filters in the syntax of tcpdump (pcap-filter(7)), compiled by libpcap, which is loaded
 * when the first one is made.  Any thread; a filter is immutable. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* libpcap's optimizer takes seconds for a text of some thousand characters, and the
 * switch would wait: with these bounds it takes milliseconds. */
enum {
    BPF_MAX_TEXT = 512,
    BPF_MAX_STEPS = 1024, /* of the program as it is before it is optimized */
};

typedef struct BpfFilter BpfFilter;

/* Whether it has only words that need no looking up: libpcap asks DNS about a name of a
 * host, and waits.  False: *ret_at is where the other one is.  No libpcap is needed. */
bool bpf_check_words(const char *text, size_t *ret_at, GError **error);

/* Fails for such words, or with libpcap's words about what is wrong with `text`;
 * UNSUPPORTED: this host has no libpcap. */
BpfFilter *bpf_filter_new(const char *text, GError **error);
void bpf_filter_free(BpfFilter *filter); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BpfFilter, bpf_filter_free)

/* Whether an Ethernet frame without a tag matches.  Allocates nothing. */
bool bpf_filter_match(const BpfFilter *filter, const uint8_t *frame, size_t len);
