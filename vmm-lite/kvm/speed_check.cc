// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/speed_check.h"

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>

#include <sys/ioctl.h>

#include "vmm-lite/kvm/kvm_vm.h"
#include "vmm-lite/kvm/vcpu.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::vmm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kCodeAt = 0x1000;
constexpr uint64_t kRounds = 100'000'000;
constexpr double kInstructionsPerRound = 2;
constexpr std::chrono::seconds kLongest{1};
// In 16-bit code: dec ecx; jnz back; out 0x10, al; hlt.
constexpr std::array<uint8_t, 7> kLoop = {0x66, 0x49, 0x75, 0xFC, 0xE6, 0x10, 0xF4};

/// Waits for the write of a port behind the loop.
class LoopEnd final : public ExitHandler {
  public:
    void read_port(uint16_t /*port*/, std::span<std::byte> /*out*/) override {}

    void write_port(uint16_t /*port*/, std::span<const std::byte> /*in*/) override { end(""); }

    void read_memory(uint64_t /*address*/, std::span<std::byte> /*out*/) override {}

    void write_memory(uint64_t /*address*/, std::span<const std::byte> /*in*/) override {}

    bool on_memory_fault(unsigned /*attempts*/) override { return false; }

    void on_triple_fault(unsigned /*vcpu*/) override { end("the loop ends in a triple fault"); }

    void on_vcpu_failure(std::string reason) override { end(std::move(reason)); }

    void wait() {
        std::unique_lock lock(mutex_);
        (void)changed_.wait_for(lock, kLongest, [this] { return ended_; });
    }

    [[nodiscard]] std::string failure() {
        const std::lock_guard lock(mutex_);
        return failure_;
    }

  private:
    void end(std::string failure) {
        const std::lock_guard lock(mutex_);
        ended_ = true;
        failure_ = std::move(failure);
        changed_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool ended_ = false;
    std::string failure_;
};

Result<void> enter_loop(int vcpu_fd) {
    kvm_sregs sregs = {};
    if (::ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
        return failure(error_from_errno("KVM_GET_SREGS"));
    }
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    kvm_regs regs = {};
    regs.rip = kCodeAt;
    regs.rcx = kRounds;
    regs.rflags = 2;
    if (::ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) != 0 ||
        ::ioctl(vcpu_fd, KVM_SET_REGS, &regs) != 0) {
        return failure(error_from_errno("KVM does not take a processor's registers"));
    }
    return {};
}

}  // namespace

Result<double> measure_guest_speed(const KvmHost& host) {
    const KvmVm vm = OUTRIGGER_TRY(KvmVm::create(host));
    const auto memory = OUTRIGGER_TRY(GuestMemory::create({.bytes = kMemoryBytesMin}));
    OUTRIGGER_TRY(vm.set_memory(memory.regions()));
    std::memcpy(memory.view(GuestAddr{kCodeAt}, kLoop.size()).data(), kLoop.data(), kLoop.size());
    LoopEnd end;
    const auto vcpu = OUTRIGGER_TRY(Vcpu::create(host, vm, 0, end));
    OUTRIGGER_TRY(enter_loop(vcpu->fd()));
    const auto began = Clock::now();
    vcpu->start();
    end.wait();
    vcpu->request_stop();
    vcpu->join();
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    if (const std::string why = end.failure(); !why.empty()) {
        return failure(Error{.message = why});
    }
    kvm_regs regs = {};
    if (::ioctl(vcpu->fd(), KVM_GET_REGS, &regs) != 0) {
        return failure(error_from_errno("KVM_GET_REGS"));
    }
    const uint64_t rounds = kRounds - (regs.rcx & UINT32_MAX);
    if (rounds == 0) {
        return failure(Error{.message = "KVM does not begin to run a loop within a second"});
    }
    return static_cast<double>(rounds) * kInstructionsPerRound / seconds;
}

}  // namespace outrigger::vmm
