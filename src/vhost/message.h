/* Messages of vhost-user on their way: what vhost_user.c asks and tells goes through
 * here, bounded by the limit that is set.  The loop that owns the VhostUser. */
#pragma once

#include "backend/vhost_user.h"

typedef enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_LOG_BASE = 6,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
    NET_SET_MTU = 20,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    RESET_DEVICE = 34,
} Request;

enum {
    MESSAGE_MAX_FDS = 8,
    MESSAGE_MAX_PAYLOAD = 3 * sizeof(uint32_t) + VHOST_USER_MAX_CONFIG, /* SET_CONFIG's */
};

typedef struct Header {
    uint32_t request, flags, size;
} Header;

typedef struct RingState {
    uint32_t index, num;
} RingState;

/* Descriptors that came; closed unless taken. */
typedef struct Fds {
    int fd[MESSAGE_MAX_FDS];
    unsigned n;
    bool too_many;
} Fds;

/* Sends `len` bytes of payload, and descriptors with them, which stay the caller's. */
bool message_tell_fds(VhostUser *u, Request request, uint32_t flags, const void *payload,
                      size_t len, const int *fds, unsigned n_fds, GError **error);

/* The same, and waits for the answer that says whether it was done, where the back end
 * gives one (REPLY_ACK).  Without it a refusal shows as a hang-up, later. */
bool message_tell_acked(VhostUser *u, Request request, const void *payload, size_t len,
                        const int *fds, unsigned n_fds, GError **error);
bool message_tell_u64(VhostUser *u, Request request, uint64_t value, GError **error);
bool message_tell_state(VhostUser *u, Request request, unsigned index, uint32_t num,
                        GError **error);
bool message_tell_ring_fd(VhostUser *u, Request request, unsigned index, int fd,
                          GError **error);

/* Reads the answer to `request`, of a payload of exactly `len` bytes; ret_fd NULL: no
 * descriptor may come with it. */
bool message_hear(VhostUser *u, Request request, void *payload, size_t len, int *ret_fd,
                  GError **error);
bool message_ask_u64(VhostUser *u, Request request, uint64_t *ret, GError **error);

/* For an answer of several sizes: its header, then its payload; *fds is to be cleared by
 * message_close_fds(). */
bool message_hear_header(VhostUser *u, Request request, Header *h, Fds *fds,
                         GError **error);
bool message_receive(VhostUser *u, Request request, void *buf, size_t len, Fds *fds,
                     GError **error);
void message_close_fds(Fds *fds);

/* Fails: what came is none of the answers that there are. */
bool message_lie(GError **error, Request request, const char *what);
