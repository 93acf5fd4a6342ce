// SPDX-License-Identifier: Apache-2.0
/// A host's zoned block device, played in memory by the rules of the standards: what it is asked
/// beside reads and writes, and the image that reads and writes it. It is stricter than a device:
/// two writes to a sequential zone at a time are an error of the test's.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/image.h"
#include "devices/blk/segment_cursor.h"
#include "devices/blk/zoned/zone_host.h"
#include "devices/blk/zoned/zoned_image.h"

namespace outrigger::testing {

using namespace outrigger::blk;

struct ZonedDiskOptions {
    size_t zones = 8;
    size_t conventional = 1;  ///< of them, at the beginning
    uint64_t zone_bytes = 65536;
    uint64_t capacity_bytes = 49152;
    uint32_t block_bytes = 4096;
    uint32_t open_zones_max = 0;
    uint32_t active_zones_max = 0;
    ZoneType sequential = ZoneType::kSequentialRequired;
    bool takes_turns = false;
};

/// Any thread.
class ZonedDisk final {
  public:
    explicit ZonedDisk(const ZonedDiskOptions& options)
        : options_(options), bytes_(options.zones * options.zone_bytes, std::byte{0}) {
        for (size_t i = 0; i < options.zones; ++i) {
            const uint64_t start = i * options.zone_bytes;
            const bool ordered = i >= options.conventional;
            zones_.push_back(
                {.zone = {.start_bytes = start,
                          .length_bytes = options.zone_bytes,
                          .capacity_bytes = ordered ? options.capacity_bytes : options.zone_bytes,
                          .write_pointer_bytes = start,
                          .type = ordered ? options.sequential : ZoneType::kConventional,
                          .state = ordered ? ZoneState::kEmpty : ZoneState::kNoWritePointer}});
        }
    }

    [[nodiscard]] const ZonedDiskOptions& options() const { return options_; }

    /// Both ends of it, as an image with zones.
    [[nodiscard]] Result<std::unique_ptr<ZonedImage>> make_image() {
        return ZonedImage::create(
            {.host = std::make_unique<Host>(*this),
             .below = std::make_unique<Below>(*this),
             .zoning = {.model = options_.sequential == ZoneType::kSequentialRequired
                                     ? ZoneModel::kHostManaged
                                     : ZoneModel::kHostAware,
                        .zone_bytes = options_.zone_bytes,
                        .open_zones_max = options_.open_zones_max,
                        .active_zones_max = options_.active_zones_max,
                        .append_bytes_max = 0,
                        .write_granularity_bytes = options_.block_bytes},
             .takes_turns = options_.takes_turns});
    }

    // --- What the test does to it, or sees of it. ------------------------------------------------

    [[nodiscard]] ImageZone zone(size_t index) {
        const std::lock_guard lock(mutex_);
        return zones_[index].zone;
    }

    void set_state(size_t index, ZoneState state) {
        const std::lock_guard lock(mutex_);
        zones_[index].zone.state = state;
    }

    /// Somebody else writes, or resets.
    void move_write_pointer(size_t index, uint64_t written_bytes) {
        const std::lock_guard lock(mutex_);
        ImageZone& zone = zones_[index].zone;
        zone.write_pointer_bytes = zone.start_bytes + written_bytes;
        zone.state = written_bytes == 0 ? ZoneState::kEmpty : ZoneState::kClosed;
    }

    /// The next write to a sequential zone ends with this, behind so many bytes.
    void fail_next_write(int os_error, uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        write_failure_ = {os_error, bytes};
    }

    /// So many reports fail, behind so many that do not.
    void fail_reports(uint32_t count, uint32_t behind = 0) {
        const std::lock_guard lock(mutex_);
        reports_to_fail_ = count;
        reports_to_pass_ = behind;
    }

    [[nodiscard]] std::vector<std::byte> bytes(uint64_t offset, uint64_t length) {
        const std::lock_guard lock(mutex_);
        const auto begin = bytes_.begin() + static_cast<ptrdiff_t>(offset);
        return {begin, begin + static_cast<ptrdiff_t>(length)};
    }

    [[nodiscard]] uint32_t flushes() {
        const std::lock_guard lock(mutex_);
        return flushes_;
    }

    [[nodiscard]] uint32_t stable_writes() {
        const std::lock_guard lock(mutex_);
        return stable_writes_;
    }

  private:
    struct Zone {
        ImageZone zone;
        bool written_now = false;
    };

    static bool is_open(ZoneState state) {
        return state == ZoneState::kImplicitlyOpen || state == ZoneState::kExplicitlyOpen;
    }

    static bool is_active(ZoneState state) { return is_open(state) || state == ZoneState::kClosed; }

    class Host final : public ZoneHost {
      public:
        explicit Host(ZonedDisk& disk) : disk_(disk) {}

        int32_t report(uint64_t offset_bytes, std::span<ImageZone> out) override {
            return disk_.report(offset_bytes, out);
        }

        int32_t manage(ZoneCommand command, uint64_t offset, uint64_t length) override {
            return disk_.manage(command, offset, length);
        }

      private:
        ZonedDisk& disk_;
    };

    class Below final : public Image {
      public:
        explicit Below(ZonedDisk& disk) : disk_(disk) {
            properties_.size_bytes = disk.bytes_.size();
            properties_.block_bytes = disk.options_.block_bytes;
            properties_.can_discard = true;
            properties_.can_unmap_zeroes = true;
            properties_.can_secure_erase = true;
        }

        [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

        [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(
            Worker& worker, uint32_t /*requests_max*/) override {
            return std::make_unique<Queue>(disk_, worker);
        }

      private:
        ZonedDisk& disk_;
        ImageProperties properties_;
    };

    /// Answers a few turns of the loop later, as a device does.
    class Queue final : public ImageQueue {
      public:
        Queue(ZonedDisk& disk, Worker& worker) : disk_(disk), worker_(worker) {}

        void submit(ImageRequest& request) override {
            disk_.begin(request);
            worker_.post([this, &request] {
                worker_.post([this, &request] { request.on_image_done(disk_.finish(request)); });
            });
        }

      private:
        ZonedDisk& disk_;
        Worker& worker_;
    };

    [[nodiscard]] bool is_ordered_write(const ImageRequest& request) const {
        return request.command == ImageCommand::kWrite && request.length_bytes > 0 &&
               zones_[request.offset_bytes / options_.zone_bytes].zone.type ==
                   ZoneType::kSequentialRequired;
    }

    void begin(const ImageRequest& request) {
        const std::lock_guard lock(mutex_);
        if (is_ordered_write(request)) {
            Zone& zone = zones_[request.offset_bytes / options_.zone_bytes];
            EXPECT_FALSE(std::exchange(zone.written_now, true)) << "two writes at a time";
        }
    }

    int finish(ImageRequest& request) {
        const std::lock_guard lock(mutex_);
        SegmentCursor data(request.data, request.length_bytes);
        const auto at = std::span(bytes_).subspan(request.offset_bytes, request.length_bytes);
        switch (request.command) {
            case ImageCommand::kRead:
                if (at.empty()) {
                    return 0;
                }
                if (zones_[request.offset_bytes / options_.zone_bytes].zone.state ==
                    ZoneState::kOffline) {
                    return EIO;
                }
                data.scatter(at);
                return 0;
            case ImageCommand::kWrite:
                stable_writes_ += request.stable ? 1 : 0;
                if (!is_ordered_write(request)) {
                    data.gather(at);
                    return 0;
                }
                return write(request, data);
            case ImageCommand::kFlush:
                ++flushes_;
                return 0;
            case ImageCommand::kDiscard:
            case ImageCommand::kWriteZeroes:
            case ImageCommand::kSecureErase:
            case ImageCommand::kGetLifetime:
            case ImageCommand::kZone:
                return EOPNOTSUPP;
        }
        return EOPNOTSUPP;
    }

    int write(ImageRequest& request, SegmentCursor& data) {
        Zone& entry = zones_[request.offset_bytes / options_.zone_bytes];
        entry.written_now = false;
        ImageZone& zone = entry.zone;
        const bool has_pointer = zone.state == ZoneState::kEmpty || is_active(zone.state);
        if (!has_pointer || request.offset_bytes != zone.write_pointer_bytes ||
            request.length_bytes > zone.start_bytes + zone.capacity_bytes - request.offset_bytes) {
            return EIO;
        }
        if (!is_open(zone.state)) {
            if (const int refused = check_resources(zone.state); refused != 0) {
                return refused;
            }
            zone.state = ZoneState::kImplicitlyOpen;
        }
        const auto failure = std::exchange(write_failure_, std::nullopt);
        const uint64_t bytes = failure ? failure->second : request.length_bytes;
        data.gather(std::span(bytes_).subspan(request.offset_bytes, bytes));
        zone.write_pointer_bytes += bytes;
        if (zone.write_pointer_bytes == zone.start_bytes + zone.capacity_bytes) {
            zone.state = ZoneState::kFull;
        }
        return failure ? failure->first : 0;
    }

    /// May one more be open? Closes an implicitly open zone to make room, as devices do.
    int check_resources(ZoneState from) {
        const auto count = [&](auto is) {
            return static_cast<uint32_t>(std::ranges::count_if(
                zones_, [&](const Zone& each) { return is(each.zone.state); }));
        };
        if (options_.active_zones_max != 0 && !is_active(from) &&
            count(is_active) >= options_.active_zones_max) {
            return EOVERFLOW;
        }
        if (options_.open_zones_max == 0 || count(is_open) < options_.open_zones_max) {
            return 0;
        }
        for (Zone& each : zones_) {
            if (each.zone.state == ZoneState::kImplicitlyOpen) {
                each.zone.state = ZoneState::kClosed;
                return 0;
            }
        }
        return ETOOMANYREFS;
    }

    int32_t report(uint64_t offset_bytes, std::span<ImageZone> out) {
        const std::lock_guard lock(mutex_);
        if (reports_to_pass_ > 0) {
            --reports_to_pass_;
        } else if (reports_to_fail_ > 0) {
            --reports_to_fail_;
            return -EIO;
        }
        size_t count = 0;
        for (size_t i = offset_bytes / options_.zone_bytes; i < zones_.size() && count < out.size();
             ++i) {
            out[count++] = zones_[i].zone;
        }
        return static_cast<int32_t>(count);
    }

    int32_t manage(ZoneCommand command, uint64_t offset_bytes, uint64_t length_bytes) {
        const std::lock_guard lock(mutex_);
        if (command == ZoneCommand::kResetAll) {
            EXPECT_EQ(length_bytes, bytes_.size());
            for (Zone& each : zones_) {
                if (is_active(each.zone.state) || each.zone.state == ZoneState::kFull) {
                    EXPECT_FALSE(each.written_now) << "reset under a write";
                    reset(each.zone);
                }
            }
            return 0;
        }
        EXPECT_EQ(offset_bytes % options_.zone_bytes, 0U);
        EXPECT_EQ(length_bytes, options_.zone_bytes);
        Zone& entry = zones_[offset_bytes / options_.zone_bytes];
        EXPECT_FALSE(entry.written_now) << "changed under a write";
        return -change(command, entry.zone);
    }

    static void reset(ImageZone& zone) {
        zone.state = ZoneState::kEmpty;
        zone.write_pointer_bytes = zone.start_bytes;
    }

    int change(ZoneCommand command, ImageZone& zone) {
        const bool writable = zone.state == ZoneState::kEmpty || is_active(zone.state);
        switch (command) {
            case ZoneCommand::kOpen:
                if (!writable) {
                    return EIO;
                }
                if (!is_open(zone.state)) {
                    if (const int refused = check_resources(zone.state); refused != 0) {
                        return refused;
                    }
                }
                zone.state = ZoneState::kExplicitlyOpen;
                return 0;
            case ZoneCommand::kClose:
                if (!is_active(zone.state)) {
                    return EIO;
                }
                zone.state = zone.write_pointer_bytes == zone.start_bytes ? ZoneState::kEmpty
                                                                          : ZoneState::kClosed;
                return 0;
            case ZoneCommand::kFinish:
                if (!writable && zone.state != ZoneState::kFull) {
                    return EIO;
                }
                zone.state = ZoneState::kFull;
                zone.write_pointer_bytes = zone.start_bytes + zone.length_bytes;
                return 0;
            case ZoneCommand::kReset:
                if (!writable && zone.state != ZoneState::kFull) {
                    return EIO;
                }
                reset(zone);
                return 0;
            case ZoneCommand::kReport:
            case ZoneCommand::kAppend:
            case ZoneCommand::kResetAll:
                break;
        }
        return EINVAL;
    }

    const ZonedDiskOptions options_;
    std::mutex mutex_;
    std::vector<std::byte> bytes_;
    std::vector<Zone> zones_;
    std::optional<std::pair<int, uint64_t>> write_failure_;
    uint32_t reports_to_fail_ = 0;
    uint32_t reports_to_pass_ = 0;
    uint32_t stable_writes_ = 0;
    uint32_t flushes_ = 0;
};

}  // namespace outrigger::testing
