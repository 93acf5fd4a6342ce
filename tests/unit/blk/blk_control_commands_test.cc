// SPDX-License-Identifier: Apache-2.0
// What clients may leave behind in a device whose changes do not end.
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/null_image.h"

namespace outrigger::blk {
namespace {

namespace v1 = control::v1;

constexpr uint64_t kDiskBytes = 1 << 20;

/// A disk whose swap hangs in the host until the test lets it go.
class BlkControlCommands : public ::testing::Test {
  protected:
    void SetUp() override {
        BlkDeviceOptions options;
        options.adopt_image = [this](UniqueFd /*fd*/,
                                     const std::string& /*label*/,
                                     uint32_t /*block_bytes*/) -> Result<std::unique_ptr<Image>> {
            let_go_.wait();
            return failure(Error{.message = "the host took its time"});
        };
        device_ = std::make_unique<BlkDevice>(
            std::make_unique<NullImage>(NullImageOptions{.size_bytes = kDiskBytes}), options);
        device_->control()->attach(*loop_, workers_);
    }

    void ask(const v1::Request& request, std::vector<UniqueFd> fds = {}) {
        ++asked_;
        device_->control()->handle(request, std::move(fds), [this](control::CommandResult result) {
            ++answered_;
            if (!result && result.error().refusal == control::Refusal::kInvalid) {
                ++refused_;
            }
        });
    }

    void hang_in_a_swap() {
        v1::Request swap;
        swap.mutable_swap_image()->set_label("image");
        std::vector<UniqueFd> fds;
        fds.emplace_back(::dup(0));
        ask(swap, std::move(fds));
    }

    void run_until_answered() {
        const auto end = EventLoop::Clock::now() + std::chrono::seconds(20);
        while (answered_ < asked_ && EventLoop::Clock::now() < end) {
            (void)loop_->run_once(EventLoop::Clock::now() + std::chrono::milliseconds(10));
        }
        EXPECT_EQ(answered_, asked_);
    }

    std::latch let_go_{1};
    std::unique_ptr<EventLoop> loop_ = create_event_loop(LoopKind::kAsio).value();
    std::unique_ptr<Worker> worker_ = Worker::start({.loop = LoopKind::kAsio}).value();
    std::vector<Worker*> workers_{worker_.get()};
    std::unique_ptr<BlkDevice> device_;
    size_t asked_ = 0;
    size_t answered_ = 0;
    size_t refused_ = 0;
};

TEST_F(BlkControlCommands, DoNotPileUpBehindOneThatHangs) {
    hang_in_a_swap();
    v1::Request resize;
    resize.mutable_resize()->set_size_bytes(2 * kDiskBytes);
    for (int i = 0; i < 100; ++i) {
        ask(resize);
    }
    EXPECT_EQ(refused_, 69U);
    EXPECT_EQ(answered_, 69U);
    let_go_.count_down();
    run_until_answered();
    // There is room again.
    ask(resize);
    run_until_answered();
    EXPECT_EQ(refused_, 69U);
}

TEST_F(BlkControlCommands, ResumeIsTakenWhateverWaits) {
    hang_in_a_swap();
    v1::Request resize;
    resize.mutable_resize();
    for (int i = 0; i < 40; ++i) {
        ask(resize);
    }
    const size_t refused = refused_;
    EXPECT_GT(refused, 0U);
    v1::Request resume;
    resume.mutable_resume();
    ask(resume);
    EXPECT_EQ(refused_, refused);
    let_go_.count_down();
    run_until_answered();
}

}  // namespace
}  // namespace outrigger::blk
