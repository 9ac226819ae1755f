/* The VM's file descriptors, memory slots, interrupt routes and eventfds; contract in
 * kvm/kvm.h.  Requests are those of Documentation/virt/kvm/api.rst. */
#include "kvm_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "kvm/arch.h"
#include "util/bits.h"
#include "util/fd.h"

enum { FIRST_MSI_GSI = IRQ_MAX_GSI, PIC_PINS = 16 };

int kvm_ioctl(const Kvm *kvm, unsigned long request, void *arg)
{
    int r;

    do
        r = ioctl(kvm->vm_fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r;
}

int kvm_check_extension(const Kvm *kvm, int cap)
{
    int r = ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, (long)cap);

    return r < 0 ? 0 : r;
}

static bool open_device(Kvm *kvm, GError **error)
{
    const char *way_out = "";

    kvm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm->kvm_fd >= 0)
        return true;
    if (errno == ENOENT)
        way_out = arch_host_has_virtualization()
                      ? " (load the module: sudo modprobe kvm_intel, or kvm_amd)"
                      : " (this processor shows no VT-x or AMD-V: enable it in the "
                        "firmware setup, or nested virtualisation on the outer host)";
    else if (errno == EACCES || errno == EPERM)
        way_out = " (add yourself to the group that owns it: sudo usermod -aG kvm $USER, "
                  "then log in again)";
    else if (errno == ENODEV || errno == ENXIO)
        way_out =
            " (the kvm module is loaded without hardware virtualisation: enable VT-x or "
            "AMD-V in the firmware setup)";
    return fail_errno(error, "open /dev/kvm%s", way_out);
}

/* What cannot be done without, and what it is called in a sentence. */
static const struct {
    int cap;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "user memory regions"},
    {KVM_CAP_IRQCHIP, "an in-kernel interrupt controller"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_MP_STATE, "multiprocessor state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
};

static bool check_capabilities(const Kvm *kvm, GError **error)
{
    int version = ioctl(kvm->kvm_fd, KVM_GET_API_VERSION, 0L);

    if (version < 0)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "/dev/kvm is not KVM's device: make it anew with 'sudo rm /dev/kvm; "
                    "sudo udevadm trigger --name-match=kvm'");
    if (version != KVM_API_VERSION)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "/dev/kvm: speaks API version %d, %d is needed", version,
                    KVM_API_VERSION);
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++)
        if (!kvm_check_extension(kvm, needed[i].cap))
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "/dev/kvm: this kernel's KVM has no %s; a newer kernel is needed",
                        needed[i].name);
    return true;
}

Kvm *kvm_new(GError **error)
{
    g_autoptr(Kvm) kvm = g_new0(Kvm, 1);
    int size;

    kvm->kvm_fd = kvm->vm_fd = -1;
    lock_init(&kvm->route_lock);
    if (!open_device(kvm, error) || !check_capabilities(kvm, error))
        return NULL;
    do
        kvm->vm_fd = ioctl(kvm->kvm_fd, KVM_CREATE_VM, 0L);
    while (kvm->vm_fd < 0 && errno == EINTR);
    if (kvm->vm_fd < 0) {
        fail_errno(error, "/dev/kvm: make a VM%s",
                   errno == EBUSY ? " (another hypervisor holds the processor's "
                                    "virtualisation extensions)"
                                  : "");
        return NULL;
    }
    size = ioctl(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0L);
    if (size < (int)sizeof(struct kvm_run)) {
        fail_errno(error, "/dev/kvm: size of the vCPU area");
        return NULL;
    }
    kvm->run_size = (size_t)size;
    return g_steal_pointer(&kvm);
}

void kvm_free(Kvm *kvm)
{
    if (!kvm)
        return;
    arch_vm_finish(kvm);
    fd_close(&kvm->vm_fd);
    kvm_dirty_stop(kvm); /* the slots are gone: only memory is left to free */
    fd_close(&kvm->kvm_fd);
    g_free(kvm->routes);
    lock_finish(&kvm->route_lock);
    g_free(kvm);
}

int kvm_set_slot(const Kvm *kvm, unsigned i, uint32_t flags)
{
    const GuestRegion *r = &kvm->gm->region[i];
    struct kvm_userspace_memory_region slot = {
        .slot = i,
        .flags = flags,
        .guest_phys_addr = r->gpa,
        .memory_size = r->size,
        .userspace_addr = (uintptr_t)r->host,
    };

    return kvm_ioctl(kvm, KVM_SET_USER_MEMORY_REGION, &slot);
}

bool kvm_add_memory(Kvm *kvm, const GuestMem *gm, GError **error)
{
    const unsigned bits = arch_physical_bits();

    kvm->gm = gm;
    for (unsigned i = 0; i < gm->n_regions; i++) {
        const GuestRegion *r = &gm->region[i];

        if (!range_within(r->gpa, r->size, BIT64(bits)))
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "memory: %" G_GUINT64_FORMAT
                        " MiB end above the %u address bits of this processor; lower "
                        "--memory",
                        (guint64)(gm->size / MIB), bits);
        if (kvm_set_slot(kvm, i, 0) < 0)
            return fail_errno(error,
                              "memory: %" G_GUINT64_FORMAT " MiB at 0x%" G_GINT64_MODIFIER
                              "x is more than this host's KVM takes; lower --memory",
                              (guint64)(r->size / MIB), (guint64)r->gpa);
    }
    return true;
}

/* ---- interrupts ---------------------------------------------------------------------
 */

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    struct kvm_irq_level irq = {.irq = gsi, .level = level};

    kvm_ioctl(opaque, KVM_IRQ_LINE, &irq); /* fails only for a GSI that is not there */
}

/* KVM's own table has the legacy pins; ours replaces it, so it begins with the same. */
static void add_route(struct kvm_irq_routing *table, unsigned gsi, unsigned chip,
                      unsigned pin)
{
    table->entries[table->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

static struct kvm_irq_routing *new_routes(void)
{
    struct kvm_irq_routing *table = g_malloc0(sizeof(*table) +
                                              (PIC_PINS + IRQ_MAX_GSI + KVM_MAX_MSI) *
                                                  sizeof(table->entries[0]));

    for (unsigned pin = 0; pin < PIC_PINS; pin++)
        add_route(table, pin, pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                  pin % 8);
    /* The timer's GSI 0 is wired to pin 2, as the MADT says. */
    for (unsigned pin = 0; pin < IRQ_MAX_GSI; pin++)
        if (pin != 2)
            add_route(table, pin, KVM_IRQCHIP_IOAPIC, pin == 0 ? 2 : pin);
    return table;
}

static int alloc_msi(void *opaque, GError **error)
{
    Kvm *kvm = opaque;

    LOCK_GUARD(&kvm->route_lock);
    for (int i = 0; i < KVM_MAX_MSI; i++) {
        if (!kvm->msi_used[i]) {
            kvm->msi_used[i] = true;
            return FIRST_MSI_GSI + i;
        }
    }
    fail(error, VM_ERROR_BUSY, "all %d interrupt messages are in use", KVM_MAX_MSI);
    return -1;
}

static struct kvm_irq_routing_entry *find_msi_locked(Kvm *kvm, unsigned gsi)
{
    for (unsigned i = 0; i < kvm->routes->nr; i++)
        if (kvm->routes->entries[i].gsi == gsi)
            return &kvm->routes->entries[i];
    return NULL;
}

static void free_msi(void *opaque, int gsi)
{
    Kvm *kvm = opaque;
    struct kvm_irq_routing_entry *e;

    LOCK_GUARD(&kvm->route_lock);
    kvm->msi_used[gsi - FIRST_MSI_GSI] = false;
    e = kvm->routes ? find_msi_locked(kvm, (unsigned)gsi) : NULL;
    if (e) /* KVM's copy forgets it at the next change; nothing raises it meanwhile */
        *e = kvm->routes->entries[--kvm->routes->nr];
}

static bool route_msi(void *opaque, int gsi, uint64_t addr, uint32_t data)
{
    Kvm *kvm = opaque;
    struct kvm_irq_routing_entry *e;

    LOCK_GUARD(&kvm->route_lock);
    if (!kvm->routes)
        kvm->routes = new_routes();
    e = find_msi_locked(kvm, (unsigned)gsi);
    if (!e)
        e = &kvm->routes->entries[kvm->routes->nr++];
    *e = (struct kvm_irq_routing_entry){
        .gsi = (unsigned)gsi,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = (uint32_t)addr, .address_hi = addr >> 32, .data = data},
    };
    return kvm_ioctl(kvm, KVM_SET_GSI_ROUTING, kvm->routes) == 0;
}

static bool bind_msi(void *opaque, int gsi, int eventfd, bool on)
{
    struct kvm_irqfd irqfd = {
        .fd = (unsigned)eventfd,
        .gsi = (unsigned)gsi,
        .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };

    return kvm_ioctl(opaque, KVM_IRQFD, &irqfd) == 0;
}

const IrqOps kvm_irq_ops = {
    .set_gsi = set_gsi,
    .msi_alloc = alloc_msi,
    .msi_free = free_msi,
    .msi_route = route_msi,
    .msi_bind = bind_msi,
};

/* ---- kicks --------------------------------------------------------------------------
 */

static bool assign_kick(void *opaque, bool pio, uint64_t addr, unsigned size, bool match,
                        uint64_t value, int fd, bool on)
{
    struct kvm_ioeventfd e = {
        .datamatch = value,
        .addr = addr,
        .len = size,
        .fd = fd,
        .flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return kvm_ioctl(opaque, KVM_IOEVENTFD, &e) == 0;
}

const BusKickOps kvm_kick_ops = {.assign = assign_kick};
