// SPDX-License-Identifier: Apache-2.0
// The loop's thread with the system calls that a running machine leaves it: all that the front end
// does goes on, and nothing that it does not need.
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/vmm/proxied_disk.h"
#include "vmm-lite/children.h"
#include "vmm-lite/sandbox/thread_filter.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using Phase = vmm::RemoteDevice::Phase;

constexpr uint64_t kDiskBytes = ProxiedDisk::kBlocks * ProxiedDisk::kBlockBytes;

class VmmSandboxTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!vmm::kFiltersBind) {
            GTEST_SKIP() << "the sanitizer makes system calls of its own";
        }
        ::signal(SIGPIPE, SIG_IGN);
        ASSERT_NE(std::getenv("OUTRIGGER_BLK_PROGRAM"), nullptr) << "names the program under test";
        std::string name = ::testing::TempDir() + "vmm-sandbox-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        std::ofstream(folder_ / "image").close();
        fs::resize_file(folder_ / "image", kDiskBytes);
    }

    void TearDown() override {
        host_.reset();
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    fs::path folder_;
    std::unique_ptr<vmm::Children> children_;
    std::unique_ptr<ProxyHost> host_;
};

TEST_F(VmmSandboxTest, ADiskIsServedAndItsDaemonStartedAgain) {
    host_ = std::make_unique<ProxyHost>(
        ProxyHost::Options{.make_source =
                               [this](vmm::EventLoop& loop) {
                                   children_ = vmm::Children::start(loop).value();
                                   auto command = vmm::blk_daemon("blk0", folder_ / "image", false);
                                   command.program = std::getenv("OUTRIGGER_BLK_PROGRAM");
                                   return children_->source(command);
                               },
                           .before_end = [this] { children_.reset(); },
                           .on_loop_thread =
                               [] {
                                   const auto filter = vmm::ThreadFilter::for_loop();
                                   ASSERT_TRUE(filter);
                                   ASSERT_TRUE(filter->enter());
                               },
                           .deadlines = {.drain = std::chrono::milliseconds(3000)}});
    const auto connected = host_->connect();
    ASSERT_TRUE(connected) << connected.error().message;
    host_->activate({.count = 2});
    ProxiedDisk disk(*host_, 2);
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(disk.write_all(static_cast<uint8_t>(i)));
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        const pid_t daemon =
            host_->on_loop<pid_t>([this] { return children_->process_of("blk0"); });
        ASSERT_GT(daemon, 0);
        ASSERT_EQ(::kill(daemon, SIGKILL), 0);
        ASSERT_TRUE(disk.read_all());
    }
    ASSERT_TRUE(host_->suspend());
    const auto state = host_->ask<std::vector<std::byte>>(
        [this](auto done) { host_->device().save_state(std::move(done)); });
    ASSERT_TRUE(state) << state.error().message;
    ASSERT_TRUE(host_->resume());
    // One that is late is left, and killed.
    const pid_t daemon = host_->on_loop<pid_t>([this] { return children_->process_of("blk0"); });
    ASSERT_EQ(::kill(daemon, SIGSTOP), 0);
    ASSERT_TRUE(host_->reset());
    host_->activate({.count = 2});
    EXPECT_TRUE(disk.read_all());
}

/// The exit of a process whose one thread is bound and then does `what`.
int ended_by(const Result<vmm::ThreadFilter>& filter, void (*what)()) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        if (!filter->enter()) {
            ::_exit(2);
        }
        what();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

TEST_F(VmmSandboxTest, WhatIsNotNeededEndsTheProcess) {
    const auto vcpu = vmm::ThreadFilter::for_vcpu();
    const auto loop = vmm::ThreadFilter::for_loop();
    ASSERT_TRUE(vcpu) << vcpu.error().message;
    ASSERT_TRUE(loop) << loop.error().message;
    const auto nothing = [] {};
    EXPECT_EQ(ended_by(vcpu, nothing), 0);
    EXPECT_EQ(ended_by(loop, nothing), 0);
    const auto execute = [] { (void)::execl("/bin/true", "true", nullptr); };
    EXPECT_EQ(ended_by(vcpu, execute), SIGSYS);
    EXPECT_EQ(ended_by(loop, execute), SIGSYS);
    const auto fork = [] { (void)::fork(); };
    EXPECT_EQ(ended_by(vcpu, fork), SIGSYS);
    EXPECT_EQ(ended_by(loop, fork), SIGSYS);
    const auto connect_outside = [] { (void)::socket(AF_INET, SOCK_STREAM, 0); };
    EXPECT_EQ(ended_by(vcpu, connect_outside), SIGSYS);
    EXPECT_EQ(ended_by(loop, connect_outside), SIGSYS);
    const auto connect = [] { (void)::socket(AF_UNIX, SOCK_STREAM, 0); };
    EXPECT_EQ(ended_by(vcpu, connect), SIGSYS);
    EXPECT_EQ(ended_by(loop, connect), 0);
    const auto executable = [] {
        (void)::mmap(nullptr, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    };
    EXPECT_EQ(ended_by(vcpu, executable), SIGSYS);
    EXPECT_EQ(ended_by(loop, executable), SIGSYS);
    const auto kill_others = [] { (void)::kill(::getpid(), 0); };
    EXPECT_EQ(ended_by(vcpu, kill_others), SIGSYS);
    EXPECT_EQ(ended_by(loop, kill_others), SIGSYS);
}

/// A page of memory whose file was shortened, read by a system call; of no other process.
TEST_F(VmmSandboxTest, OnlyItsOwnMemoryIsCopied) {
    const auto vcpu = vmm::ThreadFilter::for_vcpu();
    ASSERT_TRUE(vcpu) << vcpu.error().message;
    // The filter is made here, and bound in a child: the number of this process is the one that
    // counts.
    static const pid_t own = ::getpid();
    const auto copy_own = [] {
        char byte = 0;
        const iovec one{.iov_base = &byte, .iov_len = 1};
        (void)::process_vm_readv(own, &one, 1, &one, 1, 0);
    };
    EXPECT_EQ(ended_by(vcpu, copy_own), 0);
    const auto copy_others = [] {
        char byte = 0;
        const iovec one{.iov_base = &byte, .iov_len = 1};
        (void)::process_vm_readv(own + 1, &one, 1, &one, 1, 0);
    };
    EXPECT_EQ(ended_by(vcpu, copy_others), SIGSYS);
}

TEST_F(VmmSandboxTest, FilesCannotBeOpened) {
    const auto open = [] {
        if (::open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES) {
            ::_exit(3);
        }
    };
    EXPECT_EQ(ended_by(vmm::ThreadFilter::for_vcpu(), open), 0);
    EXPECT_EQ(ended_by(vmm::ThreadFilter::for_loop(), open), 0);
}

}  // namespace
}  // namespace outrigger::testing
