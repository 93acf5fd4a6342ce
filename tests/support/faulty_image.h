// SPDX-License-Identifier: Apache-2.0
/// A disk whose host fails as the test says: an image file served as the product serves it, but
/// between the requests and the real system calls stands a rule. It sees every call, and lets it
/// pass, answers in the kernel's place, has only a part of it made, or holds it back.
#pragma once

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/thread_engine.h"
#include "devices/blk/uring_engine.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

/// One system call that the disk wants to make.
struct HostCall {
    blk::IoOpcode opcode = blk::IoOpcode::kRead;
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    bool stable = false;

    [[nodiscard]] bool touches(uint64_t offset, uint64_t length) const {
        return offset_bytes < offset + length && offset < offset_bytes + length_bytes;
    }
};

/// What the rule makes of a call.
struct CallFate {
    enum class Kind : uint8_t {
        kPass,
        kAnswer,  ///< not made; `value` is what the kernel "returned"
        kShort,   ///< a read or write of `value` bytes at most
        kHold,    ///< made when the test releases it
    };

    Kind kind = Kind::kPass;
    int32_t value = 0;
};

using CallRule = std::function<CallFate(const HostCall&)>;

/// The rule and the record of all queues. Any thread.
class FaultyHost final {
  public:
    void set_rule(CallRule rule) {
        const std::lock_guard lock(mutex_);
        rule_ = std::move(rule);
    }

    /// How many calls of that kind there were.
    [[nodiscard]] size_t count(blk::IoOpcode opcode) const {
        const std::lock_guard lock(mutex_);
        return static_cast<size_t>(std::ranges::count(calls_, opcode, &HostCall::opcode));
    }

    [[nodiscard]] std::vector<HostCall> calls(blk::IoOpcode opcode) const {
        const std::lock_guard lock(mutex_);
        std::vector<HostCall> out;
        std::ranges::copy_if(calls_, std::back_inserter(out), [&](const auto& call) {
            return call.opcode == opcode;
        });
        return out;
    }

    [[nodiscard]] bool wait_held(size_t number) {
        std::unique_lock lock(mutex_);
        return held_changed_.wait_for(lock, kPatience, [&] { return held_.size() >= number; });
    }

    /// Lets what is held go on, and holds nothing from now on.
    void release() {
        std::vector<std::function<void()>> released;
        {
            const std::lock_guard lock(mutex_);
            rule_ = nullptr;
            released.swap(held_);
        }
        for (const auto& go_on : released) {
            go_on();
        }
    }

    // Of the engines.
    [[nodiscard]] CallFate decide(const HostCall& call) {
        const std::lock_guard lock(mutex_);
        calls_.push_back(call);
        return rule_ ? rule_(call) : CallFate{};
    }

    void hold(std::function<void()> go_on) {
        {
            const std::lock_guard lock(mutex_);
            held_.push_back(std::move(go_on));
        }
        held_changed_.notify_all();
    }

  private:
    mutable std::mutex mutex_;
    std::condition_variable held_changed_;
    CallRule rule_;
    std::vector<HostCall> calls_;
    std::vector<std::function<void()>> held_;
};

/// Thread-bound: the queue's worker.
class FaultyEngine final : public blk::IoEngine {
  public:
    FaultyEngine(FaultyHost& host, Worker& worker, std::unique_ptr<blk::IoEngine> real)
        : host_(host), worker_(worker), real_(std::move(real)) {}

    void submit(blk::IoOperation& operation) override {
        const CallFate fate = host_.decide(describe(operation));
        switch (fate.kind) {
            case CallFate::Kind::kPass:
                real_->submit(operation);
                return;
            case CallFate::Kind::kAnswer:
                worker_.post([&operation, value = fate.value] { operation.on_complete(value, 0); });
                return;
            case CallFate::Kind::kShort: {
                iovec& only = shortened_[&operation];
                only = operation.segments[0];
                only.iov_len = std::min(only.iov_len, static_cast<size_t>(fate.value));
                operation.segments = &only;
                operation.segment_count = 1;
                real_->submit(operation);
                return;
            }
            case CallFate::Kind::kHold:
                host_.hold([this, &operation] {
                    worker_.post([this, &operation] { real_->submit(operation); });
                });
                return;
        }
    }

    void retire() override { real_->retire(); }

  private:
    [[nodiscard]] static HostCall describe(const blk::IoOperation& operation) {
        HostCall call{.opcode = operation.opcode,
                      .offset_bytes = operation.offset_bytes,
                      .length_bytes = operation.length_bytes,
                      .stable = operation.stable};
        if (operation.opcode == blk::IoOpcode::kRead || operation.opcode == blk::IoOpcode::kWrite) {
            call.length_bytes = 0;
            for (uint32_t i = 0; i < operation.segment_count; ++i) {
                call.length_bytes += operation.segments[i].iov_len;
            }
        }
        return call;
    }

    FaultyHost& host_;
    Worker& worker_;
    std::unique_ptr<blk::IoEngine> real_;
    std::map<const blk::IoOperation*, iovec> shortened_;  // one entry an operation, kept
};

class FaultyImage final : public blk::Image {
  public:
    /// `host` is borrowed.
    FaultyImage(std::unique_ptr<blk::ImageFile> file, FaultyHost& host)
        : file_(std::move(file)), host_(host), threads_(blk::IoThreadPool::start(4).value()) {}

    [[nodiscard]] const blk::ImageProperties& properties() const override {
        return file_->properties;
    }

    [[nodiscard]] Result<std::unique_ptr<blk::ImageQueue>> open_queue(
        Worker& worker, uint32_t requests_max) override {
        std::unique_ptr<blk::IoEngine> real;
        if (blk::uring_engine_can_serve(worker)) {
            real = blk::create_uring_engine({.fd = file_->fd.get()}, worker, nullptr);
        } else {
            real = std::make_unique<blk::ThreadEngine>(*threads_, worker, file_->fd.get());
        }
        return std::make_unique<blk::FileQueue>(
            *file_,
            nullptr,
            std::make_unique<FaultyEngine>(host_, worker, std::move(real)),
            worker.loop(),
            requests_max);
    }

  private:
    std::unique_ptr<blk::ImageFile> file_;
    FaultyHost& host_;
    std::unique_ptr<blk::IoThreadPool> threads_;
};

// --- Rules ---------------------------------------------------------------------------------------

/// Reads and writes that touch the range fail; everything else works.
inline CallRule bad_sectors(uint64_t offset, uint64_t length) {
    return [=](const HostCall& call) {
        const bool data =
            call.opcode == blk::IoOpcode::kRead || call.opcode == blk::IoOpcode::kWrite;
        return data && call.touches(offset, length)
                   ? CallFate{.kind = CallFate::Kind::kAnswer, .value = -EIO}
                   : CallFate{};
    };
}

/// Every call of the kind is answered so, and not made.
inline CallRule answers(blk::IoOpcode opcode, int32_t value) {
    return [=](const HostCall& call) {
        return call.opcode == opcode ? CallFate{.kind = CallFate::Kind::kAnswer, .value = value}
                                     : CallFate{};
    };
}

/// The kernel moves at most so many bytes in one call.
inline CallRule short_transfers(int32_t bytes) {
    return [=](const HostCall& call) {
        const bool data =
            call.opcode == blk::IoOpcode::kRead || call.opcode == blk::IoOpcode::kWrite;
        return data ? CallFate{.kind = CallFate::Kind::kShort, .value = bytes} : CallFate{};
    };
}

/// Calls of the kind take until FaultyHost::release().
inline CallRule holds(blk::IoOpcode opcode) {
    return [=](const HostCall& call) {
        return call.opcode == opcode ? CallFate{.kind = CallFate::Kind::kHold} : CallFate{};
    };
}

}  // namespace outrigger::testing
