/* Shared by the files of src/kvm only. */
#pragma once

#include "kvm/kvm.h"

/* Makes or changes the memory slot of region `i`; flags are KVM_MEM_*.  -1 and errno as
 * ioctl. */
int kvm_set_slot(const Kvm *kvm, unsigned i, uint32_t flags);
