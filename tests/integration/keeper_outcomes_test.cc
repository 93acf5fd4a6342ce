// SPDX-License-Identifier: Apache-2.0
// A device whose requests must not be carried out twice, and whose process is killed again and
// again under load: with the outcome journal each request happens once, and is answered so.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <signal.h>

#include <gtest/gtest.h>

#include "tests/integration/service_manager.h"
#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kUnanswered = ~uint64_t{0};

/// A driver that keeps the ring full, with a token of its own in each request.
class LedgerGuest final {
  public:
    LedgerGuest(driver::Frontend connected, bool packed) : frontend_(std::move(connected)) {
        auto up = driver::bring_up(frontend_, memory_, {.packed = packed});
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
        for (Slot& slot : slots_) {
            slot = {.token = memory_.allocate(8, 8).value(),
                    .answer = memory_.allocate(8, 8).value()};
        }
    }

    /// Sends requests while `more`, waits for all answers. False when one did not come.
    [[nodiscard]] bool run(const std::atomic<bool>& more) {
        auto& queue = running_.queues[0];
        std::vector<size_t> free_slots(kSlots);
        for (size_t i = 0; i < kSlots; ++i) {
            free_slots[i] = i;
        }
        const auto deadline = driver::after(3 * kPatience);
        while (more || free_slots.size() < kSlots) {
            while (more && !free_slots.empty()) {
                submit(free_slots.back());
                free_slots.pop_back();
            }
            queue.publish_and_kick();
            if (queue.wait_used(deadline) != driver::WaitResult::kUsed) {
                return false;
            }
            while (const auto used = queue.poll_used()) {
                const auto index = static_cast<size_t>(used->token);
                memory_.read(
                    slots_[index].answer,
                    std::as_writable_bytes(std::span(&answers_[slots_[index].request], 1)));
                EXPECT_EQ(used->length, 8U);
                free_slots.push_back(index);
            }
        }
        return true;
    }

    /// Where each request said that its token, which is its number, is.
    [[nodiscard]] const std::vector<uint64_t>& answers() const { return answers_; }

  private:
    static constexpr size_t kSlots = 16;

    struct Slot {
        GuestAddr token{};
        GuestAddr answer{};
        size_t request = 0;
    };

    void submit(size_t index) {
        Slot& slot = slots_[index];
        slot.request = answers_.size();
        answers_.push_back(kUnanswered);
        const uint64_t token = slot.request;
        memory_.write(slot.token, std::as_bytes(std::span(&token, 1)));
        const std::array<driver::Segment, 2> segments{
            {{slot.token, 8, false}, {slot.answer, 8, true}}};
        EXPECT_TRUE(running_.queues[0].try_add(segments, index));
    }

    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running_;
    std::array<Slot, kSlots> slots_{};
    std::vector<uint64_t> answers_;
};

class KeptOutcomes : public ::testing::TestWithParam<bool> {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_LEDGER_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "kept-outcomes-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    void TearDown() override {
        guest_.reset();
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    void start(bool notes = true) {
        daemon_ = std::make_unique<ChildProcess>(
            program_,
            ChildProcess::Options{.arguments = {"--keeper=fork",
                                                "--keeper-restarts=1000",
                                                std::string("--notes=") + (notes ? "1" : "0"),
                                                "--ledger=" + (folder_ / "ledger").string(),
                                                "--replays=" + (folder_ / "replays").string(),
                                                "--socket-path=" + (folder_ / "s").string()}});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        connect();
    }

    void connect() {
        guest_ = std::make_unique<LedgerGuest>(
            driver::Frontend::connect(folder_ / "s", driver::after(kPatience)).value(), GetParam());
    }

    void kill_worker() const {
        const pid_t pid = daemon_->first_child();
        if (pid > 0) {
            ::kill(pid, SIGKILL);
        }
    }

    /// Keeps the ring full while `disturb` runs.
    template <class Disturb>
    void run_while(Disturb disturb) {
        std::atomic<bool> more = true;
        std::thread disturber([&] {
            disturb();
            more = false;
        });
        const bool answered = guest_->run(more);
        disturber.join();
        ASSERT_TRUE(answered) << (daemon_ != nullptr ? daemon_->complained() : "");
    }

    [[nodiscard]] std::vector<uint64_t> ledger() const {
        std::vector<uint64_t> tokens(fs::file_size(folder_ / "ledger") / sizeof(uint64_t));
        std::ifstream file(folder_ / "ledger", std::ios::binary);
        for (uint64_t& token : tokens) {
            std::array<char, sizeof token> bytes{};
            file.read(bytes.data(), bytes.size());
            std::memcpy(&token, bytes.data(), sizeof token);
        }
        return tokens;
    }

    [[nodiscard]] std::string replays() const {
        std::ifstream file(folder_ / "replays");
        return {std::istreambuf_iterator<char>(file), {}};
    }

    void expect_each_request_once() const {
        const std::vector<uint64_t> tokens = ledger();
        EXPECT_EQ(tokens.size(), guest_->answers().size());
        for (size_t request = 0; request < guest_->answers().size(); ++request) {
            const uint64_t place = guest_->answers()[request];
            ASSERT_EQ(place % sizeof(uint64_t), 0U);
            ASSERT_LT(place / sizeof(uint64_t), tokens.size()) << "request " << request;
            ASSERT_EQ(tokens[place / sizeof(uint64_t)], request);
        }
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<LedgerGuest> guest_;
};

TEST_P(KeptOutcomes, NoRequestRunsTwiceThoughTheProcessIsKilledAHundredTimes) {
    start();
    run_while([this] {
        for (int i = 0; i < 100; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(15 + i * 37 % 60));
            kill_worker();
        }
    });
    expect_each_request_once();
    const std::string all = replays();
    EXPECT_EQ(std::ranges::count(all, 'u'), 0) << "the journal was there all the time";
    EXPECT_GT(std::ranges::count(all, 'o'), 0);
    EXPECT_GT(std::ranges::count(all, 'i'), 0);
    std::cout << guest_->answers().size()
              << " requests; replayed, and not begun: " << std::ranges::count(all, 'n')
              << ", begun: " << std::ranges::count(all, 'i')
              << ", done: " << std::ranges::count(all, 'o') << "\n";
}

TEST_P(KeptOutcomes, AnotherBinaryTakesThemOver) {
    start();
    const fs::path other = folder_ / "other";
    fs::copy_file(program_, other);
    run_while([&] {
        for (int i = 0; i < 6; ++i) {
            ChildProcess asks(i % 2 == 0 ? other.string() : program_,
                              {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
            EXPECT_EQ(asks.wait(), (Ended{.status = 0})) << asks.complained();
        }
    });
    expect_each_request_once();
    const std::string all = replays();
    EXPECT_EQ(std::ranges::count(all, 'u'), 0);
}

// It comes up, and says only when it is given the session that it cannot go on with it.
TEST_P(KeptOutcomes, ABinaryThatCannotGoOnHandsThemBack) {
    start();
    const fs::path other = folder_ / "ledger-2";
    fs::copy_file(program_, other);
    run_while([&] {
        ChildProcess asks(other.string(),
                          {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
        EXPECT_EQ(asks.wait(), (Ended{.status = 3})) << asks.complained();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    });
    expect_each_request_once();
    EXPECT_EQ(std::ranges::count(replays(), 'u'), 0);
    EXPECT_NE(daemon_->complained().find("not taking over"), std::string::npos);
    EXPECT_TRUE(fs::exists(folder_ / "s"));
    guest_.reset();
    connect();
    run_while([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
}

TEST_P(KeptOutcomes, AServiceManagerKeepsThemAsWell) {
    ServiceManager manager(folder_ / "notify");
    const std::string arguments = "--ledger=" + (folder_ / "ledger").string() +
                                  " --replays=" + (folder_ / "replays").string() +
                                  " --socket-path=" + (folder_ / "s").string();
    daemon_ = manager.start(program_, arguments);
    ASSERT_NE(daemon_, nullptr);
    connect();
    run_while([&] {
        for (int i = 0; i < 20 && daemon_ != nullptr; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(15 + i * 7));
            daemon_->send_signal(SIGKILL);
            EXPECT_TRUE(daemon_->wait());
            manager.read();
            daemon_ = manager.start(program_, arguments);
        }
    });
    ASSERT_NE(daemon_, nullptr);
    expect_each_request_once();
    EXPECT_EQ(std::ranges::count(replays(), 'u'), 0);
}

TEST_P(KeptOutcomes, ADeviceThatNotesNothingIsToldThatNothingIsKnown) {
    start(false);
    run_while([this] {
        for (int i = 0; i < 10; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            kill_worker();
        }
    });
    const std::string all = replays();
    EXPECT_GT(all.size(), 0U);
    EXPECT_EQ(std::ranges::count(all, 'u'), static_cast<ptrdiff_t>(all.size()));
}

INSTANTIATE_TEST_SUITE_P(Formats, KeptOutcomes, ::testing::Bool(), [](const auto& format) {
    return format.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::testing
