/* A DHCPv4 message of a client, and the options of an answer.  RFCs 2131, 2132.  Any
 * thread; nothing allocates. */
#pragma once

#include "src/switch/gateway_private.h"

enum {
    DHCP_SERVER_PORT = 67,
    DHCP_CLIENT_PORT = 68,
    DHCP_DISCOVER = 1,
    DHCP_OFFER = 2,
    DHCP_REQUEST = 3,
    DHCP_DECLINE = 4,
    DHCP_ACK = 5,
    DHCP_NAK = 6,
    DHCP_RELEASE = 7,
    DHCP_INFORM = 8,
    DHCP_BROADCAST = 0x8000, /* of flags */
};

/* Pointers are into the frame. */
typedef struct DhcpMessage {
    uint8_t type;
    const uint8_t *xid; /* 4 bytes */
    uint16_t flags;
    Ip ciaddr;
    Mac chaddr;
    Ip server, requested; /* ::, if they are not there */
    const uint8_t *wanted, *client_id;
    size_t n_wanted, client_id_len;
    size_t max_size; /* of an answer's IP packet */
} DhcpMessage;

/* False: it is none from a client on this link. */
bool dhcp_parse(const uint8_t *bytes, size_t len, DhcpMessage *ret);

/* Appends the options of an answer of `type`, those that were asked for in that order,
 * then an end.  b has the fixed fields. */
void dhcp_options(const Gateway *gw, const Port *port, const DhcpMessage *m, uint8_t type,
                  Builder *b);
