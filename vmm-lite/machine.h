// SPDX-License-Identifier: Apache-2.0
/// The virtual machine: puts the rooms together, runs the guest, and says how it ended.
///
/// Threads: the one that calls run(), which becomes the loop's, and one a processor.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm-lite/boot/loader.h"
#include "vmm-lite/bus/bus.h"
#include "vmm-lite/children.h"
#include "vmm-lite/control/metrics_server.h"
#include "vmm-lite/control/operator_server.h"
#include "vmm-lite/exit_status.h"
#include "vmm-lite/frontend/remote_device.h"
#include "vmm-lite/kvm/kvm_host.h"
#include "vmm-lite/kvm/kvm_interrupts.h"
#include "vmm-lite/kvm/kvm_slots.h"
#include "vmm-lite/kvm/kvm_vm.h"
#include "vmm-lite/kvm/vcpu.h"
#include "vmm-lite/legacy/power.h"
#include "vmm-lite/loop/event_loop.h"
#include "vmm-lite/machine_metrics.h"
#include "vmm-lite/machine_options.h"
#include "vmm-lite/mem/guest_memory.h"
#include "vmm-lite/pci/pci_bus.h"
#include "vmm-lite/sandbox/thread_filter.h"
#include "vmm-lite/serial_console.h"
#include "vmm-lite/statistics.h"
#include "vmm-lite/virtio/virtio_pci_function.h"

namespace outrigger::vmm {

class Machine final : private ExitHandler, private MachineOperator {
  public:
    Machine(const MachineOptions& options, BootPhases::Clock::time_point started);
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine() override;

    /// Until the guest is at its end. What went wrong is in the log.
    [[nodiscard]] MachineEnd run();

    [[nodiscard]] MachineStatistics statistics() const;

    /// Thread: the loop's.
    [[nodiscard]] MachineMetrics metrics() const;

  private:
    struct SetupFailure {
        MachineEnd end;
        Error error;
    };

    template <class T>
    using Setup = Result<T, SetupFailure>;

    [[nodiscard]] Setup<void> set_up();
    [[nodiscard]] Setup<void> open_host();
    [[nodiscard]] Setup<void> connect_devices();
    [[nodiscard]] Result<std::unique_ptr<RemoteDevice>> make_device(const DeviceOptions& options,
                                                                    size_t index);
    [[nodiscard]] Setup<void> create_machine();
    [[nodiscard]] Result<void> prepare_operation();
    void enter(const std::optional<ThreadFilter>& filter);
    [[nodiscard]] Result<void> create_pci();
    [[nodiscard]] Result<void> fill_buses();
    [[nodiscard]] Result<void> wire_power_button();
    [[nodiscard]] Result<void> load();
    [[nodiscard]] Result<void> create_vcpus(const std::vector<kvm_cpuid_entry2>& cpuid);
    void run_guest();
    void end(MachineEnd how);
    [[nodiscard]] MachineEnd judge_end() const;
    void on_power(PowerRequest request);
    void on_device_needs_reset(size_t index);
    void on_shared_memory_lost(size_t index);

    // What operators ask: machine_control.cc.
    void describe(control::v1::Machine& out) const override;
    void describe(control::v1::Costs& out) const override;
    void pause(Done done) override;
    void resume(Done done) override;
    [[nodiscard]] Result<void> press_power_button() override;
    void quit() override;
    void end_pause(Done done, const Result<void>& suspended);

    void read_port(uint16_t port, std::span<std::byte> out) override;
    void write_port(uint16_t port, std::span<const std::byte> in) override;
    void read_memory(uint64_t address, std::span<std::byte> out) override;
    void write_memory(uint64_t address, std::span<const std::byte> in) override;
    void on_triple_fault(unsigned vcpu) override;
    bool on_memory_fault(unsigned attempts) override;
    void on_vcpu_failure(std::string reason) override;

    const MachineOptions options_;
    BootPhases phases_;
    std::atomic<int> end_ = -1;  // a MachineEnd, when there is one
    EventLoop loop_;
    std::unique_ptr<Children> children_;  // outlives the devices
    std::optional<KvmHost> host_;
    std::optional<GuestMemory> memory_;
    std::vector<std::unique_ptr<RemoteDevice>> devices_;
    std::optional<KvmVm> vm_;
    std::optional<KvmInterrupts> interrupts_;
    std::optional<KvmSlots> slots_;
    AddressWindow window_;
    Bus ports_;
    Bus addresses_;
    PowerPorts power_;
    KeyboardReset keyboard_;
    BootPhasePort boot_phase_;
    std::unique_ptr<SerialConsole> serial_;
    UniqueFd power_button_;  // what it is pressed with, where somebody may
    std::optional<PciBus> pci_;
    std::vector<std::unique_ptr<VirtioPciFunction>> functions_;
    LoadedGuest guest_;
    UniqueFd signals_;
    EventLoop::Watch signal_watch_;
    std::unique_ptr<OperatorServer> operators_;
    std::unique_ptr<MetricsServer> metrics_;
    EventLoop::Timer quit_;
    std::optional<ThreadFilter> vcpu_filter_;
    std::optional<ThreadFilter> loop_filter_;
    bool paused_ = false;    // the loop's thread alone
    bool changing_ = false;  // likewise: a pause or its end is under way
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace outrigger::vmm
