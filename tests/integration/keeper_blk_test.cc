// SPDX-License-Identifier: Apache-2.0
// A disk under load whose process is killed again and again, and replaced by another binary, behind
// a front end that cannot connect again: every request is answered, once and rightly.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kBlocks = 256;

class KeptDiskTest : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "kept-disk-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        std::ofstream(folder_ / "image").close();
        fs::resize_file(folder_ / "image", kBlocks * kBlockBytes);
    }

    void TearDown() override {
        guest_.reset();
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    void start(std::vector<std::string> more = {}, uint16_t inflight_queues = 0) {
        inflight_queues_ = inflight_queues;
        const fs::path socket = folder_ / "s";
        more.insert(more.end(),
                    {"--keeper=fork",
                     "--keeper-restarts=1000",
                     "--queue-threads=2",
                     "--num-queues=2",
                     std::string("--io-engine=") + GetParam(),
                     "--blk-file=" + (folder_ / "image").string(),
                     "--socket-path=" + socket.string()});
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = more});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        guest_ = std::make_unique<DiskGuest>(
            driver::Frontend::connect(socket, driver::after(kPatience)).value(),
            DiskGuest::Options{.queue_count = 2, .inflight_queues = inflight_queues});
    }

    [[nodiscard]] pid_t worker() const { return daemon_->first_child(); }

    [[nodiscard]] size_t sessions_gone_on_with() const {
        const std::string said = daemon_->complained();
        constexpr std::string_view kWhat = "goes on with a session";
        size_t count = 0;
        for (size_t at = said.find(kWhat); at != std::string::npos; at = said.find(kWhat, at + 1)) {
            ++count;
        }
        return count;
    }

    [[nodiscard]] bool stop_at_work(pid_t pid);
    void kill_at_work();
    void write_while_it_is_killed(int kills);

    /// Writes every block once, in any order, and reads every block.
    void write_and_compare(uint8_t generation) {
        std::vector<uint64_t> order(kBlocks);
        for (uint64_t i = 0; i < kBlocks; ++i) {
            order[i] = i;
        }
        std::shuffle(order.begin(), order.end(), random_);
        std::vector<DiskRequest> requests;
        for (const uint64_t block : order) {
            requests.push_back({.type = VIRTIO_BLK_T_OUT,
                                .offset_bytes = block * kBlockBytes,
                                .data = content(block, generation)});
        }
        ASSERT_TRUE(guest_->run(requests)) << daemon_->complained();
        for (const DiskRequest& request : requests) {
            ASSERT_EQ(request.status, VIRTIO_BLK_S_OK);
        }
        std::vector<DiskRequest> reads;
        for (const uint64_t block : order) {
            reads.push_back({.type = VIRTIO_BLK_T_IN,
                             .offset_bytes = block * kBlockBytes,
                             .data = std::vector<std::byte>(kBlockBytes)});
        }
        ASSERT_TRUE(guest_->run(reads)) << daemon_->complained();
        for (const DiskRequest& read : reads) {
            ASSERT_EQ(read.status, VIRTIO_BLK_S_OK);
            ASSERT_EQ(read.data, content(read.offset_bytes / kBlockBytes, generation))
                << "block " << read.offset_bytes / kBlockBytes;
        }
    }

    static std::vector<std::byte> content(uint64_t block, uint8_t generation) {
        std::vector<std::byte> bytes(kBlockBytes, static_cast<std::byte>(generation));
        bytes[0] = static_cast<std::byte>(block);
        return bytes;
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<DiskGuest> guest_;
    uint16_t inflight_queues_ = 0;
    std::mt19937 random_{5};
    // What kills have met.
    size_t outstanding_ = 0;
    size_t in_flight_ = 0;  // of the first queue, where the front end has its buffer
};

/// Stops it: what it has in hand can be looked at while it stands still. False: nothing.
bool KeptDiskTest::stop_at_work(pid_t pid) {
    const fs::path tasks = "/proc/" + std::to_string(pid) + "/task";
    EXPECT_EQ(::kill(pid, SIGSTOP), 0);
    EXPECT_TRUE(eventually([&] {
        return std::ranges::all_of(fs::directory_iterator(tasks), [](const auto& task) {
            std::ifstream file(task.path() / "stat");
            const std::string line(std::istreambuf_iterator<char>(file), {});
            const size_t state = line.rfind(") ") + 2;
            return state < line.size() && line[state] == 'T';
        });
    }));
    const size_t outstanding = guest_->outstanding();
    const size_t in_flight = inflight_queues_ > 0 ? guest_->noted_in_flight() : 0;
    if (outstanding == 0 || (inflight_queues_ > 0 && in_flight == 0)) {
        EXPECT_EQ(::kill(pid, SIGCONT), 0);
        return false;
    }
    outstanding_ += outstanding;
    in_flight_ += in_flight;
    return true;
}

/// It has gone on with the guest, and so has the next one when this returns. Requests are on the
/// way; where the front end can tell, the process has begun some.
void KeptDiskTest::kill_at_work() {
    const pid_t pid = worker();
    ASSERT_GT(pid, 0) << daemon_->complained();
    ASSERT_TRUE(eventually([&] { return stop_at_work(pid); }));
    const size_t before = sessions_gone_on_with();
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return sessions_gone_on_with() > before; }))
        << daemon_->complained();
}

void KeptDiskTest::write_while_it_is_killed(int kills) {
    std::atomic<bool> killing = true;
    std::thread killer([&] {
        for (int i = 0; i < kills; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20 + i * 37 % 130));
            kill_at_work();
            if (HasFailure()) {
                break;
            }
        }
        killing = false;
    });
    int rounds = 0;
    while (killing && !HasFailure()) {
        write_and_compare(static_cast<uint8_t>(++rounds));
    }
    killer.join();
    ASSERT_FALSE(HasFailure());
    write_and_compare(0xff);
    std::cout << rounds << " rounds of " << 2 * kBlocks << " requests; " << kills << " kills met "
              << outstanding_ << " without an answer, of which " << in_flight_
              << " were begun for certain\n";
}

TEST_P(KeptDiskTest, AnswersEveryRequestWhileTheProcessIsKilled) {
    start();
    write_while_it_is_killed(25);
}

// The other queue notes what it has in a buffer that the keeper alone has.
TEST_P(KeptDiskTest, FrontEndsBufferMayHaveRoomForOneQueueOnly) {
    start({}, 1);
    write_while_it_is_killed(12);
}

// What is in the layer and not committed is the process's alone, and the guest has been told that
// it is written.
TEST_P(KeptDiskTest, AnOverlayHasWhatWasNotFlushed) {
    if (std::string_view(GetParam()) == "uring") {
        GTEST_SKIP() << "an overlay chooses between both";
    }
    start({"--overlay=" + (folder_ / "layer").string(),
           "--overlay-create",
           "--overlay-cluster=4K",
           "--overlay-fill",
           "--overlay-fill-rate=256K"});
    write_while_it_is_killed(12);
    ChildProcess asks(program_, {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
    EXPECT_EQ(asks.wait(), (Ended{.status = 0})) << asks.complained() << daemon_->complained();
    write_and_compare(1);
}

TEST_P(KeptDiskTest, AnotherBinaryTakesOverUnderLoad) {
    start();
    const fs::path other = folder_ / "other";
    fs::copy_file(program_, other);
    std::atomic<bool> loading = true;
    std::chrono::steady_clock::duration longest{};
    std::thread load([&] {
        DiskRequest request{.type = VIRTIO_BLK_T_IN, .data = std::vector<std::byte>(kBlockBytes)};
        while (loading) {
            const auto began = std::chrono::steady_clock::now();
            EXPECT_EQ(guest_->run_one(request), VIRTIO_BLK_S_OK);
            longest = std::max(longest, std::chrono::steady_clock::now() - began);
        }
    });
    for (int i = 0; i < 5; ++i) {
        ChildProcess asks(i % 2 == 0 ? other.string() : program_,
                          {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
        EXPECT_EQ(asks.wait(), (Ended{.status = 0})) << asks.complained() << daemon_->complained();
    }
    loading = false;
    load.join();
    std::cout << "longest delay of a request: "
              << std::chrono::duration_cast<std::chrono::microseconds>(longest).count() << " us\n";
    write_and_compare(1);
}

// The old program is told to leave: requests that wait for their turn are left to the next one, and
// neither answered with errors nor waited for.
TEST_P(KeptDiskTest, RequestsThatWaitForALimitAreLeftToTheNextBinary) {
    start({"--limit-ops=400:1"});
    std::atomic<bool> loading = true;
    std::thread load([&] {
        uint8_t generation = 0;
        while (loading && !HasFailure()) {
            write_and_compare(++generation);
        }
    });
    for (int i = 0; i < 5; ++i) {
        ChildProcess asks(program_,
                          {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
        EXPECT_EQ(asks.wait(), (Ended{.status = 0})) << asks.complained() << daemon_->complained();
    }
    loading = false;
    load.join();
}

// The new process cannot go on with one section, and another one is not there any more.
TEST_P(KeptDiskTest, AReloadThatFailsTakesNothingFromASectionThatItRemoves) {
    const auto path = [this](const std::string& name) { return (folder_ / name).string(); };
    const auto section = [&](const std::string& name, int queues) {
        std::ofstream(path(name)).close();
        fs::resize_file(path(name), kBlocks * kBlockBytes);
        return "[" + name + "]\nsocket-path = " + path("s" + name) + "\nblk-file = " + path(name) +
               "\nnum-queues = " + std::to_string(queues) + "\nio-engine = " + GetParam() + "\n";
    };
    std::ofstream(path("c")) << section("a", 2) << section("b", 2);
    daemon_ = std::make_unique<ChildProcess>(
        program_, ChildProcess::Options{.arguments = {"--config=" + path("c"), "--keeper=fork"}});
    const auto connect = [&](const std::string& name) {
        EXPECT_TRUE(eventually([&] { return fs::exists(path("s" + name)); }));
        return std::make_unique<DiskGuest>(
            driver::Frontend::connect(path("s" + name), driver::after(kPatience)).value(),
            DiskGuest::Options{.queue_count = 2});
    };
    guest_ = connect("a");
    const auto other = connect("b");
    DiskRequest request{.type = VIRTIO_BLK_T_IN, .data = std::vector<std::byte>(kBlockBytes)};
    ASSERT_EQ(guest_->run_one(request), VIRTIO_BLK_S_OK);
    ASSERT_EQ(other->run_one(request), VIRTIO_BLK_S_OK);

    std::ofstream(path("c")) << section("a", 1);
    daemon_->send_signal(SIGHUP);
    ASSERT_TRUE(daemon_->wait_complained("going back to the program before"))
        << daemon_->complained();
    EXPECT_EQ(guest_->run_one(request), VIRTIO_BLK_S_OK) << daemon_->complained();
    EXPECT_EQ(other->run_one(request), VIRTIO_BLK_S_OK) << daemon_->complained();
}

INSTANTIATE_TEST_SUITE_P(Engines, KeptDiskTest, ::testing::Values("uring", "threads"));

TEST(KeptDisk, ADiskInMemoryHasNoKeeper) {
    const char* const program = std::getenv("OUTRIGGER_BLK_PROGRAM");
    ASSERT_NE(program, nullptr);
    ChildProcess daemon(program,
                        {.arguments = {"--keeper=fork", "--blk-memory=1M", "--socket-path=/x"}});
    EXPECT_EQ(daemon.wait(), (Ended{.status = 2}));
}

}  // namespace
}  // namespace outrigger::testing
