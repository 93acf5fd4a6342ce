// SPDX-License-Identifier: Apache-2.0
// Two queues on two workers write, append to, change and report the same zones.
#include <array>
#include <latch>
#include <memory>
#include <random>
#include <utility>

#include <gtest/gtest.h>

#include "tests/unit/blk/zoned_image_fixture.h"

namespace outrigger::blk {
namespace {

/// Keeps a few requests of all kinds in flight on one queue. Thread-bound: its worker.
class Load final {
  public:
    static constexpr size_t kDepth = 12;
    static constexpr uint32_t kRequests = 600;

    Load(ZonedImage& image, Worker& worker, uint32_t seed, std::latch& done)
        : queue_(image.open_queue(worker, kRequestsMax).value()),
          worker_(worker),
          random_(seed),
          fill_(static_cast<int>(seed)),
          done_(done) {}

    void begin() {
        for (size_t i = 0; i < kDepth; ++i) {
            submit();
        }
    }

    uint32_t refused_for_other_reasons = 0;

  private:
    void submit() {
        if (begun_ == kRequests) {
            return;
        }
        ++begun_;
        const uint32_t kind = random_() % 16;
        const uint64_t blocks = random_() % 3 + 1;
        const bool data = kind < 12;
        auto request = std::make_unique<ZoneRequest>(data ? blocks * kBlock : 0, fill_);
        const uint64_t zone = (random_() % 3 + 1) * kZone;
        request->offset_bytes = zone;
        if (kind < 8) {
            request->command = ImageCommand::kZone;
            request->zone_command = ZoneCommand::kAppend;
        } else if (kind < 10) {
            request->command = ImageCommand::kWrite;
            request->offset_bytes += random_() % 12 * kBlock;
        } else if (kind < 12) {
            request->command = ImageCommand::kRead;
        } else {
            constexpr std::array kCommands{ZoneCommand::kFinish,
                                           ZoneCommand::kClose,
                                           ZoneCommand::kReport,
                                           ZoneCommand::kOpen};
            request->command = ImageCommand::kZone;
            request->zone_command = kCommands[kind - 12];
            request->zones_max = 8;
            if (request->zone_command == ZoneCommand::kFinish) {
                request->zone_command =
                    random_() % 4 == 0 ? ZoneCommand::kResetAll : ZoneCommand::kReset;
            }
        }
        ZoneRequest& begun = *request.release();
        begun.then = [this, &begun] {
            if (*begun.result != 0 && begun.zone_fault == ZoneFault::kNone) {
                ++refused_for_other_reasons;
            }
            // Not from here, where the request still is.
            worker_.post([this, &begun] {
                const std::unique_ptr<ZoneRequest> ended(&begun);
                if (++ended_ == kRequests) {
                    queue_ = nullptr;
                    done_.count_down();
                } else {
                    submit();
                }
            });
        };
        queue_->submit(begun);
    }

    std::unique_ptr<ImageQueue> queue_;
    Worker& worker_;
    std::minstd_rand random_;
    const int fill_;
    std::latch& done_;
    uint32_t begun_ = 0;
    uint32_t ended_ = 0;
};

TEST(ZonedImageLoad, TwoQueuesAgreeOnEveryWritePointer) {
    ZonedDisk disk({});
    const auto image = disk.make_image().value();
    std::array<std::unique_ptr<Worker>, 2> workers{Worker::start({}).value(),
                                                   Worker::start({}).value()};
    std::array<std::unique_ptr<Load>, 2> loads;
    std::latch done{2};
    for (uint32_t i = 0; i < 2; ++i) {
        workers[i]->post([&, i] {
            loads[i] = std::make_unique<Load>(*image, *workers[i], i + 1, done);
            loads[i]->begin();
        });
    }
    done.wait();
    // The disk itself sees to it that nothing meets in a zone; an error of the host's would be a
    // write that was let through and should not have been.
    EXPECT_EQ(loads[0]->refused_for_other_reasons, 0U);
    EXPECT_EQ(loads[1]->refused_for_other_reasons, 0U);
}

}  // namespace
}  // namespace outrigger::blk
