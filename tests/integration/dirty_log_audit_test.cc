// SPDX-License-Identifier: Apache-2.0
// The log audit: real daemons under mixed load, and all of guest memory compared page by page with
// the dirty log. No page that the daemon changed may lack its bit.
//
// The driver writes only while its rings are disabled: it prepares a batch, makes it available and
// copies the memory. Then the rings are enabled, and it does nothing but read until all is answered
// and the rings are disabled again. So every difference from the copy, in buffers and rings alike,
// was written by the daemon.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/support/child_process.h"
#include "tests/support/dirty_log_file.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using Pages = std::set<uint64_t>;

constexpr GuestAddr kMemoryStart{0x10'0000};
constexpr uint64_t kMemoryBytes = 8 << 20;
constexpr uint64_t kLogPages = (static_cast<uint64_t>(kMemoryStart) + kMemoryBytes) / kLogPage;
constexpr uint64_t kDiskBytes = 32 << 20;
constexpr uint16_t kQueueSize = 64;
constexpr uint32_t kDataBytesMax = 40'000;  // ten pages, begun anywhere

struct Audited {
    std::string_view name;
    const char* program;  ///< the environment variable that names it
    std::vector<std::string> arguments{};
    bool packed = false;
    uint16_t queue_count = 1;
    bool has_image = false;
};

/// All configurations together take as long as this.
std::chrono::milliseconds audit_time() {
    const char* const seconds = std::getenv("OUTRIGGER_DIRTY_LOG_SECONDS");
    return std::chrono::seconds(seconds != nullptr ? std::atoi(seconds) : 15);
}

std::vector<Audited> audited() {
    constexpr const char* kBlk = "OUTRIGGER_BLK_PROGRAM";
    constexpr const char* kRng = "OUTRIGGER_RNG_PROGRAM";
    std::vector<Audited> list;
    for (const bool packed : {false, true}) {
        list.push_back(
            {.name = "File",
             .program = kBlk,
             .arguments = {kPortableBuild ? "--cache=writeback" : "--cache=none", "--num-queues=2"},
             .packed = packed,
             .queue_count = 2,
             .has_image = true});
        list.push_back({.name = "Null",
                        .program = kBlk,
                        .arguments = {"--null-size=32M", "--null-read-zeroes", "--num-queues=2"},
                        .packed = packed,
                        .queue_count = 2});
        list.push_back({.name = "Rng", .program = kRng, .packed = packed});
    }
    return list;
}

class DirtyLogAudit : public ::testing::TestWithParam<Audited> {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "dirty-log-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        const std::string socket = folder_ / "device.sock";
        const char* const program = std::getenv(GetParam().program);
        ASSERT_NE(program, nullptr) << GetParam().program << " names the program under test";
        std::vector<std::string> arguments = GetParam().arguments;
        arguments.push_back("--socket-path=" + socket);
        if (GetParam().has_image) {
            image_.emplace(kDiskBytes);
            image_->fill(0, kDiskBytes, 0x5a);
            arguments.push_back("--blk-file=" + image_->path());
        }
        daemon_ =
            std::make_unique<ChildProcess>(program, ChildProcess::Options{.arguments = arguments});
        frontend_.emplace(driver::Frontend::connect(socket, driver::after(kPatience)).value());
        auto up = driver::bring_up(*frontend_,
                                   memory_,
                                   {.protocol_features = driver::kUsualProtocolFeatures.with(
                                        bit(wire::ProtocolFeature::kLogShmfd)),
                                    .packed = GetParam().packed,
                                    .queue_count = GetParam().queue_count,
                                    .queue_size = kQueueSize});
        ASSERT_TRUE(up) << up.error().step;
        running_ = *std::move(up);
        ASSERT_EQ(set_log_base(*log_), driver::Answer::kAccepted);
        ASSERT_EQ(frontend_->set_features(running_.agreement.features.with(wire::kLogAllBit)),
                  driver::Answer::kAccepted);
        rest_ = memory_.allocate(kMemoryBytes / 2, kLogPage).value();
    }

    void TearDown() override {
        frontend_.reset();
        daemon_.reset();
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    [[nodiscard]] uint64_t below(uint64_t limit) {
        return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_);
    }

    [[nodiscard]] driver::Answer set_log_base(const DirtyLogFile& log) {
        return frontend_->set_log_base({.size = log.bytes(), .offset = 0}, log.fd());
    }

    void enable_rings(uint32_t enabled) {
        for (uint32_t index = 0; index < running_.queues.size(); ++index) {
            ASSERT_EQ(frontend_->set_vring_enable(index, enabled), driver::Answer::kAccepted);
        }
    }

    // --- The driver's part: rings are disabled ---------------------------------------------------

    /// A piece of memory that no other request of this batch has.
    [[nodiscard]] std::optional<GuestAddr> take(uint32_t bytes) {
        // Often a few bytes into a page, so that buffers end anywhere.
        const uint64_t start = next_ + below(3) * 512;
        if (start + bytes > kMemoryBytes / 2) {
            return std::nullopt;
        }
        next_ = start + bytes;
        return driver::offset_by(rest_, start);
    }

    /// Fills a buffer with what no device writes there: each byte differs from the time before.
    void scribble(GuestAddr address, uint32_t bytes) {
        memory_.write(address,
                      std::vector<std::byte>(bytes, static_cast<std::byte>(++serial_ % 251 + 1)));
    }

    [[nodiscard]] bool add_disk_request(driver::DriverQueue& queue) {
        struct [[gnu::packed]] {
            uint32_t type;
            uint32_t reserved;
            uint64_t sector;
        } header{};

        constexpr std::array<uint32_t, 8> kTypes = {VIRTIO_BLK_T_IN,
                                                    VIRTIO_BLK_T_IN,
                                                    VIRTIO_BLK_T_IN,
                                                    VIRTIO_BLK_T_OUT,
                                                    VIRTIO_BLK_T_OUT,
                                                    VIRTIO_BLK_T_FLUSH,
                                                    VIRTIO_BLK_T_GET_ID,
                                                    0x7777};
        header.type = kTypes[below(kTypes.size())];
        uint32_t bytes = 0;
        if (header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_OUT) {
            bytes = static_cast<uint32_t>(8 * (1 + below(kDataBytesMax / 4096))) * 512;
            // Some go beyond the end of the disk.
            header.sector = below(kDiskBytes / 4096) * 8;
        } else if (header.type == VIRTIO_BLK_T_GET_ID) {
            bytes = VIRTIO_BLK_ID_BYTES;
        }
        constexpr auto kHeaderBytes = static_cast<uint32_t>(sizeof header);
        const auto at = take(kHeaderBytes + bytes + 1);
        if (!at) {
            return false;
        }
        const bool reads = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
        scribble(*at, kHeaderBytes + bytes + 1);
        memory_.write(*at, std::as_bytes(std::span(&header, 1)));
        const GuestAddr data = driver::offset_by(*at, kHeaderBytes);
        std::vector<driver::Segment> segments = {{*at, kHeaderBytes, false}};
        for (uint32_t done = 0; done < bytes;) {
            const auto length =
                std::min(static_cast<uint32_t>(1 + below(kDataBytesMax)), bytes - done);
            segments.push_back({driver::offset_by(data, done), length, reads});
            done += length;
            if (segments.size() == 6) {
                segments.back().length += bytes - done;
                done = bytes;
            }
        }
        segments.push_back({driver::offset_by(data, bytes), 1, true});
        return add(queue, segments);
    }

    [[nodiscard]] bool add_entropy_request(driver::DriverQueue& queue) {
        const auto bytes = static_cast<uint32_t>(1 + below(kDataBytesMax));
        const auto at = take(bytes);
        if (!at) {
            return false;
        }
        scribble(*at, bytes);
        return add(queue, {{*at, bytes, true}});
    }

    [[nodiscard]] bool add(driver::DriverQueue& queue,
                           const std::vector<driver::Segment>& segments) {
        return queue.try_add(
            segments,
            0,
            below(2) == 0 ? driver::ChainLayout::kDirect : driver::ChainLayout::kIndirect);
    }

    void prepare_batch() {
        next_ = 0;
        for (driver::DriverQueue& queue : running_.queues) {
            const bool is_disk = GetParam().program == std::string_view("OUTRIGGER_BLK_PROGRAM");
            for (uint64_t i = 1 + below(kQueueSize / 2); i > 0; --i) {
                if (!(is_disk ? add_disk_request(queue) : add_entropy_request(queue))) {
                    break;
                }
            }
            queue.publish();
            queue.kick();
        }
    }

    // --- The device's part: the driver only reads ------------------------------------------------

    /// True when all came back. Also swaps the log, now and then, under load.
    [[nodiscard]] bool wait_for_answers(Pages& marked) {
        if (below(4) == 0) {
            std::swap(log_, other_log_);
            if (set_log_base(*log_) != driver::Answer::kAccepted) {
                return false;
            }
            marked.merge(other_log_->take_pages());
        }
        return eventually([&] {
            return std::ranges::all_of(running_.queues, [&](driver::DriverQueue& queue) {
                while (queue.poll_used()) {
                    ++answered_;
                }
                return queue.in_flight() == 0;
            });
        });
    }

    [[nodiscard]] std::span<const std::byte> memory() const {
        return {memory_.data(kMemoryStart, kMemoryBytes), kMemoryBytes};
    }

    /// Pages that are not as the driver left them, by guest physical page number.
    [[nodiscard]] Pages changed() const {
        Pages pages;
        for (uint64_t at = 0; at < kMemoryBytes; at += kLogPage) {
            if (std::memcmp(before_.data() + at, memory().data() + at, kLogPage) != 0) {
                pages.insert((static_cast<uint64_t>(kMemoryStart) + at) / kLogPage);
            }
        }
        return pages;
    }

    [[nodiscard]] static Pages missed(const Pages& changed, const Pages& marked) {
        Pages missed;
        std::ranges::set_difference(changed, marked, std::inserter(missed, missed.end()));
        return missed;
    }

    void audit_round() {
        prepare_batch();
        before_.assign(memory().begin(), memory().end());
        (void)log_->take_pages();
        enable_rings(1);
        Pages marked;
        ASSERT_TRUE(wait_for_answers(marked));
        enable_rings(0);
        marked.merge(log_->take_pages());
        const Pages changes = changed();
        ASSERT_EQ(missed(changes, marked), Pages()) << "round " << rounds_;
        // The audit itself is audited: a bit that is missing is found, whichever it is.
        ASSERT_FALSE(changes.empty());
        const auto victim =
            std::next(changes.begin(), static_cast<ptrdiff_t>(below(changes.size())));
        marked.erase(*victim);
        ASSERT_EQ(missed(changes, marked), Pages({*victim}));
        ++rounds_;
        pages_changed_ += changes.size();
    }

    fs::path folder_;
    std::optional<TemporaryImage> image_;
    std::unique_ptr<ChildProcess> daemon_;
    std::optional<driver::Frontend> frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(kMemoryBytes, kMemoryStart).value();
    driver::RunningDevice running_;
    std::unique_ptr<DirtyLogFile> log_ = std::make_unique<DirtyLogFile>(kLogPages);
    std::unique_ptr<DirtyLogFile> other_log_ = std::make_unique<DirtyLogFile>(kLogPages);
    GuestAddr rest_{};  // half of the memory, for buffers
    uint64_t next_ = 0;
    std::vector<std::byte> before_;
    std::mt19937_64 random_{2};
    uint64_t serial_ = 0;
    uint64_t rounds_ = 0;
    uint64_t answered_ = 0;
    uint64_t pages_changed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(
    Daemons, DirtyLogAudit, ::testing::ValuesIn(audited()), [](const auto& config) {
        return std::string(config.param.name) + (config.param.packed ? "Packed" : "Split");
    });

TEST_P(DirtyLogAudit, NoPageChangesWithoutItsBit) {
    const auto end =
        std::chrono::steady_clock::now() + audit_time() / static_cast<int>(audited().size());
    enable_rings(0);
    while (std::chrono::steady_clock::now() < end && !HasFatalFailure()) {
        audit_round();
    }
    std::printf("%llu rounds, %llu requests, %llu pages changed, none without its bit\n",
                static_cast<unsigned long long>(rounds_),
                static_cast<unsigned long long>(answered_),
                static_cast<unsigned long long>(pages_changed_));
    EXPECT_GT(rounds_, 0U);
}

}  // namespace
}  // namespace outrigger::testing
