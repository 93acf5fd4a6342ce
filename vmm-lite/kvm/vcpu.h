// SPDX-License-Identifier: Apache-2.0
/// One processor of the guest and its thread.
///
/// The thread does nothing but run the guest and hand its accesses to an ExitHandler. It is stopped
/// and paused from outside by a signal, and there is no moment at which that could be missed: the
/// flag that KVM itself looks at (immediate_exit) is set before the signal is sent, and whoever
/// waits for the thread sends it again, as the handler may have been about to wait for something
/// else.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <linux/kvm.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/entry_state.h"
#include "vmm-lite/kvm/kvm_host.h"
#include "vmm-lite/kvm/kvm_vm.h"

namespace outrigger::vmm {

/// Why KVM gave a processor back to this program.
enum class ExitKind : uint8_t {
    kPortRead,
    kPortWrite,
    kMemoryRead,
    kMemoryWrite,
    kInterrupted,  ///< a signal: not the guest's doing
    kShutdown,     ///< triple fault
    kOther,
};
inline constexpr size_t kExitKinds = 7;
[[nodiscard]] std::string_view exit_kind_name(ExitKind kind);

/// Thread: any vCPU's, several at once.
class ExitHandler {
  public:
    virtual ~ExitHandler() = default;
    virtual void read_port(uint16_t port, std::span<std::byte> out) = 0;
    virtual void write_port(uint16_t port, std::span<const std::byte> in) = 0;
    virtual void read_memory(uint64_t address, std::span<std::byte> out) = 0;
    virtual void write_memory(uint64_t address, std::span<const std::byte> in) = 0;
    virtual void on_triple_fault(unsigned vcpu) = 0;
    /// KVM could not get a page behind the guest's addresses, `attempts` times in a row. True: try
    /// again.
    virtual bool on_memory_fault(unsigned attempts) = 0;
    /// KVM cannot go on with this processor.
    virtual void on_vcpu_failure(std::string reason) = 0;
};

class Vcpu final {
  public:
    using ExitCounts = std::array<std::atomic<uint64_t>, kExitKinds>;

    /// `handler` outlives the thread.
    [[nodiscard]] static Result<std::unique_ptr<Vcpu>> create(const KvmHost& host,
                                                              const KvmVm& vm,
                                                              unsigned index,
                                                              ExitHandler& handler);
    /// Stops and joins.
    ~Vcpu();

    Vcpu(const Vcpu&) = delete;
    Vcpu& operator=(const Vcpu&) = delete;

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// Once. The guest runs from here on, when the thread has called `first`.
    void start(std::function<void()> first = {});

    /// The guest executes nothing more once this thread has come back from KVM. Any thread; from
    /// within the handler, too.
    void request_stop();
    void join();

    /// Returns when the processor stands still, with its last access complete. Not from the
    /// handler.
    void pause();
    void resume();

    [[nodiscard]] const ExitCounts& exit_counts() const { return exit_counts_; }

  private:
    enum class Wanted : uint8_t { kRun, kPause, kStop };

    Vcpu(UniqueFd fd, std::span<std::byte> run_page, unsigned index, ExitHandler& handler);

    void want(Wanted wanted);
    void kick();  // with mutex_
    template <class Done>
    void kick_until(std::unique_lock<std::mutex>& lock, Done done);
    void on_kicked();
    void run_loop();
    [[nodiscard]] bool stand_still();
    void run_once();
    void handle_exit();
    void handle_port();
    void handle_memory();
    void count(ExitKind kind);
    void fail(std::string reason);

    UniqueFd fd_;
    std::span<std::byte> run_page_;  // shared with KVM; ours to unmap
    kvm_run* run_ = nullptr;
    const unsigned index_;
    ExitHandler& handler_;
    ExitCounts exit_counts_{};
    unsigned memory_faults_ = 0;  // in a row

    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<Wanted> wanted_ = Wanted::kRun;
    bool still_ = true;   // the guest is not run; with mutex_
    bool ended_ = false;  // nor will it be; with mutex_
    std::thread thread_;
};

}  // namespace outrigger::vmm
