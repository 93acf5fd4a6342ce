// SPDX-License-Identifier: Apache-2.0
// What a thread may still do behind the sandbox: each test lets a process of its own try.
#include "vhost-user-backend/daemon/sandbox.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/daemon/privileges.h"
#include "vhost-user-backend/daemon/sanitizers.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/helper_thread.h"
#include "vhost-user-backend/io/worker.h"

#include "tests/unit/daemon/try_to_connect.h"

namespace outrigger {
namespace {

/// What the process under test prints goes to `output`.
struct Ended {
    int status = -1;
    int signal = 0;
    std::string output{};
};

Ended run_forked(const std::function<int()>& body) {
    std::array<int, 2> pipe{};
    EXPECT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);  // a hang ends by a signal, and so not with what is expected
        ::dup2(pipe[1], STDERR_FILENO);
        ::_exit(body());
    }
    ::close(pipe[1]);
    Ended ended;
    std::array<char, 512> buffer{};
    for (ssize_t count; (count = ::read(pipe[0], buffer.data(), buffer.size())) > 0;) {
        ended.output.append(buffer.data(), static_cast<size_t>(count));
    }
    ::close(pipe[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
        ended.signal = WTERMSIG(status);
    } else {
        ended.status = WEXITSTATUS(status);
    }
    return ended;
}

constexpr int kNoSandbox = 99;

bool enter(SandboxMode mode,
           const SandboxNeeds& needs = {},
           std::span<Worker* const> workers = {}) {
    return enter_sandbox(mode, needs, workers).has_value();
}

/// `body` on a control thread that is alone in the sandbox.
Ended run_in_sandbox(const std::function<int()>& body, SandboxMode mode = SandboxMode::kStandard) {
    return run_forked([&] {
        const bool inside =
            forbid_new_privileges() && drop_access(SandboxMode::kStandard, {}) && enter(mode);
        return inside ? body() : kNoSandbox;
    });
}

void expect_killed(const std::function<int()>& body) {
    const Ended ended = run_in_sandbox(body);
    EXPECT_EQ(ended.signal, SIGSYS) << ended.status << ended.output;
}

constexpr int kFine = 42;

// --- What goes on ------------------------------------------------------------------------------

TEST(Sandbox, OpenDescriptorsStayUsable) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    const Ended ended = run_in_sandbox([&] {
        char byte = 'x';
        return ::write(writer.get(), &byte, 1) == 1 && ::read(reader.get(), &byte, 1) == 1 ? kFine
                                                                                           : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST(Sandbox, MemoryCanBeHad) {
    const Ended ended = run_in_sandbox([] {
        constexpr size_t kBytes = 64U << 20;
        const auto memory = std::make_unique<std::byte[]>(kBytes);
        void* const map =
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return map != MAP_FAILED && ::munmap(map, kBytes) == 0 ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST(Sandbox, ABugStillAborts) {
    EXPECT_EQ(run_in_sandbox([]() -> int { std::abort(); }).signal, SIGABRT);
}

// --- What does not -----------------------------------------------------------------------------

TEST(Sandbox, OpenFailsAndTheProcessGoesOn) {
    const Ended ended = run_in_sandbox([] {
        const int fd = ::open("/etc/passwd", O_RDWR);
        // Where the filter lets files be opened (the portable build's memory is one), none is
        // there.
        return fd < 0 && errno == (kPortableBuild ? ENOENT : EACCES) ? kFine : 1;
    });
    EXPECT_TRUE(ended.status == kFine || (kSanitized && ended.signal == SIGSYS)) << ended.status;
}

TEST(Sandbox, SocketsCannotBeMade) {
    expect_killed([] { return ::socket(AF_UNIX, SOCK_STREAM, 0); });
}

TEST(Sandbox, ProgramsCannotBeExecuted) {
    expect_killed([] {
        char* const arguments[] = {nullptr};
        return ::execve("/bin/true", arguments, arguments);
    });
}

TEST(Sandbox, ProcessesCannotBeMade) {
    if (kSanitized) {
        GTEST_SKIP() << "the leak checker makes one";
    }
    expect_killed([] {
        // The number and not fork(), whose C library part would try other things first.
        return static_cast<int>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
    });
}

TEST(Sandbox, MemoryCannotBeExecutable) {
    expect_killed([] {
        return ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
               MAP_FAILED;
    });
}

TEST(Sandbox, MemoryCannotBecomeExecutable) {
    expect_killed([] {
        void* const map =
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return ::mprotect(map, 4096, PROT_READ | PROT_EXEC);
    });
}

TEST(Sandbox, NewRingsCannotBeMade) {
    expect_killed([] {
        std::array<char, 256> parameters{};
        return static_cast<int>(::syscall(SYS_io_uring_setup, 1, parameters.data()));
    });
}

TEST(Sandbox, OtherProcessesCannotBeSignalled) {
    if (kSanitized) {
        GTEST_SKIP() << "the leak checker signals its threads";
    }
    expect_killed([] { return ::kill(::getppid(), 0); });
}

TEST(Sandbox, SystemCallsOfTheOther32BitArchitectureAreNone) {
#if defined(__x86_64__)
    expect_killed([] {
        constexpr long kX32Bit = 0x4000'0000;
        return static_cast<int>(::syscall(kX32Bit | SYS_getpid));
    });
#else
    GTEST_SKIP() << "only x86-64 has a second set of numbers";
#endif
}

// --- Finding the cause -------------------------------------------------------------------------

TEST(Sandbox, LogModeNamesTheSystemCall) {
    const Ended ended =
        run_in_sandbox([] { return ::socket(AF_UNIX, SOCK_STREAM, 0); }, SandboxMode::kLog);
    EXPECT_EQ(ended.status, 1);
    EXPECT_NE(ended.output.find("does not allow the system call socket (number "),
              std::string::npos)
        << ended.output;
}

// --- Capabilities and Landlock -----------------------------------------------------------------

TEST(Sandbox, NoCapabilityIsLeft) {
    const Ended ended = run_forked([] {
        if (!forbid_new_privileges() || !drop_access(SandboxMode::kStandard, {})) {
            return kNoSandbox;
        }
        for (int capability = 0; capability < 64; ++capability) {
            if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 1) {
                return 1;
            }
        }
        // What only root may: CAP_SYS_CHROOT.
        return ::chroot("/") != 0 && errno == EPERM ? kFine : 2;
    });
    EXPECT_EQ(ended.status, kFine);
}

class SandboxFolderTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "sandbox-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        const bool has_landlock = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) > 0;
        if (!has_landlock) {
            GTEST_SKIP() << "the kernel has no Landlock: " << std::strerror(errno);
        }
    }

    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::filesystem::path folder_;
};

TEST_F(SandboxFolderTest, NothingCanBeCreatedOrWritten) {
    const std::string there = folder_ / "there";
    ASSERT_TRUE(UniqueFd(::open(there.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)).valid());
    // From outside of the empty root: Landlock alone.
    const UniqueFd folder(::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const Ended ended = run_forked([&] {
        if (!forbid_new_privileges() || !drop_access(SandboxMode::kStandard, {})) {
            return kNoSandbox;
        }
        const bool created = ::openat(folder.get(), "fresh", O_CREAT | O_WRONLY, 0600) >= 0;
        const bool written = ::openat(folder.get(), "there", O_WRONLY) >= 0;
        return !created && !written && errno == EACCES ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, FilesCannotBeRemoved) {
    const std::string there = folder_ / "there";
    ASSERT_TRUE(UniqueFd(::open(there.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)).valid());
    const UniqueFd folder(::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const Ended ended = run_forked([&] {
        if (!forbid_new_privileges() || !drop_access(SandboxMode::kStandard, {})) {
            return kNoSandbox;
        }
        return ::unlinkat(folder.get(), "there", 0) != 0 && errno == EACCES ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, WhatTheExtrasNameCanBeReadAndNothingElse) {
    const std::string named = folder_ / "named";
    const std::string other = folder_ / "other";
    for (const std::string& path : {named, other}) {
        ASSERT_TRUE(UniqueFd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)).valid());
    }
    const Ended ended = run_forked([&] {
        if (!forbid_new_privileges() ||
            !drop_access(SandboxMode::kStandard, {}, {.readable_paths = {named}})) {
            return kNoSandbox;
        }
        const bool read = ::open(named.c_str(), O_RDONLY) >= 0;
        const bool written = ::open(named.c_str(), O_WRONLY) >= 0;
        // The sanitizers' libraries may read everything, for their reports.
        const bool others = !kSanitized && ::open(other.c_str(), O_RDONLY) >= 0;
        return read && !written && !others ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, FilesAreMadeAndRenamedBelowWritableDirectoriesAndNowhereElse) {
    const std::string open_folder = folder_ / "open";
    ASSERT_EQ(::mkdir(open_folder.c_str(), 0700), 0);
    const UniqueFd folder(::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const Ended ended = run_forked([&] {
        if (!forbid_new_privileges() ||
            !drop_access(SandboxMode::kStandard, {}, {.writable_directories = {open_folder}})) {
            return kNoSandbox;
        }
        const std::string log = open_folder + "/log";
        if (::open(log.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0 ||
            ::rename(log.c_str(), (log + ".1").c_str()) != 0 ||
            ::unlink((log + ".1").c_str()) != 0) {
            return 2;
        }
        return ::openat(folder.get(), "other", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0 &&
                       errno == EACCES
                   ? kFine
                   : 3;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, NamesAreRemovedBelowRemovableDirectoriesAndNotMade) {
    const std::string open_folder = folder_ / "open";
    const std::string link = open_folder + "/link";
    ASSERT_EQ(::mkdir(open_folder.c_str(), 0700), 0);
    ASSERT_EQ(::symlink("/nowhere", link.c_str()), 0);
    const Ended ended = run_forked([&] {
        if (!forbid_new_privileges() ||
            !drop_access(SandboxMode::kStandard, {}, {.removable_directories = {open_folder}})) {
            return kNoSandbox;
        }
        if (::open((link + "2").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600) >= 0) {
            return 2;
        }
        return ::unlink(link.c_str()) == 0 ? kFine : 3;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, OnlyThePortsOfTheExtrasCanBeConnectedTo) {
    if (::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) < 4) {
        GTEST_SKIP() << "this kernel's Landlock knows no TCP";
    }
    const Ended ended = run_forked([] {
        if (!forbid_new_privileges() ||
            !drop_access(SandboxMode::kStandard, {}, {.connect_tcp_ports = {2}})) {
            return kNoSandbox;
        }
        // Nobody listens at the ports of compressnet.
        return try_to_connect(2) == ECONNREFUSED && try_to_connect(3) == EACCES ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, TcpIsLeftAloneWhereTheExtrasSaySo) {
    const Ended ended = run_forked([] {
        if (!forbid_new_privileges() ||
            !drop_access(SandboxMode::kStandard, {}, {.any_tcp = true})) {
            return kNoSandbox;
        }
        return try_to_connect(2) == ECONNREFUSED && try_to_connect(3) == ECONNREFUSED ? kFine : 1;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST_F(SandboxFolderTest, OurSocketIsRemovedFromWithin) {
    const std::string path = folder_ / "s";
    const Ended ended = run_forked([&] {
        auto socket = listen_at(path);
        if (!socket || !forbid_new_privileges()) {
            return 1;
        }
        const std::array directories = {socket->file->directory_fd()};
        if (!drop_access(SandboxMode::kStandard, directories) || !enter(SandboxMode::kStandard)) {
            return kNoSandbox;
        }
        socket->file.reset();
        return kFine;
    });
    EXPECT_EQ(ended.status, kFine);
    EXPECT_FALSE(std::filesystem::exists(path));
}

// Nothing else holds unlinkat() to the folders of our sockets.
TEST_F(SandboxFolderTest, WithoutLandlockNothingIsRemoved) {
    const std::string path = folder_ / "s";
    const Ended ended = run_forked([&] {
        auto socket = listen_at(path);
        // As where the kernel has no Landlock: the filter stands alone.
        if (!socket || !forbid_new_privileges() || !enter(SandboxMode::kStandard)) {
            return kNoSandbox;
        }
        socket->file.reset();
        return kFine;
    });
    EXPECT_EQ(ended.status, kFine);
    EXPECT_NE(ended.output.find("cannot remove the socket s"), std::string::npos) << ended.output;
    EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(SandboxFolderTest, ASocketThatCannotBeRemovedIsKnown) {
    const std::string path = folder_ / "s";
    const Ended ended = run_forked([&] {
        auto socket = listen_at(path);
        if (!socket || !forbid_new_privileges() || !socket->file->is_removable()) {
            return 1;
        }
        const std::array directories = {socket->file->directory_fd()};
        // Root could remove it all the same as long as it has its capabilities.
        if (::chmod(folder_.c_str(), 0555) != 0 ||
            !drop_access(SandboxMode::kStandard, directories)) {
            return kNoSandbox;
        }
        const bool removable = socket->file->is_removable();
        socket->file.reset();
        return removable ? 2 : kFine;
    });
    ::chmod(folder_.c_str(), 0755);
    EXPECT_EQ(ended.status, kFine);
    EXPECT_NE(ended.output.find("cannot remove the socket s"), std::string::npos) << ended.output;
}

// --- Threads -----------------------------------------------------------------------------------

TEST(Sandbox, AThreadThatWouldEscapeIsAnError) {
    if (kThreadSanitizer) {
        GTEST_SKIP() << "ThreadSanitizer has a thread of its own";
    }
    const Ended ended = run_forked([] {
        std::thread early([] { ::pause(); });
        early.detach();
        return drop_access(SandboxMode::kStandard, {}) ? 1 : kFine;
    });
    EXPECT_EQ(ended.status, kFine);
}

TEST(Sandbox, WithoutProcItIsNotKnownWhetherAThreadEscapes) {
    constexpr int kMayNot = 77;
    const Ended ended = run_forked([] {
        const bool hidden = ::unshare(CLONE_NEWNS) == 0 &&
                            ::mount(nullptr, "/proc", nullptr, MS_PRIVATE, nullptr) == 0 &&
                            ::mount("none", "/proc", "tmpfs", 0, nullptr) == 0;
        if (!hidden) {
            return kMayNot;
        }
        return drop_access(SandboxMode::kStandard, {}) ? 1 : kFine;
    });
    if (ended.status == kMayNot) {
        GTEST_SKIP() << "hiding /proc needs the right to mount";
    }
    EXPECT_EQ(ended.status, kFine);
}

/// Was it ended, by the trap, for that system call?
void expect_refused(const Ended& ended, const std::string& name) {
    EXPECT_EQ(ended.status, 1) << ended.signal;
    EXPECT_NE(ended.output.find("system call " + name + " ("), std::string::npos) << ended.output;
}

/// `task` on a worker in the sandbox of a device with those needs.
Ended run_on_worker(const std::function<int()>& task,
                    const SandboxNeeds& needs = {},
                    LoopKind loop = LoopKind::kAsio) {
    return run_forked([&] {
        if (!forbid_new_privileges() || !drop_access(SandboxMode::kStandard, {})) {
            return kNoSandbox;
        }
        const auto worker = Worker::start({.loop = loop, .uring_operations = UringOperations{}});
        if (!worker) {
            return kNoSandbox;
        }
        const std::array workers = {worker->get()};
        if (!enter(SandboxMode::kLog, needs, workers)) {
            return kNoSandbox;
        }
        std::atomic<int> result = 0;
        (*worker)->post([&] {
            result = task();
            result.notify_one();
        });
        result.wait(0);
        return result.load();
    });
}

TEST(SandboxWorker, ServesOnTheAsioLoop) {
    EXPECT_EQ(run_on_worker([] { return kFine; }).status, kFine);
}

TEST(SandboxWorker, ServesOnTheUringLoop) {
    if (!create_event_loop(LoopKind::kUring)) {
        GTEST_SKIP() << "io_uring is not available";
    }
    EXPECT_EQ(run_on_worker([] { return kFine; }, {}, LoopKind::kUring).status, kFine);
}

TEST(SandboxWorker, IsInTheSandboxToo) {
    expect_refused(run_on_worker([] { return ::socket(AF_UNIX, SOCK_STREAM, 0); }), "socket");
}

TEST(SandboxWorker, TakesNoConnections) {
    expect_refused(run_on_worker([] { return ::accept4(-1, nullptr, nullptr, 0); }), "accept4");
}

// A front end may pass a ring of its own, which nothing restricts.
TEST(SandboxWorker, EntersNoRingWhereItHasNone) {
    expect_refused(
        run_on_worker([] {
            return static_cast<int>(::syscall(SYS_io_uring_enter, -1, 0, 0, 0, nullptr, 0));
        }),
        "io_uring_enter");
}

TEST(SandboxWorker, RegistersFilesWithItsRingAndNothingElse) {
    if (!create_event_loop(LoopKind::kUring)) {
        GTEST_SKIP() << "io_uring is not available";
    }
    const auto registering = [](unsigned opcode) {
        return [opcode] {
            return ::syscall(SYS_io_uring_register, -1, opcode, nullptr, 0) < 0 ? kFine : 1;
        };
    };
    EXPECT_EQ(run_on_worker(registering(IORING_REGISTER_FILES_UPDATE), {}, LoopKind::kUring).status,
              kFine);
    expect_refused(run_on_worker(registering(IORING_REGISTER_BUFFERS_UPDATE), {}, LoopKind::kUring),
                   "io_uring_register");
    expect_refused(run_on_worker(registering(IORING_REGISTER_FILES_UPDATE)), "io_uring_register");
}

TEST(Sandbox, TheControlThreadMayWhatTheDeviceNeedsThere) {
    const auto draw = [](const SandboxNeeds& needs) {
        return run_forked([&] {
            if (!forbid_new_privileges() || !enter(SandboxMode::kLog, needs)) {
                return kNoSandbox;
            }
            char byte = 0;
            return ::syscall(SYS_getrandom, &byte, 1, GRND_NONBLOCK) == 1 ? kFine : 1;
        });
    };
    constexpr std::array kRules = {SystemCallRule{.name = "getrandom"}};
    EXPECT_EQ(draw({.control_system_calls = kRules}).status, kFine);
    expect_refused(draw({.system_calls = kRules}), "getrandom");
}

TEST(SandboxWorker, MayWhatItsDeviceNeeds) {
    const auto draw = [] {
        char byte = 0;
        return ::syscall(SYS_getrandom, &byte, 1, GRND_NONBLOCK) == 1 ? kFine : 1;
    };
    constexpr std::array kRules = {SystemCallRule{.name = "getrandom"}};
    EXPECT_EQ(run_on_worker(draw, {.system_calls = kRules}).status, kFine);
    expect_refused(run_on_worker(draw), "getrandom");
}

/// `body` on a helper thread that a worker started.
Ended run_on_helper(const std::function<int()>& body, const SandboxNeeds& needs = {}) {
    return run_on_worker(
        [&] {
            int result = 0;
            auto thread = start_helper_thread("helper", [&] { result = body(); });
            if (!thread) {
                return 2;
            }
            thread->join();
            return result;
        },
        needs);
}

TEST(SandboxHelper, Starts) {
    EXPECT_EQ(run_on_helper([] { return kFine; }).status, kFine);
}

TEST(SandboxHelper, MayLessThanItsWorker) {
    // Asks for events of a descriptor that is none.
    const auto wait = [] {
        return ::syscall(SYS_epoll_pwait, -1, nullptr, 1, 0, nullptr, 8) < 0 ? kFine : 1;
    };
    EXPECT_EQ(run_on_worker(wait).status, kFine);
    expect_refused(run_on_helper(wait), "epoll_pwait");
}

TEST(SandboxHelper, MayWhatItsDeviceNeeds) {
    constexpr std::array kRules = {SystemCallRule{.name = "fdatasync"}};
    EXPECT_EQ(
        run_on_helper([] { return ::fdatasync(-1) != 0 ? kFine : 1; }, {.system_calls = kRules})
            .status,
        kFine);
}

}  // namespace
}  // namespace outrigger
