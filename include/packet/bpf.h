/* Filters in the syntax of tcpdump (pcap-filter(7)), compiled by libpcap, which is loaded
 * when the first one is made.  Any thread; a filter is immutable. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

enum { BPF_MAX_TEXT = 4096 };

typedef struct BpfFilter BpfFilter;

/* Fails with libpcap's words about what is wrong with `text`; UNSUPPORTED: this host has
 * no libpcap. */
BpfFilter *bpf_filter_new(const char *text, GError **error);
void bpf_filter_free(BpfFilter *filter); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BpfFilter, bpf_filter_free)

/* Whether an Ethernet frame without a tag matches.  Allocates nothing. */
bool bpf_filter_match(const BpfFilter *filter, const uint8_t *frame, size_t len);
