/* Which servers are asked: those of the network's config, or the host's, whose
 * resolv.conf is read again when it has changed.  The switch's thread. */
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>

#include "network/config.h"

enum { DNS_MAX_SERVERS = NETWORK_MAX_UPSTREAM }; /* as many as the C library asks */

typedef struct DnsServer {
    struct sockaddr_storage sa;
    socklen_t len;
} DnsServer;

/* Zero-initialise: then they are the host's. */
typedef struct DnsServers {
    unsigned n;
    DnsServer server[DNS_MAX_SERVERS];
    bool given; /* by the config */
    int64_t looked_ns;
    struct stat seen; /* resolv.conf as it was read */
} DnsServers;

/* As config.upstream has them; none (or NULL): the host's. */
bool dns_servers_set(DnsServers *s, char **texts, GError **error);

/* Looks whether the host's have changed, at most once a second. */
void dns_servers_refresh(DnsServers *s);

/* The lines of a resolv.conf; what is none is passed over. */
void dns_servers_read(DnsServers *s, const char *text);
