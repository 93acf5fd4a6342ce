// SPDX-License-Identifier: Apache-2.0
// Queues of a disk that go from worker to worker: what is read and written is right to the byte,
// and limits, the error policy and changes of the disk work as for queues that stay.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "tests/integration/load_guest.h"
#include "tests/integration/queue_moves.h"
#include "tests/support/disk_guest.h"
#include "tests/support/faulty_image.h"
#include "tests/support/iommu_test.h"
#include "tests/support/temporary_image.h"

namespace outrigger::testing {
namespace {

using namespace outrigger::blk;

constexpr size_t kWorkers = 3;
constexpr uint16_t kQueues = 3;
constexpr RestlessMover::Options kEverywhere{.queue_count = kQueues, .worker_count = kWorkers};

std::unique_ptr<Image> open_image(const std::string& path, IoEngineKind engine) {
    // The same file is served twice while images are swapped.
    auto file = ImageFile::open({.path = path, .lock = false});
    EXPECT_TRUE(file) << file.error().message;
    return std::make_unique<FileImage>(*std::move(file), engine);
}

struct DiskKind {
    std::string name;
    IoEngineKind engine = IoEngineKind::kAuto;
    bool packed = false;
};

class BlkQueueMoves : public ::testing::TestWithParam<DiskKind> {
  protected:
    BlkQueueMoves()
        : device_(open_image(file_.path(), GetParam().engine), {.shape = {.queue_count = kQueues}}),
          host_(device_, {.worker_count = kWorkers}) {}

    [[nodiscard]] LoadGuest guest(uint32_t seed) {
        return LoadGuest(
            host_.connect(), model_, seed, {.packed = GetParam().packed, .queue_count = kQueues});
    }

    void expect_right(LoadGuest& guest) {
        EXPECT_EQ(guest.mismatches(), 0U);
        EXPECT_EQ(guest.failures(), 0U);
        EXPECT_TRUE(model_.holds_now(0, guest.read_disk()));
    }

    /// Begins a step of a change on the control thread, and waits for its end.
    void do_step(const std::function<void(std::function<void()>)>& step) {
        std::promise<void> done;
        host_.on_control([&] { step([&done] { done.set_value(); }); });
        done.get_future().wait();
    }

    void apply(const std::function<void(BlkSettings&)>& change) {
        do_step([&](const std::function<void()>& done) {
            BlkSettings settings = device_.settings();
            change(settings);
            device_.apply(settings, host_.control_loop(), done);
        });
    }

    /// The file again, as another image.
    void swap_image() {
        const std::shared_ptr<Image> next = open_image(file_.path(), GetParam().engine);
        do_step([&](const std::function<void()>& done) {
            device_.prepare_image(next, host_.control_loop(), [done](Result<void> outcome) {
                EXPECT_TRUE(outcome);
                done();
            });
        });
        apply([](BlkSettings& settings) { settings.pauses.by_change = true; });
        do_step([&](const std::function<void()>& done) {
            device_.wait_until_idle(host_.control_loop(), done);
        });
        const std::shared_ptr<Image> old = device_.image();
        do_step([&](const std::function<void()>& done) {
            device_.use_next_image(host_.control_loop(), [done](const Result<void>& outcome) {
                EXPECT_TRUE(outcome);
                done();
            });
        });
        apply([](BlkSettings& settings) { settings.pauses.by_change = false; });
    }

    TemporaryImage file_{kDiskBytes};
    DiskModel model_{kSectors, 0};
    BlkDevice device_;
    SessionHost host_;
};

INSTANTIATE_TEST_SUITE_P(Disks,
                         BlkQueueMoves,
                         ::testing::Values(DiskKind{"Split"},
                                           DiskKind{.name = "Packed", .packed = true},
                                           DiskKind{.name = "Threads",
                                                    .engine = IoEngineKind::kThreads}),
                         [](const auto& disk) { return disk.param.name; });

TEST_P(BlkQueueMoves, DataIsRightUnderLoad) {
    LoadGuest load = guest(1);
    {
        const RestlessMover mover(host_, kEverywhere);
        EXPECT_TRUE(load.run(10'000, driver::after(kPatience), true));
        EXPECT_TRUE(eventually([&] { return mover.moves() > 0; }));
    }
    expect_right(load);
}

TEST_P(BlkQueueMoves, FrontEndsComeAndGo) {
    const RestlessMover mover(host_, kEverywhere);
    for (uint32_t round = 0; round < 10; ++round) {
        {
            LoadGuest load = guest(round);
            EXPECT_TRUE(load.run(300, driver::after(kPatience), false));
            EXPECT_EQ(load.mismatches(), 0U);
            // Nothing is in flight over the end, or the model would not know what was written.
            EXPECT_TRUE(load.run(0, driver::after(kPatience), true));
        }
        ASSERT_EQ(host_.wait_closed(), CloseReason::kPeerClosed);
    }
    LoadGuest load = guest(100);
    expect_right(load);
}

TEST_P(BlkQueueMoves, ImageIsSwappedMeanwhile) {
    LoadGuest load = guest(1);
    {
        const RestlessMover mover(host_, kEverywhere);
        auto swaps = std::async(std::launch::async, [this] {
            for (int i = 0; i < 20; ++i) {
                swap_image();
            }
        });
        while (swaps.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
            ASSERT_TRUE(load.run(100, driver::after(kPatience), false));
        }
        EXPECT_TRUE(load.run(100, driver::after(kPatience), true));
    }
    expect_right(load);
}

TEST_P(BlkQueueMoves, LimitsComeAndGoMeanwhile) {
    LoadGuest load = guest(1);
    {
        const RestlessMover mover(host_, kEverywhere);
        auto changes = std::async(std::launch::async, [this] {
            for (uint64_t i = 0; i < 40; ++i) {
                apply([&](BlkSettings& settings) {
                    settings.limiter->set(
                        {.operations = {.per_second = i % 2 == 0 ? 2000U : 0U, .burst = 1}});
                });
                give_others_a_moment();
            }
        });
        while (changes.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
            ASSERT_TRUE(load.run(50, driver::after(kPatience), false));
        }
        EXPECT_TRUE(load.run(50, driver::after(kPatience), true));
    }
    expect_right(load);
}

// --- An image that cannot be opened --------------------------------------------------------------

/// Opens as many queues as it is told to.
class ScarceImage final : public Image {
  public:
    ScarceImage(std::unique_ptr<Image> below, std::atomic<int>& opens)
        : below_(std::move(below)), opens_(opens) {}

    [[nodiscard]] const ImageProperties& properties() const override {
        return below_->properties();
    }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override {
        if (opens_-- <= 0) {
            return failure(error_from_code("cannot start a thread", EAGAIN));
        }
        return below_->open_queue(worker, requests_max);
    }

  private:
    std::unique_ptr<Image> below_;
    std::atomic<int>& opens_;
};

class BlkQueueMovesToAnImage : public BlkQueueMoves {
  protected:
    [[nodiscard]] bool prepare() {
        bool prepared = false;
        do_step([&](const std::function<void()>& done) {
            device_.prepare_image(next_, host_.control_loop(), [&prepared, done](Result<void> out) {
                prepared = out.has_value();
                done();
            });
        });
        return prepared;
    }

    [[nodiscard]] bool use() {
        bool used = false;
        do_step([&](const std::function<void()>& done) {
            device_.use_next_image(host_.control_loop(), [&used, done](Result<void> out) {
                used = out.has_value();
                done();
            });
        });
        return used;
    }

    void drop() {
        do_step([&](const std::function<void()>& done) {
            device_.drop_next_image(host_.control_loop(), done);
        });
    }

    void expect_all_queues_run(LoadGuest& load) {
        EXPECT_EQ(host_.counters().rings_broken.total(), 0U);
        EXPECT_TRUE(load.run(300, driver::after(kPatience), true));
        expect_right(load);
    }

    std::atomic<int> opens_ = 0;
    std::shared_ptr<Image> next_ =
        std::make_shared<ScarceImage>(open_image(file_.path(), GetParam().engine), opens_);
};

INSTANTIATE_TEST_SUITE_P(Disks,
                         BlkQueueMovesToAnImage,
                         ::testing::Values(DiskKind{"Split"}),
                         [](const auto& disk) { return disk.param.name; });

TEST_P(BlkQueueMovesToAnImage, QueueThatMovesKeepsTheOldImageAndAllOthersWithIt) {
    LoadGuest load = guest(1);
    opens_ = kQueues;
    ASSERT_TRUE(prepare());

    EXPECT_TRUE(host_.move_queue(0, 1));
    EXPECT_FALSE(use()) << "a queue could not open it";
    expect_all_queues_run(load);
    drop();
    expect_all_queues_run(load);

    opens_ = kQueues + 1;
    ASSERT_TRUE(prepare());
    EXPECT_TRUE(host_.move_queue(0, 2));
    EXPECT_TRUE(use()) << "the refusal was of the swap before";
    expect_all_queues_run(load);
    EXPECT_EQ(device_.image(), next_);
}

TEST_P(BlkQueueMovesToAnImage, QueueMovesBehindAFailure) {
    LoadGuest load = guest(1);
    opens_ = 1;
    ASSERT_FALSE(prepare());

    EXPECT_TRUE(host_.move_queue(0, 1));
    EXPECT_TRUE(host_.move_queue(1, 2));
    drop();
    expect_all_queues_run(load);
}

// --- The error policy ----------------------------------------------------------------------------

class BlkQueueMovesOnErrors : public ::testing::Test {
  protected:
    BlkQueueMovesOnErrors()
        : device_(std::make_unique<FaultyImage>(ImageFile::open({.path = file_.path()}).value(),
                                                faults_),
                  {.shape = {.queue_count = 2}, .error_policy = ErrorPolicy::kStop}),
          host_(device_, {.worker_count = 2}) {}

    void resume() {
        std::promise<void> done;
        host_.on_control(
            [&] { device_.resume(host_.control_loop(), [&done] { done.set_value(); }); });
        done.get_future().wait();
    }

    FaultyHost faults_;
    TemporaryImage file_{1 << 20};
    BlkDevice device_;
    SessionHost host_;
};

TEST_F(BlkQueueMovesOnErrors, HeldRequestsStayHeldAndOtherQueuesMove) {
    DiskGuest guest(host_.connect(), {.queue_count = 2});
    faults_.set_rule(
        [](const HostCall&) { return CallFate{.kind = CallFate::Kind::kAnswer, .value = -EIO}; });
    // One request, so the first queue has it.
    std::vector<DiskRequest> requests(1);
    requests[0] = {.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(4096, std::byte{7})};
    auto ran = std::async(std::launch::async, [&] { return guest.run(requests); });
    ASSERT_TRUE(eventually([this] { return device_.shared().held.load() == 1; }));

    EXPECT_FALSE(host_.move_queue(0, 1)) << "its request is not back";
    EXPECT_TRUE(host_.move_queue(1, 0));
    EXPECT_EQ(device_.shared().held.load(), 1U);
    faults_.set_rule(nullptr);
    resume();
    EXPECT_TRUE(ran.get());
    EXPECT_EQ(requests[0].status, VIRTIO_BLK_S_OK);
    EXPECT_TRUE(file_.holds(0, 4096, 7));
    EXPECT_TRUE(host_.move_queue(0, 1));
    std::vector<DiskRequest> more(20, requests[0]);
    EXPECT_TRUE(guest.run(more));
    EXPECT_EQ(more[19].status, VIRTIO_BLK_S_OK);
}

TEST_F(BlkQueueMovesOnErrors, StopsAndResumesWhileQueuesMove) {
    DiskGuest guest(host_.connect(), {.queue_count = 2});
    faults_.set_rule([count = 0](const HostCall&) mutable {
        return ++count % 20 == 0 ? CallFate{.kind = CallFate::Kind::kAnswer, .value = -EIO}
                                 : CallFate{};
    });
    std::vector<DiskRequest> requests;
    for (uint64_t i = 0; i < 200; ++i) {
        requests.push_back({.type = VIRTIO_BLK_T_OUT,
                            .offset_bytes = i * 4096,
                            .data = std::vector<std::byte>(4096, std::byte(i + 1))});
    }
    {
        const RestlessMover mover(host_, {.queue_count = 2, .worker_count = 2});
        auto ran = std::async(std::launch::async, [&] { return guest.run(requests); });
        while (ran.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready) {
            resume();
        }
        EXPECT_TRUE(ran.get());
    }
    for (uint64_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(requests[i].status, VIRTIO_BLK_S_OK);
        EXPECT_TRUE(file_.holds(i * 4096, 4096, static_cast<int>(i + 1)));
    }
}

// --- Behind an IOMMU -----------------------------------------------------------------------------

class IommuQueueMoves : public IommuTest, public ::testing::WithParamInterface<bool> {
  protected:
    IommuQueueMoves() : IommuTest({}, {.queue_count = 2}, {.worker_count = 2}) {
        options_.packed = GetParam();
        options_.queue_count = 2;
    }
};

INSTANTIATE_TEST_SUITE_P(Formats, IommuQueueMoves, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(IommuQueueMoves, MissesAndInvalidationsMeetMoves) {
    start();
    ASSERT_FALSE(HasFatalFailure());
    const RestlessMover mover(*host_, {.queue_count = 2, .worker_count = 2});
    for (size_t round = 0; round < 200; ++round) {
        const size_t index = round % 2;
        EXPECT_EQ(guest().echo_problem(index), "");
        EXPECT_EQ(iommu().invalidate(guest().buffer_page(index), Iommu::kPage).value_or(9), 0U);
        if (round % 8 == 0) {
            // The ring's own pages, too.
            EXPECT_EQ(iommu().invalidate(iommu().start(), iommu().bytes()).value_or(9), 0U);
        }
        ASSERT_FALSE(HasFailure());
    }
    EXPECT_GT(iommu().misses(), 100U);
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

}  // namespace
}  // namespace outrigger::testing
