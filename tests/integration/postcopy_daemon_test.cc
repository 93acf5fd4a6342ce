// SPDX-License-Identifier: Apache-2.0
// Postcopy with a disk's daemon in its sandbox: the kernel, too, waits for the guest's pages, and
// what never comes is not written to the disk as zeroes.
#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/userfault.h"

#include "tests/support/child_process.h"
#include "tests/support/pager.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using driver::Answer;
using wire::FrontendRequest;

constexpr uint32_t kDataBytes = 8192;
constexpr uint64_t kReadSector = 64;
constexpr uint64_t kWriteSector = 128;

class PostcopyDaemon : public ::testing::TestWithParam<const char*> {
  protected:
    /// One request: its three parts, each on pages of its own.
    struct Request {
        GuestAddr header{};
        GuestAddr data{};
        GuestAddr status{};
    };

    void SetUp() override {
        if (const auto source = open_userfault_source(); !source) {
            GTEST_SKIP() << source.error().message;
        }
        std::string name = ::testing::TempDir() + "postcopy-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        image_ = folder_ / "disk";
        std::ofstream(image_) << std::string(1 << 20, 'd');
        socket_ = folder_ / "s";
        const char* const program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr);
        daemon_ = std::make_unique<ChildProcess>(
            program,
            ChildProcess::Options{.arguments = {"--socket-path=" + socket_.string(),
                                                "--blk-file=" + image_.string(),
                                                "--postcopy",
                                                "--sandbox=log",
                                                GetParam()}});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    void TearDown() override {
        daemon_.reset();
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    void begin_migration() {
        frontend_.emplace(
            driver::Frontend::connect(socket_.string(), driver::after(kPatience)).value());
        const auto agreement = driver::negotiate(*frontend_, options_);
        ASSERT_TRUE(agreement) << agreement.error().step;
        auto advice = frontend_->query(number(FrontendRequest::kPostcopyAdvise));
        ASSERT_TRUE(advice && advice->fds.size() == 1) << daemon_->complained();
        pager_.emplace(std::move(advice->fds[0]), memory_);
        ASSERT_EQ(frontend_->call(number(FrontendRequest::kPostcopyListen)), Answer::kAccepted);
        queue_.emplace(driver::create_queue(memory_, *agreement, options_, 0).value());
    }

    static constexpr uint32_t number(FrontendRequest request) {
        return static_cast<uint32_t>(request);
    }

    Request offer(uint32_t type, uint64_t sector, char fill) {
        const auto pages = [this](uint64_t bytes) { return memory_.allocate(bytes, 4096).value(); };
        const Request request = {
            .header = pages(4096), .data = pages(kDataBytes), .status = pages(4096)};
        const virtio_blk_outhdr header = {.type = type, .ioprio = 0, .sector = sector};
        memory_.write(request.header, std::as_bytes(std::span(&header, 1)));
        memory_.write(request.data, std::vector(size_t{kDataBytes}, static_cast<std::byte>(fill)));
        const bool reads = type == VIRTIO_BLK_T_IN;
        const std::array<driver::Segment, 3> chain = {
            {{.address = request.header, .length = sizeof header, .device_writable = false},
             {.address = request.data, .length = kDataBytes, .device_writable = reads},
             {.address = request.status, .length = 1, .device_writable = true}}};
        EXPECT_TRUE(queue_->try_add(chain, sector));
        return request;
    }

    /// The guest's memory stays behind, and the ring starts here.
    void move_guest() {
        queue_->publish();
        queue_->kick();
        const driver::RegionId id = memory_.regions()[0];
        pager_->evict(id);
        const wire::SingleMemoryRegion sent = {.padding = 0, .region = memory_.description(id)};
        const int fd = memory_.fd(id);
        const auto reply = frontend_->query(
            number(FrontendRequest::kAddMemReg), std::as_bytes(std::span(&sent, 1)), {&fd, 1});
        ASSERT_TRUE(reply && reply->payload.size() == sizeof sent) << daemon_->complained();
        wire::SingleMemoryRegion got;
        std::memcpy(&got, reply->payload.data(), sizeof got);
        pager_->set_base(id, got.region.user_address);
        ASSERT_EQ(queue_->start(*frontend_, memory_), Answer::kAccepted);
        ASSERT_EQ(frontend_->set_vring_enable(0, 1), Answer::kAccepted);
        const uint64_t good = 0;
        ASSERT_EQ(frontend_->send({.request = number(FrontendRequest::kAddMemReg),
                                   .flags = wire::kVersion,
                                   .size = sizeof good},
                                  std::as_bytes(std::span(&good, 1))),
                  Answer::kUnasked);
    }

    void expect_completions(size_t count) {
        // Only behind the first call has the ring come, so that we may look at it.
        ASSERT_TRUE(queue_->wait_call(driver::after(kPatience))) << daemon_->complained();
        while (count > 0) {
            if (queue_->poll_used()) {
                --count;
                continue;
            }
            ASSERT_EQ(queue_->wait_used(driver::after(kPatience)), driver::WaitResult::kUsed)
                << daemon_->complained();
        }
    }

    [[nodiscard]] std::string bytes_at(GuestAddr address, size_t count) const {
        std::string bytes(count, ' ');
        memory_.read(address, std::as_writable_bytes(std::span(bytes)));
        return bytes;
    }

    [[nodiscard]] std::string disk_at(uint64_t sector) const {
        std::ifstream file(image_);
        file.seekg(static_cast<std::streamoff>(sector * 512));
        std::string bytes(kDataBytes, ' ');
        file.read(bytes.data(), kDataBytes);
        return bytes;
    }

    void expect_clean_end() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
    }

    const driver::BringUpOptions options_{
        .protocol_features = driver::kUsualProtocolFeatures |
                             FeatureSet::of({bit(wire::ProtocolFeature::kPagefault)})};
    fs::path folder_;
    fs::path image_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
    std::optional<driver::Frontend> frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    std::optional<driver::DriverQueue> queue_;
    std::optional<Pager> pager_;
};

INSTANTIATE_TEST_SUITE_P(
    Loops,
    PostcopyDaemon,
    ::testing::Values("--io=uring", "--io=asio", "--io-engine=threads", "--cache=none"),
    [](const auto& row) {
        std::string name(row.param);
        std::erase_if(name, [](char each) { return !std::isalnum(each); });
        return name;
    });

TEST_P(PostcopyDaemon, DiskWaitsForPagesAndServes) {
    begin_migration();
    ASSERT_FALSE(HasFatalFailure());
    const Request read = offer(VIRTIO_BLK_T_IN, kReadSector, 'g');
    const Request write = offer(VIRTIO_BLK_T_OUT, kWriteSector, 'w');
    move_guest();
    ASSERT_FALSE(HasFatalFailure());
    expect_completions(2);
    EXPECT_EQ(bytes_at(read.status, 1), std::string(1, VIRTIO_BLK_S_OK));
    EXPECT_EQ(bytes_at(write.status, 1), std::string(1, VIRTIO_BLK_S_OK));
    EXPECT_EQ(bytes_at(read.data, kDataBytes), std::string(kDataBytes, 'd'));
    EXPECT_EQ(disk_at(kWriteSector), std::string(kDataBytes, 'w'));
    EXPECT_EQ(pager_->strays(), 0U);
    EXPECT_FALSE(pager_->has_pages_of_others());
    const auto end = frontend_->query(number(FrontendRequest::kPostcopyEnd));
    ASSERT_TRUE(end && end->payload.size() == 8);
    EXPECT_EQ(end->payload, std::vector<std::byte>(8));
    expect_clean_end();
}

TEST_P(PostcopyDaemon, PageThatNeverComesIsNotWrittenAsZeroes) {
    begin_migration();
    ASSERT_FALSE(HasFatalFailure());
    const Request write = offer(VIRTIO_BLK_T_OUT, kWriteSector, 'w');
    pager_->keep_back(driver::offset_by(write.data, 4096));
    move_guest();
    ASSERT_FALSE(HasFatalFailure());
    // Ring, header and the first half of the data come, and then the page that does not.
    ASSERT_TRUE(eventually([&] { return pager_->asked() > pager_->brought(); }));
    give_others_a_moment();
    expect_clean_end();
    const std::string found = disk_at(kWriteSector);
    EXPECT_EQ(found.find('\0'), std::string::npos) << "zeroes that nobody wrote";
    EXPECT_EQ(found.substr(4096), std::string(4096, 'd'));
    EXPECT_FALSE(pager_->has_pages_of_others());
}

}  // namespace
}  // namespace outrigger::testing
