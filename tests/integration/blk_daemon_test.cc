// SPDX-License-Identifier: Apache-2.0
// outrigger-blk as a process, under load: what it answered is in the image when it has gone.
#include <array>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/support/child_process.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kWriteBytes = 65536;
constexpr uint32_t kWritesInFlight = 64;
constexpr uint64_t kDiskBytes = uint64_t{64} << 20;

/// A guest that writes 64 KiB blocks one after the other, each with its own number.
class WritingGuest final {
  public:
    /// The data lies in a region of its own, so backed; nothing else does.
    explicit WritingGuest(driver::Frontend connected,
                          driver::RegionBacking data_backing = driver::RegionBacking::kDefault)
        : frontend_(std::move(connected)) {
        data_region_ = memory_
                           .add_region({.guest_address = GuestAddr{0x4000'0000},
                                        .size = kWritesInFlight * uint64_t{kWriteBytes},
                                        .backing = data_backing})
                           .value();
        auto up = driver::bring_up(frontend_, memory_, {});
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
        for (uint32_t i = 0; i < kWritesInFlight; ++i) {
            slots_.push_back({.header = memory_.allocate(16, 16).value(),
                              .data = memory_.allocate(kWriteBytes, 4096, data_region_).value(),
                              .status = memory_.allocate(1, 1).value()});
        }
    }

    /// Makes one more write available in that slot.
    void submit(uint32_t slot) {
        const Slot& buffers = slots_[slot];
        std::array<std::byte, 16> header{};
        const uint32_t type = VIRTIO_BLK_T_OUT;
        const uint64_t sector = uint64_t{next_block_} * (kWriteBytes / 512);
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(buffers.header, header);
        memory_.write(buffers.data, std::vector<std::byte>(kWriteBytes, fill_of(next_block_)));
        const std::byte unset{0xff};
        memory_.write(buffers.status, std::span(&unset, 1));
        EXPECT_TRUE(queue().try_add(chain(slot), uint64_t{next_block_} << 32 | slot));
        next_block_ = (next_block_ + 1) % (kDiskBytes / kWriteBytes);
    }

    /// Takes what was answered; its slots are free again.
    std::vector<uint32_t> take_answers() {
        std::vector<uint32_t> free_slots;
        while (const auto used = queue().poll_used()) {
            const auto slot = static_cast<uint32_t>(used->token);
            std::byte status{};
            memory_.read(slots_[slot].status, std::span(&status, 1));
            EXPECT_EQ(status, std::byte{VIRTIO_BLK_S_OK});
            written_.push_back(static_cast<uint32_t>(used->token >> 32));
            free_slots.push_back(slot);
        }
        return free_slots;
    }

    /// Keeps the queue full until so many writes were answered.
    void write_until(size_t count) {
        for (uint32_t slot = 0; slot < kWritesInFlight; ++slot) {
            submit(slot);
        }
        queue().publish_and_kick();
        while (written_.size() < count) {
            ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            for (const uint32_t slot : take_answers()) {
                submit(slot);
            }
            queue().publish_and_kick();
        }
    }

    /// The file of the data is empty from now on. Nothing here may touch the data any more.
    void truncate_data() { EXPECT_EQ(::ftruncate(memory_.fd(data_region_), 0), 0); }

    /// Everything may have been answered before the truncation: whatever was comes once more,
    /// until the back end has found it. False when it does not.
    [[nodiscard]] bool repeat_until_error() {
        const auto deadline = driver::after(kPatience);
        while (driver::Clock::now() < deadline) {
            while (const auto used = queue().poll_used()) {
                written_.push_back(0);
                EXPECT_TRUE(
                    queue().try_add(chain(static_cast<uint32_t>(used->token)), used->token));
            }
            queue().publish_and_kick();
            if (queue().wait_error(driver::after(std::chrono::milliseconds(10)))) {
                return true;
            }
        }
        return false;
    }

    /// What was in flight has come back, with a status or not, and the ring stands where it says.
    void expect_stopped_ring_gave_all_back() {
        const auto base = queue().stop(frontend_);
        ASSERT_TRUE(base);
        while (queue().poll_used()) {
            written_.push_back(0);
        }
        EXPECT_EQ(*base, static_cast<uint16_t>(written_.size()));
    }

    [[nodiscard]] const std::vector<uint32_t>& written() const { return written_; }

    [[nodiscard]] static std::byte fill_of(uint32_t block) {
        return static_cast<std::byte>(block % 251 + 1);
    }

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::DriverQueue& queue() { return running_.queues[0]; }

  private:
    [[nodiscard]] std::array<driver::Segment, 3> chain(uint32_t slot) const {
        const Slot& buffers = slots_[slot];
        return {{{buffers.header, 16, false},
                 {buffers.data, kWriteBytes, false},
                 {buffers.status, 1, true}}};
    }

    struct Slot {
        GuestAddr header;
        GuestAddr data;
        GuestAddr status;
    };

    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(16 << 20).value();
    driver::RegionId data_region_{};
    driver::RunningDevice running_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> written_;
    uint32_t next_block_ = 0;
};

class BlkDaemonTest : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "blk-daemon-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "blk.sock";
    }

    void TearDown() override {
        daemon_.reset();
        fs::remove_all(folder_);
    }

    void start(const std::vector<std::string>& more) {
        std::vector<std::string> arguments{
            "--socket-path=" + socket_.string(), "--blk-file=" + backing_.path(), "--sandbox=log"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] driver::Frontend connect() {
        return driver::Frontend::connect(socket_, driver::after(kPatience)).value();
    }

    TemporaryImage backing_{kDiskBytes};
    std::string program_;
    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
};

INSTANTIATE_TEST_SUITE_P(Setups,
                         BlkDaemonTest,
                         ::testing::Values("--io-engine=auto",
                                           "--io-engine=threads",
                                           "--io=asio",
                                           "--cache=writethrough"),
                         [](const auto& setup) {
                             std::string name;
                             for (const char letter : std::string(setup.param)) {
                                 if (std::isalnum(static_cast<unsigned char>(letter)) != 0) {
                                     name += letter;
                                 }
                             }
                             return name;
                         });

TEST_P(BlkDaemonTest, TerminatedUnderLoadItKeepsWhatItAnswered) {
    start({GetParam(), "--queue-threads=2"});
    WritingGuest guest(connect());
    guest.write_until(500);
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0}));
    EXPECT_FALSE(fs::exists(socket_));
    (void)guest.take_answers();
    EXPECT_GE(guest.written().size(), 500U);
    for (const uint32_t block : guest.written()) {
        ASSERT_TRUE(backing_.holds(uint64_t{block} * kWriteBytes,
                                   kWriteBytes,
                                   std::to_integer<int>(WritingGuest::fill_of(block))))
            << block;
    }
}

TEST_P(BlkDaemonTest, GuestThatDisconnectsUnderLoadIsFollowedByTheNext) {
    start({GetParam()});
    for (int round = 0; round < 3; ++round) {
        WritingGuest guest(connect());
        guest.write_until(100);
    }
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0}));
}

TEST_P(BlkDaemonTest, Row13DaemonOutlivesMemoryThatIsTruncatedUnderLoad) {
    start({GetParam()});
    {
        WritingGuest guest(connect(), driver::RegionBacking::kPosixObject);
        guest.write_until(200);
        guest.truncate_data();
        EXPECT_TRUE(guest.repeat_until_error());
        ASSERT_TRUE(daemon_->wait_complained("guest memory is gone"));
        guest.expect_stopped_ring_gave_all_back();
    }
    EXPECT_EQ(daemon_->complained().find("Bad address"), std::string::npos);
    {
        WritingGuest next(connect());
        next.write_until(100);
    }
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0}));
}

TEST_P(BlkDaemonTest, RequireSealedRefusesMemoryThatCanBeTruncated) {
    start({GetParam(), "--require-sealed"});
    {
        driver::Frontend frontend = connect();
        driver::GuestMemory memory;
        const auto unsealed = memory
                                  .add_region({.guest_address = GuestAddr{0x4000'0000},
                                               .size = 1 << 20,
                                               .backing = driver::RegionBacking::kPosixObject})
                                  .value();
        ASSERT_TRUE(driver::negotiate(frontend, {}));
        EXPECT_EQ(frontend.add_mem_reg(memory, unsealed), driver::Answer::kRefused);
        ASSERT_TRUE(daemon_->wait_complained("--require-sealed"));
    }
    if (kPortableBuild) {
        return;  // it has no seals, so it takes nobody's memory
    }
    WritingGuest guest(connect());
    guest.write_until(100);
}

TEST_P(BlkDaemonTest, SecondDaemonOnTheSameImageIsRefusedAndMakesNoSocket) {
    start({GetParam()});
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    const fs::path other = folder_ / "other.sock";
    ChildProcess second(
        program_,
        {.arguments = {"--socket-path=" + other.string(), "--blk-file=" + backing_.path()}});
    EXPECT_EQ(second.wait(), (Ended{.status = 1}));
    EXPECT_NE(second.complained().find("is in use by"), std::string::npos);
    EXPECT_FALSE(fs::exists(other));
}

}  // namespace
}  // namespace outrigger::testing
