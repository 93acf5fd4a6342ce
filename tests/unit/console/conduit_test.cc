// SPDX-License-Identifier: Apache-2.0
// A process that passes bytes on is killed before and behind each of its system calls, and another
// one goes on: each byte arrives once.
#include "devices/console/conduit.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger::console {
namespace {

/// What is kept by us, for children who are killed and for ourselves.
class OurKeeper final : public DeviceKeeper {
  public:
    Result<UniqueFd> keep(std::string_view /*name*/, size_t bytes) override {
        return create_shared_memory("kept", bytes);
    }

    bool goes_on() const override { return false; }

    bool can_hand_back() const override { return false; }

    UniqueFd take(std::string_view name) override {
        const auto found = fds_.find(name);
        return found != fds_.end() ? UniqueFd(::fcntl(found->second.get(), F_DUPFD_CLOEXEC, 0))
                                   : UniqueFd();
    }

    bool keep_open(std::string_view name, int fd) override {
        fds_.insert_or_assign(std::string(name), UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)));
        return true;
    }

    void forget(std::string_view name) override { fds_.erase(std::string(name)); }

  private:
    std::map<std::string, UniqueFd, std::less<>> fds_;
};

/// A port whose memory is shared with children.
class Bench {
  public:
    static constexpr bool kWaits = true;

    Bench()
        : bytes_(Conduit::kNoteBytes + KeptViewers::bytes(1) + PortStream::bytes(kWaits, 0)),
          fd_(create_shared_memory("kept", bytes_).value()),
          memory_(Mapping::map_file(fd_.get(), 0, bytes_).value()) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()),
                  0);
        viewer = UniqueFd(ends[0]);
        user = UniqueFd(ends[1]);
        KeptViewers(viewers_memory(), 1).begin({.slot = 0});
        // The keeper has the pipes before the first child.
        (void)Conduit::open(keeper_, note_memory()).value();
    }

    /// As a process finds it.
    struct Process {
        explicit Process(Bench& bench)
            : conduit(Conduit::open(bench.keeper_, bench.note_memory()).value()),
              viewers(bench.viewers_memory(), 1),
              stream(kWaits, 0, bench.stream_memory()) {
            conduit.end_what_was_left([&](uint32_t port) {
                return port == 3 ? Conduit::Port{&stream, &viewers} : Conduit::Port{};
            });
        }

        Conduit conduit;
        KeptViewers viewers;
        PortStream stream;
    };

    /// A descriptor that the keeper has.
    [[nodiscard]] UniqueFd kept(std::string_view name) { return keeper_.take(name); }

    UniqueFd viewer;  ///< our end of it
    UniqueFd user;

  private:
    [[nodiscard]] std::span<std::byte> part(size_t at, size_t bytes) const {
        return {memory_.data() + at, bytes};
    }

    [[nodiscard]] std::span<std::byte> note_memory() const { return part(0, Conduit::kNoteBytes); }

    [[nodiscard]] std::span<std::byte> viewers_memory() const {
        return part(Conduit::kNoteBytes, KeptViewers::bytes(1));
    }

    [[nodiscard]] std::span<std::byte> stream_memory() const {
        const size_t before = Conduit::kNoteBytes + KeptViewers::bytes(1);
        return part(before, bytes_ - before);
    }

    size_t bytes_;
    UniqueFd fd_;
    Mapping memory_;
    OurKeeper keeper_;
};

/// Runs `body` in a child that is killed when it has entered or left `stops` system calls. True: it
/// came to its end before.
bool run_until(int stops, const std::function<void()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::raise(SIGSTOP);
        body();
        ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    for (int i = 0; i < stops && WIFSTOPPED(status); ++i) {
        ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
        EXPECT_EQ(::waitpid(child, &status, 0), child);
    }
    if (WIFEXITED(status)) {
        return true;
    }
    EXPECT_TRUE(WIFSTOPPED(status)) << "signal " << WTERMSIG(status);
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    return false;
}

std::string text(size_t bytes) {
    std::string all;
    for (size_t i = 0; all.size() < bytes; ++i) {
        all += std::to_string(i) + " ";
    }
    all.resize(bytes);
    return all;
}

std::string read_all(int fd) {
    std::string all;
    std::array<char, 65536> bytes{};
    ssize_t count = 0;
    while ((count = ::read(fd, bytes.data(), bytes.size())) > 0) {
        all.append(bytes.data(), static_cast<size_t>(count));
    }
    return all;
}

std::string input_of(PortStream& stream) {
    const PortStream::Saved saved = stream.save();
    std::string all(saved.input.size(), '\0');
    std::memcpy(all.data(), saved.input.data(), all.size());
    return all;
}

constexpr uint32_t kPort = 3;

TEST(Conduit, WhatAViewerTypesArrivesOnceWhereverAProcessIsKilled) {
    bool through = false;
    int stops = 1;
    for (; !through && stops < 1000; ++stops) {
        Bench bench;
        const std::string typed = text(30'000);
        ASSERT_EQ(::write(bench.user.get(), typed.data(), typed.size()),
                  static_cast<ssize_t>(typed.size()));
        const auto take_all = [&] {
            Bench::Process process(bench);
            while (process.conduit.take(bench.viewer.get(), kPort, process.stream, 7000) > 0) {
            }
        };
        through = run_until(stops, take_all);
        // And the one that ends what that one was at is killed, too.
        (void)run_until(stops % 12, take_all);
        take_all();
        Bench::Process last(bench);
        ASSERT_EQ(input_of(last.stream), typed) << "killed at stop " << stops;
    }
    EXPECT_TRUE(through);
    EXPECT_GT(stops, 20) << "there is hardly a system call";
}

TEST(Conduit, WhatAViewerIsShownArrivesOnceWhereverAProcessIsKilled) {
    bool through = false;
    int stops = 1;
    for (; !through && stops < 1000; ++stops) {
        Bench bench;
        const std::string shown = text(300'000);  // more than the socket holds
        {
            Bench::Process process(bench);
            process.stream.append_output(std::as_bytes(std::span(shown)));
        }
        const auto give_all = [&] {
            Bench::Process process(bench);
            std::array<std::byte, 50'000> stage;
            while (true) {
                uint64_t position = process.viewers.value(0);
                uint64_t missed = 0;
                const size_t count = process.stream.copy_output(position, stage, missed);
                if (count == 0 || process.conduit.give(bench.viewer.get(),
                                                       kPort,
                                                       process.viewers,
                                                       0,
                                                       position,
                                                       std::span(stage).first(count)) <= 0) {
                    return;
                }
            }
        };
        through = run_until(stops, give_all);
        (void)run_until(stops % 12, give_all);
        std::string seen;
        for (int i = 0; i < 20 && seen.size() < shown.size(); ++i) {
            give_all();
            seen += read_all(bench.user.get());
        }
        ASSERT_EQ(seen, shown) << "killed at stop " << stops;
    }
    EXPECT_TRUE(through);
    EXPECT_GT(stops, 20) << "there is hardly a system call";
}

TEST(Conduit, AViewerThatHasGoneIsAnError) {
    Bench bench;
    Bench::Process process(bench);
    ::signal(SIGPIPE, SIG_IGN);
    bench.user.reset();
    EXPECT_EQ(process.conduit.take(bench.viewer.get(), kPort, process.stream, 100), 0);
    const std::array<std::byte, 5> bytes{};
    EXPECT_EQ(process.conduit.give(bench.viewer.get(), kPort, process.viewers, 0, 0, bytes), -1);
    EXPECT_EQ(errno, EPIPE);
}

/// How often somebody else can write to a pipe that they never let be empty, until a process that
/// ends what was left leaves it alone; at most `enough`.
int writes_before_end(int enough) {
    Bench bench;
    Bench::Process process(bench);
    std::atomic<int> writes = 0;
    std::atomic<bool> ends = false;
    const auto fill = [&] {
        const UniqueFd pipe = bench.kept("in.w");
        const std::vector<std::byte> bytes(65536);
        while (!ends && writes < enough) {
            writes += ::write(pipe.get(), bytes.data(), bytes.size()) > 0 ? 1 : 0;
        }
    };
    std::array<std::thread, 3> others{std::thread(fill), std::thread(fill), std::thread(fill)};
    while (writes == 0) {
        std::this_thread::yield();
    }
    process.conduit.end_what_was_left([](uint32_t) { return Conduit::Port{}; });
    const int seen = writes;
    ends = true;
    for (std::thread& other : others) {
        other.join();
    }
    return seen;
}

TEST(Conduit, APipeThatOthersFillHoldsNobodyUp) {
    constexpr int kPages = 16;  // that a pipe has
    for (int round = 0; round < 20; ++round) {
        // What it had at first, and what came when that was gone.
        ASSERT_LE(writes_before_end(1000), 3 * kPages);
    }
}

TEST(Conduit, NothingToReadIsNoEnd) {
    Bench bench;
    Bench::Process process(bench);
    EXPECT_EQ(process.conduit.take(bench.viewer.get(), kPort, process.stream, 100), -1);
    EXPECT_EQ(errno, EAGAIN);
}

}  // namespace
}  // namespace outrigger::console
