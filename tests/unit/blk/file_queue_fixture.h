// SPDX-License-Identifier: Apache-2.0
/// A file queue whose kernel is played by the test: every system call that a request becomes is
/// looked at, and answered as a real kernel might.
#pragma once

#include <cerrno>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/file_queue.h"

namespace outrigger::blk {

class ScriptedEngine final : public IoEngine {
  public:
    explicit ScriptedEngine(std::deque<IoOperation*>& submitted) : submitted_(submitted) {}

    void submit(IoOperation& operation) override { submitted_.push_back(&operation); }

  private:
    std::deque<IoOperation*>& submitted_;
};

class TestRequest final : public ImageRequest {
  public:
    void on_image_done(int os_error) override {
        EXPECT_FALSE(result.has_value()) << "ended twice";
        result = os_error;
    }

    [[nodiscard]] bool data_was_lost() override { return lost && lost(); }

    std::optional<int> result;
    std::function<bool()> lost;
};

class FileQueueTest : public testing::Test {
  protected:
    FileQueueTest() {
        file_.properties.size_bytes = uint64_t{1} << 40;
        loop_ = create_event_loop(LoopKind::kAsio).value();
        queue_ = std::make_unique<FileQueue>(
            file_, nullptr, std::make_unique<ScriptedEngine>(calls_), *loop_, kRequestsMax);
    }

    ~FileQueueTest() override { EXPECT_TRUE(calls_.empty()) << "a call was not looked at"; }

    static constexpr uint32_t kRequestsMax = 32;

    /// The oldest call that was not answered yet.
    IoOperation& call() {
        EXPECT_FALSE(calls_.empty());
        return *calls_.front();
    }

    void answer(int32_t result) {
        IoOperation& operation = call();
        calls_.pop_front();
        operation.on_complete(result, 0);
    }

    void set_up_data(TestRequest& request, ImageCommand command, uint64_t offset) {
        request.command = command;
        request.offset_bytes = offset;
        request.data = segments_;
        request.length_bytes = 0;
        for (const iovec& segment : segments_) {
            request.length_bytes += segment.iov_len;
        }
    }

    void add_segment(size_t size) {
        memory_.push_back(std::vector<std::byte>(size, std::byte{0x11}));
        segments_.push_back({.iov_base = memory_.back().data(), .iov_len = size});
    }

    ImageFile file_;
    std::deque<IoOperation*> calls_;
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<FileQueue> queue_;
    std::deque<std::vector<std::byte>> memory_;
    std::vector<iovec> segments_;
    TestRequest request_;
};

}  // namespace outrigger::blk
