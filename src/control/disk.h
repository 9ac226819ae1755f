/* Private to the commands about disks: which disk is meant, and may it be used. */
#pragma once

#include "backend/blockjob.h"
#include "control/control.h"

/* A thread of the pool.  The disk of that id, in use until block_unuse(); NULL with
 * VM_ERROR_NOT_FOUND. */
BlockDev *control_disk_use(ControlCall *call, const char *id, GError **error);

/* What QMP calls a BlockDeviceInfo: of one disk, under the name of its node. */
extern const ControlType control_disk_type;
json_t *control_disk_info(const char *node, BlockDev *disk);

/* A thread of the pool: what query-block returns; NULL on failure. */
json_t *control_disks_info(ControlCall *call, GError **error);

/* A thread of the pool: calls fn for each disk, in use meanwhile. */
bool control_disks_each(ControlCall *call,
                        void (*fn)(void *opaque, const char *id, BlockDev *disk),
                        void *opaque, GError **error);
