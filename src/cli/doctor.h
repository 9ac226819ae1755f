/* Private to doctor*.c: what is looked at on a host, and what is found. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "util/error.h"

/* A host, as far as it is not to be seen in files; a test makes its own. */
typedef struct Host {
    const char *root;                /* before all paths; "" */
    const char *path;                /* $PATH; NULL: not set */
    const char *runtime;             /* $XDG_RUNTIME_DIR; NULL: not set */
    bool is_root;                    /* the user is */
    char *vm_error;                  /* why no VM can be made; NULL: one was */
    char *switch_error;              /* why no network can be; NULL: it can */
    char *pcap_error;                /* why no filter can be made; NULL: one was */
    int uring_errno;                 /* of io_uring_setup(); 0: it works */
    int userfault_errno;             /* of userfaultfd(), for faults of user space */
    uint64_t nofile, memlock, nproc; /* limits, the hard ones; UINT64_MAX: none */
} Host;

typedef enum {
    FOUND_OK,
    FOUND_WARN, /* VMs run, but something of them does not */
    FOUND_FAIL, /* no VM can run */
} FoundLevel;

typedef struct Found {
    FoundLevel level;
    char *text;          /* what is so */
    const char *way_out; /* NULL: nothing is to be done */
} Found;

typedef struct Check {
    const char *name;
    Found (*look)(const Host *h);
} Check;

extern const Check doctor_checks[]; /* ends with a NULL name */
