// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/machine.h"

#include <algorithm>
#include <csignal>
#include <span>
#include <thread>
#include <utility>

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

#include "vmm-lite/boot/layout.h"
#include "vmm-lite/kvm/cpuid.h"
#include "vmm-lite/kvm/vcpu_state.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kGibibyte = 1ULL << 30U;
constexpr uint64_t kHighWindowBytes = 16 * kGibibyte;
constexpr uint32_t kAddressSizesLeaf = 0x80000008;
constexpr unsigned kAddressBitsDefault = 36;
constexpr uint8_t kPhaseInit = 1;

/// How often a page is asked for again that may be one of a file that has become shorter: longer
/// than it takes until the files are looked at.
constexpr unsigned kMemoryFaultsMax = 30;
constexpr std::chrono::milliseconds kMemoryFaultPause{50};

/// A panic ends the machine with a status of its own, and a restart takes the way that ACPI says.
/// What the operator gives stands behind and wins.
constexpr std::string_view kDefaultCommandLine = "reboot=a panic=-1";
/// Without a serial port the kernel need not look for four.
constexpr std::string_view kNoSerialPorts = " 8250.nr_uarts=0";

/// The window for BARs above all RAM; nothing when the processor cannot address it.
std::optional<AddressWindow> high_window(const GuestMemory& memory,
                                         const std::vector<kvm_cpuid_entry2>& cpuid,
                                         uint64_t shared_bytes) {
    unsigned bits = kAddressBitsDefault;
    for (const kvm_cpuid_entry2& entry : cpuid) {
        if (entry.function == kAddressSizesLeaf) {
            bits = entry.eax & 0xFFU;
        }
    }
    const uint64_t above = std::max(static_cast<uint64_t>(memory.end()), kHighMemoryStart);
    const uint64_t start = align_up(above, kGibibyte).value_or(UINT64_MAX);
    // Twice: a BAR begins at a multiple of its length.
    const uint64_t bytes = kHighWindowBytes + 2 * shared_bytes;
    if (bits < 64 && !range_fits<uint64_t>(start, bytes, uint64_t{1} << bits)) {
        return std::nullopt;
    }
    return AddressWindow{.start = start, .bytes = bytes};
}

std::string_view name_of(LoadedGuest::Way way) {
    switch (way) {
        case LoadedGuest::Way::kBzImage:
            return "bzImage";
        case LoadedGuest::Way::kUnpacked:
            return "prepared";
        case LoadedGuest::Way::kFromCache:
            return "prepared, from the cache";
    }
    return "";
}

/// What serves a device that has a path and no socket.
Children::Command daemon_of(const DeviceOptions& options, const std::string& name) {
    if (options.kind == "blk") {
        return blk_daemon(name, options.path, options.read_only);
    }
    if (options.kind == "fs") {
        return fs_daemon(name, options.path, options.given.tag, options.read_only);
    }
    if (options.kind == "vsock") {
        return vsock_daemon(name, options.path, options.given.cid.value_or(0));
    }
    if (options.kind == "console") {
        return console_daemon(name, options.path);
    }
    return rng_daemon(name, options.path);
}

/// Unmaps the pages of a program or library that are only read: most belong to the start. What is
/// needed again comes from the page cache.
int give_code_back(dl_phdr_info* object, size_t /*bytes*/, void* /*context*/) {
    const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    for (const auto& segment : std::span(object->dlpi_phdr, object->dlpi_phnum)) {
        if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) {
            continue;
        }
        const uintptr_t start = align_down(object->dlpi_addr + segment.p_vaddr, page_bytes);
        const uintptr_t end = object->dlpi_addr + segment.p_vaddr + segment.p_memsz;
        // SAFETY: a mapped segment of ours, which nobody writes: its pages stay what they are.
        (void)::madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
    }
    return 0;
}

/// Five for each queue, and one for each piece of shared memory: more than the 1024 that are usual,
/// which are for programs that use select(). Behind the start of Children, who pass theirs on.
void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/// So that they reach the descriptor and no thread. Before there are threads.
Result<UniqueFd> take_signals() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
        ::sigaddset(&set, signal);
    }
    if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) {
        return failure(Error{.message = "cannot block signals"});
    }
    UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd.valid()) {
        return failure(error_from_errno("cannot watch signals"));
    }
    return fd;
}

}  // namespace

Machine::Machine(const MachineOptions& options, BootPhases::Clock::time_point started)
    : options_(options),
      phases_(started),
      power_([this](PowerRequest request) { on_power(request); }),
      keyboard_([this](PowerRequest request) { on_power(request); }),
      boot_phase_([this](uint8_t phase) {
          if (phase == kPhaseInit) {
              phases_.reach(BootPhase::kInit);
          }
      }) {}

Machine::~Machine() = default;

MachineEnd Machine::run() {
    if (const auto ready = set_up(); !ready) {
        log(LogLevel::kError, "{}", ready.error().error.message);
        end_ = static_cast<int>(ready.error().end);
        return ready.error().end;
    }
    run_guest();
    return static_cast<MachineEnd>(end_.load());
}

Machine::Setup<void> Machine::set_up() {
    OUTRIGGER_TRY(open_host());
    OUTRIGGER_TRY(connect_devices());
    phases_.reach(BootPhase::kConnected);
    OUTRIGGER_TRY(create_machine());
    return {};
}

Machine::Setup<void> Machine::open_host() {
    const auto fail = [](MachineEnd how, Error error) {
        return failure(SetupFailure{how, std::move(error)});
    };
    // First of all: what starts daemons shall inherit nothing of the machine.
    if (std::ranges::any_of(options_.devices, [](const auto& one) { return one.socket.empty(); })) {
        auto children = Children::start(loop_);
        if (!children) {
            return fail(MachineEnd::kFailure, children.error());
        }
        children_ = *std::move(children);
    }
    raise_descriptor_limit();
    auto signals = take_signals();
    if (!signals) {
        return fail(MachineEnd::kFailure, signals.error());
    }
    signals_ = *std::move(signals);
    auto host = KvmHost::open();
    if (!host) {
        return fail(MachineEnd::kFailure, host.error());
    }
    host_.emplace(*std::move(host));
    for (const RequiredCapability& missing : host_->missing_capabilities()) {
        return fail(MachineEnd::kFailure,
                    {.message = fmt::format("this host's KVM lacks {}: {}; see vmm-lite --check",
                                            missing.name,
                                            missing.purpose)});
    }
    if (options_.vcpus > static_cast<unsigned>(host_->vcpus_max())) {
        return fail(MachineEnd::kBadConfig,
                    {.message = fmt::format("this host's KVM runs at most {} processors",
                                            host_->vcpus_max())});
    }
    auto memory =
        GuestMemory::create({.bytes = options_.memory_bytes, .huge_pages = options_.huge_pages});
    if (!memory) {
        return fail(MachineEnd::kBadConfig, memory.error());
    }
    memory_.emplace(*std::move(memory));
    return {};
}

Result<std::unique_ptr<RemoteDevice>> Machine::make_device(const DeviceOptions& options,
                                                           size_t index) {
    const DeviceKind* const known = find_device_kind(options.kind);
    RemoteDevice::Options remote;
    remote.kind = known != nullptr ? *known : device_kind_of(options.virtio_id);
    remote.shared_memory = true;
    remote.name = fmt::format("{}{}", options.kind.empty() ? "device" : options.kind, index);
    if (!options.socket.empty()) {
        remote.source = socket_source(options.socket);
        remote.given = options.given;
    } else {
        remote.source = children_->source(daemon_of(options, remote.name));
    }
    return std::make_unique<RemoteDevice>(loop_, memory_->regions(), std::move(remote));
}

Machine::Setup<void> Machine::connect_devices() {
    for (const DeviceOptions& device : options_.devices) {
        auto made = make_device(device, devices_.size());
        if (!made) {
            return failure(SetupFailure{MachineEnd::kBackendLost, made.error()});
        }
        devices_.push_back(*std::move(made));
    }
    // The loop runs on a thread of its own as long as this one waits for the back ends.
    std::thread loop([this] { loop_.run(); });
    auto connected = connect_all(devices_);
    loop_.stop();
    loop.join();
    if (!connected) {
        return failure(SetupFailure{MachineEnd::kBackendLost, connected.error()});
    }
    return {};
}

/// Before the threads that it is for.
Result<void> Machine::prepare_operation() {
    if (!options_.control_socket.empty()) {
        operators_ = OUTRIGGER_TRY(OperatorServer::listen(loop_, options_.control_socket, *this));
    }
    if (!options_.metrics_socket.empty()) {
        metrics_ = OUTRIGGER_TRY(MetricsServer::listen(
            loop_,
            options_.metrics_socket,
            [this](MetricsFormat format) { return machine_metrics_text(metrics(), format); },
            {}));
    }
    if (options_.sandbox) {
        vcpu_filter_ = OUTRIGGER_TRY(ThreadFilter::for_vcpu());
        loop_filter_ = OUTRIGGER_TRY(ThreadFilter::for_loop());
    }
    return {};
}

void Machine::enter(const std::optional<ThreadFilter>& filter) {
    if (!filter) {
        return;
    }
    if (const auto entered = filter->enter(); !entered) {
        log(LogLevel::kError, "{}", entered.error().message);
        end(MachineEnd::kFailure);
    }
}

Machine::Setup<void> Machine::create_machine() {
    const auto fail = [](const Error& error, MachineEnd how = MachineEnd::kFailure) {
        return failure(SetupFailure{how, error});
    };
    const auto cpuid = host_->supported_cpuid();
    if (!cpuid) {
        return fail(cpuid.error());
    }
    auto vm = KvmVm::create(*host_);
    if (!vm) {
        return fail(vm.error());
    }
    vm_.emplace(*std::move(vm));
    interrupts_.emplace(vm_->fd(), static_cast<uint32_t>(host_->capability(KVM_CAP_IRQ_ROUTING)));
    if (const auto started = interrupts_->start(); !started) {
        return fail(started.error());
    }
    if (const auto set = vm_->set_memory(memory_->regions()); !set) {
        return fail(set.error());
    }
    slots_.emplace(vm_->fd(),
                   static_cast<uint32_t>(memory_->regions().size()),
                   static_cast<uint32_t>(host_->capability(KVM_CAP_NR_MEMSLOTS)));
    uint64_t shared_bytes = 0;
    for (const auto& device : devices_) {
        shared_bytes += SharedBar::bytes_for(device->shared_memory());
    }
    const auto window = high_window(*memory_, *cpuid, shared_bytes);
    if (!window) {
        return fail({.message = shared_bytes == 0 ? "this host's processor cannot address so much "
                                                    "memory; give less"
                                                  : "this host's processor cannot address the "
                                                    "memory and what devices share with the guest"},
                    MachineEnd::kBadConfig);
    }
    window_ = *window;
    if (const auto created = create_pci(); !created) {
        return fail(created.error());
    }
    if (const auto filled = fill_buses(); !filled) {
        return fail(filled.error());
    }
    if (const auto wired = wire_power_button(); !wired) {
        return fail(wired.error());
    }
    if (const auto loaded = load(); !loaded) {
        return fail(loaded.error(), MachineEnd::kBadConfig);
    }
    phases_.reach(BootPhase::kLoaded);
    if (const auto created = create_vcpus(*cpuid); !created) {
        return fail(created.error());
    }
    if (const auto prepared = prepare_operation(); !prepared) {
        return fail(prepared.error());
    }
    return {};
}

Result<void> Machine::create_pci() {
    pci_.emplace(AddressWindow{.start = layout::kMmio32, .bytes = layout::kMmio32Bytes}, window_);
    for (size_t i = 0; i < devices_.size(); ++i) {
        auto function = OUTRIGGER_TRY(
            VirtioPciFunction::create(*devices_[i],
                                      *memory_,
                                      *interrupts_,
                                      *vm_,
                                      *slots_,
                                      {.needs_reset = [this, i] { on_device_needs_reset(i); },
                                       .memory_lost = [this, i] { on_shared_memory_lost(i); }}));
        OUTRIGGER_TRY(pci_->add(*function));
        functions_.push_back(std::move(function));
    }
    return {};
}

Result<void> Machine::fill_buses() {
    bool fits =
        ports_.add(layout::kSleepControlPort, layout::kPowerPorts, "power", &power_) &&
        ports_.add(layout::kBootPhasePort, 1, "boot phase", &boot_phase_) &&
        ports_.add(layout::kKeyboardPort, 1, "keyboard reset", &keyboard_) &&
        // What Linux looks for and does not find: counted, and all ones.
        ports_.add(0xCF8, 8, "legacy PCI", nullptr) &&
        addresses_.add(layout::kEcam, layout::kEcamBytes, "PCI configuration", &pci_->ecam()) &&
        addresses_.add(
            layout::kMmio32, layout::kMmio32Bytes, "virtio, below 4G", &pci_->low_window()) &&
        addresses_.add(window_.start, window_.bytes, "virtio", &pci_->high_window());
    if (options_.serial) {
        serial_ = OUTRIGGER_TRY(
            SerialConsole::create(*interrupts_, [this] { end(MachineEnd::kStopped); }));
        fits = fits &&
               ports_.add(layout::kSerialPort, layout::kSerialPorts, "serial", &serial_->port());
        serial_->watch_input(loop_);
    }
    OUTRIGGER_ASSERT(fits);
    return {};
}

Result<void> Machine::load() {
    std::string command_line(kDefaultCommandLine);
    command_line += options_.serial ? "" : kNoSerialPorts;
    if (!options_.command_line.empty()) {
        command_line += " " + options_.command_line;
    }
    guest_ = OUTRIGGER_TRY(load_guest(*memory_,
                                      {.kernel = options_.kernel,
                                       .initrd = options_.initrd,
                                       .command_line = command_line,
                                       .prepared = options_.prepared_kernel,
                                       .kaslr = options_.kaslr,
                                       .cache_directory = options_.kernel_cache,
                                       .acpi = {.vcpus = options_.vcpus,
                                                .serial = options_.serial,
                                                .power_button = power_button_.valid(),
                                                .mmio64 = window_.start,
                                                .mmio64_bytes = window_.bytes}}));
    return {};
}

Result<void> Machine::create_vcpus(const std::vector<kvm_cpuid_entry2>& cpuid) {
    const bool tsc_deadline = host_->capability(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
    for (unsigned i = 0; i < options_.vcpus; ++i) {
        auto vcpu = OUTRIGGER_TRY(Vcpu::create(*host_, *vm_, i, *this));
        OUTRIGGER_TRY(set_common_state(
            vcpu->fd(),
            cpuid_for(cpuid, {.vcpu = i, .vcpus = options_.vcpus, .tsc_deadline = tsc_deadline})));
        if (i == 0) {
            OUTRIGGER_TRY(set_entry_state(vcpu->fd(), guest_.entry));
        }
        vcpus_.push_back(std::move(vcpu));
    }
    return {};
}

void Machine::run_guest() {
    auto watch = loop_.watch(signals_.get(), [this] {
        signalfd_siginfo info{};
        (void)!::read(signals_.get(), &info, sizeof(info));
        end(MachineEnd::kStopped);
    });
    if (!watch) {
        log(LogLevel::kError, "{}", watch.error().message);
        end(MachineEnd::kFailure);
        return;
    }
    signal_watch_ = *std::move(watch);
    // What loading took and gave back is the host's again, and what it did is not needed any more.
    (void)::malloc_trim(0);
    (void)::dl_iterate_phdr(give_code_back, nullptr);
    phases_.reach(BootPhase::kFirstInstruction);
    for (const auto& vcpu : vcpus_) {
        vcpu->start([this] { enter(vcpu_filter_); });
    }
    // Behind the start of the other threads, which it would bind, too.
    enter(loop_filter_);
    loop_.run();
    for (const auto& vcpu : vcpus_) {
        vcpu->request_stop();
    }
    for (const auto& vcpu : vcpus_) {
        vcpu->join();
    }
    signal_watch_ = {};
    quit_ = {};
    operators_.reset();
    metrics_.reset();
    end_ = static_cast<int>(judge_end());
    // From here on nobody calls anybody: devices go before what they were told of.
    functions_.clear();
    devices_.clear();
}

void Machine::end(MachineEnd how) {
    // The first reason counts.
    int none = -1;
    if (end_.compare_exchange_strong(none, static_cast<int>(how))) {
        loop_.stop();
    }
}

MachineEnd Machine::judge_end() const {
    const auto how = static_cast<MachineEnd>(end_.load());
    if (how == MachineEnd::kReset && std::ranges::any_of(vcpus_, [](const auto& vcpu) {
            return guest_clock_is_on(vcpu->fd());
        })) {
        return MachineEnd::kPanic;
    }
    return how;
}

void Machine::on_power(PowerRequest request) {
    end(request == PowerRequest::kOff ? MachineEnd::kPowerOff : MachineEnd::kReset);
    // The vCPU that asked does nothing more; its own thread is the one that calls this.
    for (const auto& vcpu : vcpus_) {
        vcpu->request_stop();
    }
}

void Machine::on_device_needs_reset(size_t index) {
    if (devices_[index]->status().phase == RemoteDevice::Phase::kLost) {
        end(MachineEnd::kBackendLost);
    }
}

/// On the thread of the vCPU whose access it was, which can neither go on nor wait for ever.
void Machine::on_shared_memory_lost(size_t index) {
    log(LogLevel::kError,
        "{}: the guest used shared memory that its file no longer has: somebody has shortened a "
        "file of the host that the guest had mapped",
        devices_[index]->name());
    end(MachineEnd::kFailure);
    for (const auto& vcpu : vcpus_) {
        vcpu->request_stop();
    }
}

void Machine::read_port(uint16_t port, std::span<std::byte> out) {
    ports_.read(port, out);
}

void Machine::write_port(uint16_t port, std::span<const std::byte> in) {
    ports_.write(port, in);
}

void Machine::read_memory(uint64_t address, std::span<std::byte> out) {
    addresses_.read(address, out);
}

void Machine::write_memory(uint64_t address, std::span<const std::byte> in) {
    addresses_.write(address, in);
}

void Machine::on_triple_fault(unsigned vcpu) {
    // Which one says how far the guest was: all but 0 begin late.
    log(LogLevel::kError,
        "processor {}: triple fault, as the guest could not handle a fault",
        vcpu);
    end(MachineEnd::kTripleFault);
}

/// Whether KVM tells us or has the guest wait depends on what the guest was doing. When the file
/// has been looked at, the page is in no slot any more, and the access comes to the BAR, which
/// knows what to say.
bool Machine::on_memory_fault(unsigned attempts) {
    const bool may_be_shared = std::ranges::any_of(
        devices_, [](const auto& device) { return !device->shared_memory().empty(); });
    if (!may_be_shared || attempts > kMemoryFaultsMax) {
        return false;
    }
    std::this_thread::sleep_for(kMemoryFaultPause);
    return true;
}

void Machine::on_vcpu_failure(std::string reason) {
    log(LogLevel::kError, "{}", reason);
    end(MachineEnd::kFailure);
}

MachineStatistics Machine::statistics() const {
    MachineStatistics statistics;
    for (const auto& vcpu : vcpus_) {
        for (size_t i = 0; i < kExitKinds; ++i) {
            statistics.exits[i] += vcpu->exit_counts()[i].load(std::memory_order_relaxed);
        }
    }
    for (const Bus* const bus : {&ports_, &addresses_}) {
        for (const Bus::Entry& entry : bus->entries()) {
            statistics.accesses.emplace_back(entry.name,
                                             entry.reads.load(std::memory_order_relaxed) +
                                                 entry.writes.load(std::memory_order_relaxed));
        }
    }
    statistics.accesses.emplace_back("nothing",
                                     ports_.stray_accesses() + addresses_.stray_accesses());
    for (size_t i = 0; i < kBootPhases; ++i) {
        statistics.phases[i] = phases_.when(static_cast<BootPhase>(i));
    }
    if (const int how = end_.load(); how >= 0) {
        statistics.end = vmm::describe(static_cast<MachineEnd>(how));
    }
    statistics.kernel_way = name_of(guest_.way);
    statistics.kernel_address = guest_.kernel_address;
    return statistics;
}

}  // namespace outrigger::vmm
