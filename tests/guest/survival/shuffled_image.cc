// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/survival/shuffled_image.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/io/worker.h"

namespace outrigger::testing {
namespace {

using std::chrono::microseconds;

/// A block of the verifier (verifier.c): magic, block, generation, checksum, a pattern.
constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kMagic = 0x3152'4659'2d47'524f;
using BlockStart = std::array<uint64_t, 3>;

/// What `data` has at `offset`, over as many segments as it takes.
BlockStart read_start(std::span<const iovec> data, uint64_t offset) {
    std::array<std::byte, sizeof(BlockStart)> bytes{};
    size_t filled = 0;
    for (const iovec& segment : data) {
        if (offset >= segment.iov_len) {
            offset -= segment.iov_len;
            continue;
        }
        const size_t part = std::min(bytes.size() - filled, segment.iov_len - offset);
        std::memcpy(
            bytes.data() + filled, static_cast<std::byte*>(segment.iov_base) + offset, part);
        filled += part;
        offset = 0;
        if (filled == bytes.size()) {
            break;
        }
    }
    return std::bit_cast<BlockStart>(bytes);
}

class ShuffledQueue final : public blk::ImageQueue {
  public:
    ShuffledQueue(std::unique_ptr<blk::ImageQueue> under,
                  Worker& worker,
                  WriteLog* log,
                  microseconds delay_max,
                  uint32_t requests_max)
        : under_(std::move(under)),
          worker_(worker),
          log_(log),
          delay_max_(delay_max),
          held_(requests_max),
          random_(std::random_device{}()) {
        free_.reserve(requests_max);
        for (Held& held : held_) {
            held.owner = this;
            free_.push_back(&held);
        }
    }

    void submit(blk::ImageRequest& request) override {
        if (log_ != nullptr) {
            log_->begin_request();
        }
        Held& held = *free_.back();
        free_.pop_back();
        held.take(request);
        held.delays_answer = random_() % 2 == 0;
        if (held.delays_answer) {
            pass_on(held);
        } else {
            later([this, &held] { pass_on(held); });
        }
    }

    void use_memory(const MemorySnapshot& memory) override { under_->use_memory(memory); }

    void retire() override { under_->retire(); }

  private:
    struct Held final : blk::ImageRequest {
        void take(blk::ImageRequest& from) {
            original = &from;
            command = from.command;
            stable = from.stable;
            offset_bytes = from.offset_bytes;
            length_bytes = from.length_bytes;
            data = from.data;
            ranges = from.ranges;
        }

        void on_image_done(int os_error) override { owner->on_done(*this, os_error); }

        [[nodiscard]] bool data_was_lost() override { return original->data_was_lost(); }

        ShuffledQueue* owner = nullptr;
        blk::ImageRequest* original = nullptr;
        bool delays_answer = false;
    };

    void later(EventLoop::Task task) {
        const auto delay =
            microseconds(std::uniform_int_distribution<int64_t>(0, delay_max_.count())(random_));
        (void)worker_.loop().start_timer(EventLoop::Clock::now() + delay, std::move(task));
    }

    void pass_on(Held& held) {
        if (log_ != nullptr && held.command == blk::ImageCommand::kWrite) {
            note_blocks(held);
        }
        under_->submit(held);
    }

    /// The guest may have merged several.
    void note_blocks(const Held& held) {
        for (uint64_t at = 0; at + kBlockBytes <= held.length_bytes; at += kBlockBytes) {
            const auto [magic, block, generation] = read_start(held.data, at);
            if (magic == kMagic && block == (held.offset_bytes + at) / kBlockBytes) {
                log_->note(block, generation);
            }
        }
    }

    void on_done(Held& held, int os_error) {
        if (held.delays_answer) {
            later([this, &held, os_error] { answer(held, os_error); });
        } else {
            answer(held, os_error);
        }
    }

    void answer(Held& held, int os_error) {
        if (log_ != nullptr) {
            log_->end_request();
        }
        blk::ImageRequest& original = *std::exchange(held.original, nullptr);
        original.lifetime = held.lifetime;
        free_.push_back(&held);
        original.on_image_done(os_error);
    }

    std::unique_ptr<blk::ImageQueue> under_;
    Worker& worker_;
    WriteLog* const log_;
    const microseconds delay_max_;
    std::vector<Held> held_;
    std::vector<Held*> free_;
    std::minstd_rand random_;
};

}  // namespace

Result<std::unique_ptr<blk::ImageQueue>> ShuffledImage::open_queue(Worker& worker,
                                                                   uint32_t requests_max) {
    return std::make_unique<ShuffledQueue>(OUTRIGGER_TRY(under_->open_queue(worker, requests_max)),
                                           worker,
                                           log_.get(),
                                           delay_max_,
                                           requests_max);
}

}  // namespace outrigger::testing
