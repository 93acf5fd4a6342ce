// SPDX-License-Identifier: Apache-2.0
// A processor of KVM that counts in memory, and is stopped and paused at bad moments.
#include "vmm-lite/kvm/vcpu.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/wait.h"
#include "vmm-lite/kvm/kvm_host.h"
#include "vmm-lite/kvm/kvm_vm.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kCodeAt = 0x1000;
constexpr uint64_t kCounterAt = 0x2000;
// In 16-bit code: inc word [0x2000]; jmp back.
constexpr std::array<uint8_t, 6> kCount = {0xFF, 0x06, 0x00, 0x20, 0xEB, 0xFA};
// out 0x10, al; jmp back.
constexpr std::array<uint8_t, 4> kOut = {0xE6, 0x10, 0xEB, 0xFC};

/// Where a port is written it waits for the test, and then for a full pipe that nobody reads.
class Handler final : public vmm::ExitHandler {
  public:
    Handler() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
        read_end_.reset(ends[0]);
        write_end_.reset(ends[1]);
        const std::array<std::byte, 4096> bytes{};
        while (::write(write_end_.get(), bytes.data(), bytes.size()) > 0) {
        }
        EXPECT_EQ(::fcntl(write_end_.get(), F_SETFL, 0), 0);
    }

    void read_port(uint16_t /*port*/, std::span<std::byte> /*out*/) override {}

    void write_port(uint16_t /*port*/, std::span<const std::byte> in) override {
        is_in_port = true;
        EXPECT_TRUE(eventually([this] { return may_wait.load(); }));
        (void)!::write(write_end_.get(), in.data(), in.size());
    }

    void read_memory(uint64_t /*address*/, std::span<std::byte> /*out*/) override {}

    void write_memory(uint64_t /*address*/, std::span<const std::byte> /*in*/) override {}

    bool on_memory_fault(unsigned /*attempts*/) override { return false; }

    void on_triple_fault(unsigned /*vcpu*/) override { ADD_FAILURE() << "triple fault"; }

    void on_vcpu_failure(std::string reason) override { ADD_FAILURE() << reason; }

    std::atomic<bool> is_in_port = false;
    std::atomic<bool> may_wait = false;

  private:
    UniqueFd read_end_;
    UniqueFd write_end_;
};

class VcpuTest : public ::testing::Test {
  protected:
    void SetUp() override {
        auto host = vmm::KvmHost::open();
        if (!host) {
            GTEST_SKIP() << "this needs /dev/kvm: " << host.error().message;
        }
        host_.emplace(*std::move(host));
        auto vm = vmm::KvmVm::create(*host_);
        ASSERT_TRUE(vm) << vm.error().message;
        vm_.emplace(*std::move(vm));
        auto memory = vmm::GuestMemory::create({.bytes = vmm::kMemoryBytesMin});
        ASSERT_TRUE(memory) << memory.error().message;
        memory_.emplace(*std::move(memory));
        ASSERT_TRUE(vm_->set_memory(memory_->regions()));
    }

    void run(std::span<const uint8_t> code) {
        std::memcpy(
            memory_->view(GuestAddr{kCodeAt}, code.size()).data(), code.data(), code.size());
        auto vcpu = vmm::Vcpu::create(*host_, *vm_, 0, handler_);
        ASSERT_TRUE(vcpu) << vcpu.error().message;
        vcpu_ = *std::move(vcpu);
        kvm_sregs sregs = {};
        ASSERT_EQ(::ioctl(vcpu_->fd(), KVM_GET_SREGS, &sregs), 0);
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        kvm_regs regs = {};
        regs.rip = kCodeAt;
        regs.rflags = 2;
        ASSERT_EQ(::ioctl(vcpu_->fd(), KVM_SET_SREGS, &sregs), 0);
        ASSERT_EQ(::ioctl(vcpu_->fd(), KVM_SET_REGS, &regs), 0);
    }

    [[nodiscard]] uint16_t counter() const {
        uint16_t value = 0;
        std::memcpy(
            &value, memory_->view(GuestAddr{kCounterAt}, sizeof value).data(), sizeof value);
        return value;
    }

    [[nodiscard]] bool is_counting() const {
        const uint16_t before = counter();
        return eventually([&] { return counter() != before; });
    }

    std::optional<vmm::KvmHost> host_;
    std::optional<vmm::KvmVm> vm_;
    std::optional<vmm::GuestMemory> memory_;
    Handler handler_;
    std::unique_ptr<vmm::Vcpu> vcpu_;
};

TEST_F(VcpuTest, StandsStillWhileItIsPaused) {
    run(kCount);
    vcpu_->start();
    ASSERT_TRUE(is_counting());
    for (int i = 0; i < 20; ++i) {
        vcpu_->pause();
        const uint16_t then = counter();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        EXPECT_EQ(counter(), then);
        vcpu_->resume();
        ASSERT_TRUE(is_counting()) << i;
    }
}

TEST_F(VcpuTest, RunsWhenItWasPausedAndResumedBeforeItsThreadBegan) {
    run(kCount);
    std::atomic<bool> may_begin = false;
    vcpu_->start([&] { EXPECT_TRUE(eventually([&] { return may_begin.load(); })); });
    vcpu_->pause();
    vcpu_->resume();
    may_begin = true;
    EXPECT_TRUE(is_counting());
}

TEST_F(VcpuTest, DoesNotRunWhenItWasPausedBeforeItsThreadBegan) {
    run(kCount);
    std::atomic<bool> may_begin = false;
    vcpu_->start([&] { EXPECT_TRUE(eventually([&] { return may_begin.load(); })); });
    vcpu_->pause();
    may_begin = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(counter(), 0);
    vcpu_->resume();
    EXPECT_TRUE(is_counting());
}

// The signal came before the handler began to wait: nothing else would interrupt that.
TEST_F(VcpuTest, IsStoppedWhileItsHandlerWaits) {
    run(kOut);
    vcpu_->start();
    ASSERT_TRUE(eventually([&] { return handler_.is_in_port.load(); }));
    vcpu_->request_stop();
    handler_.may_wait = true;
    vcpu_->join();
    vcpu_->pause();
}

}  // namespace
}  // namespace outrigger::testing
