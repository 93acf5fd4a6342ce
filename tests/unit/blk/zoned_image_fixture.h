// SPDX-License-Identifier: Apache-2.0
/// A disk with zones over a host that is played in memory, on a real worker and helper threads.
#pragma once

#include <algorithm>
#include <cerrno>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "devices/blk/zoned/zoned_image.h"
#include "tests/support/zoned_disk.h"

namespace outrigger::blk {

using outrigger::testing::ZonedDisk;
using outrigger::testing::ZonedDiskOptions;

inline constexpr uint64_t kZone = 65536;
inline constexpr uint64_t kCapacity = 49152;
inline constexpr uint32_t kBlock = 4096;
inline constexpr uint32_t kRequestsMax = 64;

class ZoneRequest final : public ImageRequest {
  public:
    explicit ZoneRequest(size_t bytes = 0, int fill = 0x5a)
        : memory_(bytes, static_cast<std::byte>(fill)),
          segment_{.iov_base = memory_.data(), .iov_len = bytes} {
        length_bytes = bytes;
        data = bytes == 0 ? std::span<const iovec>() : std::span<const iovec>(&segment_, 1);
    }

    void on_image_done(int os_error) override {
        result = os_error;
        if (then) {
            then();
        }
    }

    void on_append_place(uint64_t place) override { places.push_back(place); }

    void on_zones(std::span<const ImageZone> told) override {
        zones.insert(zones.end(), told.begin(), told.end());
    }

    [[nodiscard]] std::span<const std::byte> memory() const { return memory_; }

    std::optional<int> result;
    std::function<void()> then;
    std::vector<ImageZone> zones;
    std::vector<uint64_t> places;  // of an append

  private:
    std::vector<std::byte> memory_;
    iovec segment_;
};

class ZonedImageTest : public ::testing::Test {
  protected:
    explicit ZonedImageTest(const ZonedDiskOptions& options = {}) : disk_(options) {
        image_ = disk_.make_image().value();
        on_worker([this] { queue_ = image_->open_queue(*worker_, kRequestsMax).value(); });
    }

    ~ZonedImageTest() override {
        on_worker([this] { queue_ = nullptr; });
    }

    void on_worker(const std::function<void()>& task) const {
        std::latch done{1};
        worker_->post([&] {
            task();
            done.count_down();
        });
        done.wait();
    }

    /// Begins all of them in one turn of the worker, and waits for all.
    void run(std::span<ZoneRequest* const> requests) {
        std::latch done{static_cast<ptrdiff_t>(requests.size())};
        worker_->post([&] {
            for (ZoneRequest* const request : requests) {
                request->then = [&] { done.count_down(); };
                queue_->submit(*request);
            }
        });
        done.wait();
    }

    void run(ZoneRequest& request) {
        ZoneRequest* const one = &request;
        run(std::span(&one, 1));
    }

    struct Outcome {
        int os_error;
        ZoneFault fault;

        bool operator==(const Outcome&) const = default;
    };

    static Outcome outcome_of(const ZoneRequest& request) {
        return {*request.result, request.zone_fault};
    }

    Outcome write(uint64_t offset, size_t bytes, int fill = 0x5a) {
        ZoneRequest request(bytes, fill);
        request.command = ImageCommand::kWrite;
        request.offset_bytes = offset;
        run(request);
        return outcome_of(request);
    }

    /// A write that somebody may have carried out before.
    Outcome replay(uint64_t offset, size_t bytes, int fill = 0x5a, bool stable = false) {
        ZoneRequest request(bytes, fill);
        request.command = ImageCommand::kWrite;
        request.offset_bytes = offset;
        request.replayed = true;
        request.stable = stable;
        run(request);
        return outcome_of(request);
    }

    Outcome replay_change(ZoneCommand command, uint64_t offset) {
        ZoneRequest request;
        request.command = ImageCommand::kZone;
        request.zone_command = command;
        request.offset_bytes = offset;
        request.replayed = true;
        run(request);
        return outcome_of(request);
    }

    Outcome read(uint64_t offset, size_t bytes) {
        ZoneRequest request(bytes);
        request.command = ImageCommand::kRead;
        request.offset_bytes = offset;
        run(request);
        return outcome_of(request);
    }

    Outcome change(ZoneCommand command, uint64_t offset) {
        ZoneRequest request;
        request.command = ImageCommand::kZone;
        request.zone_command = command;
        request.offset_bytes = offset;
        run(request);
        return outcome_of(request);
    }

    struct Appended {
        Outcome outcome;
        uint64_t offset;
    };

    Appended append(uint64_t zone_offset, size_t bytes, int fill = 0x5a) {
        ZoneRequest request(bytes, fill);
        set_up_append(request, zone_offset);
        run(request);
        return {outcome_of(request), request.append_offset_bytes};
    }

    /// An append that was noted to go to `place`.
    Appended replay_append(uint64_t zone_offset,
                           size_t bytes,
                           std::optional<uint64_t> place,
                           int fill = 0x5a) {
        ZoneRequest request(bytes, fill);
        set_up_append(request, zone_offset);
        request.replayed = true;
        request.earlier_append_place = place;
        run(request);
        return {outcome_of(request), request.append_offset_bytes};
    }

    static void set_up_append(ZoneRequest& request, uint64_t zone_offset) {
        request.command = ImageCommand::kZone;
        request.zone_command = ZoneCommand::kAppend;
        request.offset_bytes = zone_offset;
    }

    [[nodiscard]] bool holds(uint64_t offset, uint64_t length, int fill) {
        return std::ranges::all_of(disk_.bytes(offset, length),
                                   [&](std::byte each) { return each == std::byte(fill); });
    }

    static constexpr Outcome kOk{0, ZoneFault::kNone};
    static constexpr Outcome kInvalid{EIO, ZoneFault::kInvalidCommand};
    static constexpr Outcome kUnaligned{EIO, ZoneFault::kUnalignedWrite};

    ZonedDisk disk_;
    std::unique_ptr<Worker> worker_ = Worker::start({}).value();
    std::unique_ptr<ZonedImage> image_;
    std::unique_ptr<ImageQueue> queue_;
};

}  // namespace outrigger::blk
