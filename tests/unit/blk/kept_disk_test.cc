// SPDX-License-Identifier: Apache-2.0
// What a disk's next process finds of the one before, honest or not.
#include "devices/blk/kept_disk.h"

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "devices/blk/null_image.h"
#include "devices/blk/sync_mark.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

namespace v1 = control::v1;

constexpr uint64_t kDiskBytes = 1 << 20;

/// What outlives the processes, each of which is a device.
class Store final : public DeviceKeeper {
  public:
    Result<UniqueFd> keep(std::string_view name, size_t bytes) override {
        UniqueFd& fd = memory_[std::string(name)];
        if (!fd.valid()) {
            fd = create_shared_memory("kept", bytes).value();
        }
        return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    }

    [[nodiscard]] bool goes_on() const override { return false; }

    [[nodiscard]] bool can_hand_back() const override { return false; }

    UniqueFd take(std::string_view /*name*/) override { return {}; }

    bool keep_open(std::string_view /*name*/, int /*fd*/) override { return false; }

    void forget(std::string_view /*name*/) override {}

    /// As a process may have left all of it.
    void fill(std::byte value) const {
        for (const auto& [name, fd] : memory_) {
            const auto length = static_cast<size_t>(::lseek(fd.get(), 0, SEEK_END));
            const Mapping mapping = Mapping::map_file(fd.get(), 0, length).value();
            std::memset(mapping.data(), std::to_integer<int>(value), length);
        }
    }

  private:
    std::map<std::string, UniqueFd> memory_;
};

class KeptDiskTest : public ::testing::Test {
  protected:
    [[nodiscard]] std::unique_ptr<BlkDevice> next_process(
        std::unique_ptr<Image> image, ErrorPolicy command_line = ErrorPolicy::kReport) {
        auto device = std::make_unique<BlkDevice>(std::move(image),
                                                  BlkDeviceOptions{.error_policy = command_line});
        const auto kept = device->keep_memory(store_);
        EXPECT_TRUE(kept) << kept.error().message;
        return device;
    }

    [[nodiscard]] std::unique_ptr<BlkDevice> next_process(
        ErrorPolicy command_line = ErrorPolicy::kReport) {
        return next_process(std::make_unique<NullImage>(NullImageOptions{.size_bytes = kDiskBytes}),
                            command_line);
    }

    [[nodiscard]] std::unique_ptr<Image> file_image() const {
        return std::make_unique<FileImage>(
            ImageFile::open({.path = backing_.path(), .lock = false}).value(),
            IoEngineKind::kThreads);
    }

    /// By the command of an operator.
    static void set_policy(BlkDevice& device, v1::ErrorPolicy policy) {
        const auto loop = create_event_loop(LoopKind::kAsio).value();
        const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
        const std::vector<Worker*> workers{worker.get()};
        device.control()->attach(*loop, workers);
        v1::Request request;
        request.mutable_set_error_policy()->set_policy(policy);
        bool answered = false;
        device.control()->handle(request, {}, [&](const control::CommandResult& result) {
            EXPECT_TRUE(result);
            answered = true;
        });
        const auto end = EventLoop::Clock::now() + std::chrono::seconds(20);
        while (!answered && EventLoop::Clock::now() < end) {
            (void)loop->run_once(EventLoop::Clock::now() + std::chrono::milliseconds(10));
        }
        EXPECT_TRUE(answered);
    }

    Store store_;
    TemporaryImage backing_{kDiskBytes};
};

TEST_F(KeptDiskTest, PolicyOfAnOperatorIsTheNextProcesss) {
    set_policy(*next_process(), v1::STOP_ON_FULL);
    EXPECT_EQ(next_process()->settings().error_policy, ErrorPolicy::kStopOnFull);
    set_policy(*next_process(), v1::STOP);
    EXPECT_EQ(next_process()->settings().error_policy, ErrorPolicy::kStop);
    set_policy(*next_process(), v1::REPORT);
    EXPECT_EQ(next_process()->settings().error_policy, ErrorPolicy::kReport);
}

TEST_F(KeptDiskTest, PolicyOfTheCommandLineCountsWhereThatHasChanged) {
    set_policy(*next_process(), v1::STOP);
    EXPECT_EQ(next_process(ErrorPolicy::kStopOnFull)->settings().error_policy,
              ErrorPolicy::kStopOnFull);
}

TEST_F(KeptDiskTest, PolicyOfTheCommandLineStaysWhereNobodyChoseAnother) {
    (void)next_process();
    EXPECT_EQ(next_process(ErrorPolicy::kStop)->settings().error_policy, ErrorPolicy::kStop);
}

TEST_F(KeptDiskTest, WhateverStandsThereIsAPolicy) {
    (void)next_process();
    for (int value = 0; value < 256; ++value) {
        store_.fill(static_cast<std::byte>(value));
        const ErrorPolicy policy = next_process()->settings().error_policy;
        EXPECT_LE(policy, ErrorPolicy::kStopOnFull) << value;
    }
}

TEST_F(KeptDiskTest, FailedSyncIsTheNextProcesss) {
    {
        const auto device = next_process(file_image());
        EXPECT_FALSE(device->image()->sync_mark()->is_set());
        EXPECT_TRUE(device->image()->sync_mark()->set());
        EXPECT_FALSE(device->image()->sync_mark()->set()) << "no news";
    }
    const auto device = next_process(file_image());
    EXPECT_TRUE(device->image()->sync_mark()->is_set());
    // The guest that is told of it takes it along.
    EXPECT_EQ(device->save_state().value().size(), 3U);
}

TEST_F(KeptDiskTest, SyncThatFailedBeforeItIsKeptIsKept) {
    auto image = file_image();
    image->sync_mark()->set();
    (void)next_process(std::move(image));
    EXPECT_TRUE(next_process(file_image())->image()->sync_mark()->is_set());
}

// A process that is about to leave still writes while the next one is there.
TEST_F(KeptDiskTest, ProcessesThatOverlapShareIt) {
    const auto before = next_process(file_image());
    const auto after = next_process(file_image());
    before->image()->sync_mark()->set();
    EXPECT_TRUE(after->image()->sync_mark()->is_set());
}

}  // namespace
}  // namespace outrigger::blk
