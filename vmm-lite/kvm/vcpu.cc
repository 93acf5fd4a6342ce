// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/vcpu.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

int kick_signal() {
    return SIGRTMIN;
}

constexpr std::chrono::milliseconds kKickAgain{10};

void ignore_kick(int /*signal*/) {}

/// Without SA_RESTART: KVM_RUN is to return.
void install_kick_handler() {
    struct sigaction action = {};
    action.sa_handler = ignore_kick;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(kick_signal(), &action, nullptr);
}

}  // namespace

std::string_view exit_kind_name(ExitKind kind) {
    switch (kind) {
        case ExitKind::kPortRead:
            return "port read";
        case ExitKind::kPortWrite:
            return "port write";
        case ExitKind::kMemoryRead:
            return "memory read";
        case ExitKind::kMemoryWrite:
            return "memory write";
        case ExitKind::kInterrupted:
            return "interrupted";
        case ExitKind::kShutdown:
            return "triple fault";
        case ExitKind::kOther:
            return "other";
    }
    return "";
}

Result<std::unique_ptr<Vcpu>> Vcpu::create(const KvmHost& host,
                                           const KvmVm& vm,
                                           unsigned index,
                                           ExitHandler& handler) {
    UniqueFd fd = OUTRIGGER_TRY(vm.create_vcpu(index));
    const size_t run_bytes = OUTRIGGER_TRY(host.run_bytes());
    void* const run = ::mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (run == MAP_FAILED) {
        return failure(error_from_errno("cannot map a processor's state"));
    }
    return std::unique_ptr<Vcpu>(
        new Vcpu(std::move(fd), {static_cast<std::byte*>(run), run_bytes}, index, handler));
}

Vcpu::Vcpu(UniqueFd fd, std::span<std::byte> run_page, unsigned index, ExitHandler& handler)
    : fd_(std::move(fd)),
      run_page_(run_page),
      // SAFETY: KVM says how large the mapping is, and KvmHost::run_bytes() that it holds the
      // struct; it is page-aligned and lives as long as this. KVM writes it during KVM_RUN alone.
      run_(reinterpret_cast<kvm_run*>(run_page_.data())),
      index_(index),
      handler_(handler) {}

Vcpu::~Vcpu() {
    request_stop();
    join();
    ::munmap(run_page_.data(), run_page_.size());
}

void Vcpu::start(std::function<void()> first) {
    install_kick_handler();
    const std::lock_guard lock(mutex_);
    thread_ = std::thread([this, first = std::move(first)] {
        if (first) {
            first();
        }
        run_loop();
    });
    ::pthread_setname_np(thread_.native_handle(), fmt::format("vcpu{}", index_).c_str());
}

void Vcpu::want(Wanted wanted) {
    const std::lock_guard lock(mutex_);
    if (wanted_.load() == Wanted::kStop) {
        return;
    }
    wanted_.store(wanted);
    kick();
    changed_.notify_all();
}

void Vcpu::kick() {
    if (thread_.joinable() && thread_.get_id() != std::this_thread::get_id()) {
        // First the flag, then the signal: between the thread's look at `wanted_` and its entry
        // into the guest the signal alone would be lost, and KVM looks at the flag after it.
        __atomic_store_n(&run_->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
        ::pthread_kill(thread_.native_handle(), kick_signal());
    }
}

template <class Done>
void Vcpu::kick_until(std::unique_lock<std::mutex>& lock, Done done) {
    while (!changed_.wait_for(lock, kKickAgain, done)) {
        if (wanted_.load() != Wanted::kRun) {
            kick();
        }
    }
}

void Vcpu::request_stop() {
    want(Wanted::kStop);
}

void Vcpu::join() {
    if (!thread_.joinable()) {
        return;
    }
    {
        std::unique_lock lock(mutex_);
        kick_until(lock, [this] { return ended_; });
    }
    thread_.join();
}

void Vcpu::pause() {
    want(Wanted::kPause);
    std::unique_lock lock(mutex_);
    kick_until(lock, [this] { return still_ || wanted_.load() != Wanted::kPause; });
}

void Vcpu::resume() {
    want(Wanted::kRun);
}

void Vcpu::run_loop() {
    {
        const std::lock_guard lock(mutex_);
        still_ = false;
    }
    while (true) {
        if (wanted_.load() != Wanted::kRun && !stand_still()) {
            break;
        }
        run_once();
    }
    const std::lock_guard lock(mutex_);
    still_ = true;
    ended_ = true;
    changed_.notify_all();
}

/// A kick that came too late to be one: the guest was to run again before the thread saw that it
/// was to stand still.
void Vcpu::on_kicked() {
    count(ExitKind::kInterrupted);
    const std::lock_guard lock(mutex_);
    if (wanted_.load() == Wanted::kRun) {
        __atomic_store_n(&run_->immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST);
    }
}

bool Vcpu::stand_still() {
    if (wanted_.load() == Wanted::kStop) {
        return false;
    }
    // The instruction behind the last exit is complete only when the guest is entered again.
    __atomic_store_n(&run_->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
    (void)::ioctl(fd_.get(), KVM_RUN, 0);
    std::unique_lock lock(mutex_);
    still_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return wanted_.load() != Wanted::kPause; });
    still_ = false;
    if (wanted_.load() == Wanted::kStop) {
        return false;
    }
    // Tells the guest that time went on without it. It has no clock yet when this fails.
    (void)::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
    // With the lock: whoever kicks next sets it again.
    __atomic_store_n(&run_->immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST);
    return true;
}

void Vcpu::run_once() {
    if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) {
        if (run_->exit_reason != KVM_EXIT_INTERNAL_ERROR) {
            memory_faults_ = 0;
        }
        handle_exit();
        return;
    }
    // EAGAIN: a processor that the guest has not started yet, woken for nothing.
    if (errno == EINTR || errno == EAGAIN) {
        on_kicked();
        return;
    }
    if (errno == EFAULT) {
        if (handler_.on_memory_fault(++memory_faults_)) {
            return;
        }
        fail("KVM cannot reach the guest's memory: the host is out of memory or huge pages");
        return;
    }
    fail(error_from_errno("KVM_RUN").message);
}

void Vcpu::handle_exit() {
    switch (run_->exit_reason) {
        case KVM_EXIT_IO:
            handle_port();
            break;
        case KVM_EXIT_MMIO:
            handle_memory();
            break;
        case KVM_EXIT_INTR:
            on_kicked();
            break;
        case KVM_EXIT_SHUTDOWN:
            count(ExitKind::kShutdown);
            handler_.on_triple_fault(index_);
            want(Wanted::kStop);
            break;
        case KVM_EXIT_INTERNAL_ERROR:
            count(ExitKind::kOther);
            // Of an access to a device it knows the simple ones; where a piece of shared memory is
            // about to be there, the same instruction needs no emulation a moment later.
            if (run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
                handler_.on_memory_fault(++memory_faults_)) {
                break;
            }
            fail(fmt::format("KVM cannot emulate an instruction of the guest (internal error {})",
                             run_->internal.suberror));
            break;
        case KVM_EXIT_FAIL_ENTRY:
            count(ExitKind::kOther);
            fail(fmt::format("the processor does not enter the guest (reason {:#x})",
                             run_->fail_entry.hardware_entry_failure_reason));
            break;
        default:
            count(ExitKind::kOther);
            fail(fmt::format("KVM exits for reason {}, which this program does not know",
                             run_->exit_reason));
            break;
    }
}

void Vcpu::handle_port() {
    const auto io = run_->io;
    const bool is_read = io.direction == KVM_EXIT_IO_IN;
    count(is_read ? ExitKind::kPortRead : ExitKind::kPortWrite);
    // String instructions come with a count. KVM keeps to the page; this holds it to that.
    const uint64_t bytes = uint64_t{io.size} * io.count;
    if ((io.size != 1 && io.size != 2 && io.size != 4) ||
        !range_fits<uint64_t>(io.data_offset, bytes, run_page_.size())) {
        fail("KVM reports an impossible port access");
        return;
    }
    std::byte* element = run_page_.data() + io.data_offset;
    for (uint32_t i = 0; i < io.count; ++i, element += io.size) {
        if (is_read) {
            handler_.read_port(io.port, {element, io.size});
        } else {
            handler_.write_port(io.port, {element, io.size});
        }
    }
}

void Vcpu::handle_memory() {
    auto& access = run_->mmio;
    count(access.is_write != 0 ? ExitKind::kMemoryWrite : ExitKind::kMemoryRead);
    const uint32_t length = access.len;
    if (length == 0 || length > sizeof(access.data)) {
        fail("KVM reports an impossible memory access");
        return;
    }
    std::array<std::byte, sizeof(access.data)> data{};
    if (access.is_write != 0) {
        std::memcpy(data.data(), access.data, length);
        handler_.write_memory(access.phys_addr, std::span(data).first(length));
    } else {
        handler_.read_memory(access.phys_addr, std::span(data).first(length));
        std::memcpy(access.data, data.data(), length);
    }
}

void Vcpu::count(ExitKind kind) {
    exit_counts_[static_cast<size_t>(kind)].fetch_add(1, std::memory_order_relaxed);
}

void Vcpu::fail(std::string reason) {
    handler_.on_vcpu_failure(fmt::format("processor {}: {}", index_, reason));
    want(Wanted::kStop);
}

}  // namespace outrigger::vmm
