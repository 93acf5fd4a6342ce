// SPDX-License-Identifier: Apache-2.0
/// What a disk may hold, sector by sector: every write leaves a content of its own, so that what is
/// read tells which write it is from. Knows what must have survived a crash: what had been written
/// when a flush began that was answered.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace outrigger::testing {

/// Any thread. Requests that are in flight at a time do not overlap.
class DiskModel final {
  public:
    static constexpr size_t kSectorBytes = 512;

    /// A write, or a zeroing.
    struct Change {
        uint64_t sector = 0;
        uint64_t count = 0;
        uint32_t version = 0;
    };

    using Moment = std::vector<uint32_t>;

    /// The first `base_sectors` hold base content at first, the others zeroes.
    DiskModel(uint64_t sectors, uint64_t base_sectors)
        : base_sectors_(base_sectors), sectors_(sectors) {}

    [[nodiscard]] uint64_t sectors() const { return sectors_.size(); }

    static void fill_base(uint64_t first, std::span<std::byte> out) {
        for (size_t at = 0; at < out.size(); at += kSectorBytes) {
            fill(first + at / kSectorBytes, kBaseVersion, out.subspan(at, kSectorBytes));
        }
    }

    /// `out` gets what is written; a zeroing has no `out`.
    Change begin_change(uint64_t sector, uint64_t count, std::span<std::byte> out) {
        const std::lock_guard lock(mutex_);
        // Zeroings are the even versions.
        const uint32_t version = (last_version_ += 2) + (out.empty() ? 0 : 1);
        for (uint64_t i = 0; i < count; ++i) {
            sectors_[sector + i].history.push_back(version);
            if (!out.empty()) {
                fill(sector + i, version, out.subspan(i * kSectorBytes, kSectorBytes));
            }
        }
        return {.sector = sector, .count = count, .version = version};
    }

    /// It was answered.
    void end_change(const Change& change) {
        const std::lock_guard lock(mutex_);
        for (uint64_t i = 0; i < change.count; ++i) {
            Sector& sector = sectors_[change.sector + i];
            sector.ended = static_cast<uint32_t>(sector.history.size());
        }
    }

    /// What a flush that begins now must make stable, if it is answered.
    [[nodiscard]] Moment now() const {
        const std::lock_guard lock(mutex_);
        Moment moment;
        moment.reserve(sectors_.size());
        for (const Sector& sector : sectors_) {
            moment.push_back(sector.ended);
        }
        return moment;
    }

    /// It was answered.
    void end_flush(const Moment& moment) {
        const std::lock_guard lock(mutex_);
        for (size_t i = 0; i < sectors_.size(); ++i) {
            sectors_[i].stable = std::max(sectors_[i].stable, moment[i]);
        }
    }

    /// Everything that was answered is stable: as behind an orderly end.
    void flush_all() { end_flush(now()); }

    /// Nothing of those sectors is in flight: is it what was written last?
    [[nodiscard]] bool holds_now(uint64_t first, std::span<const std::byte> bytes) const {
        const std::lock_guard lock(mutex_);
        return each_sector(first, bytes, [&](uint64_t sector, std::span<const std::byte> content) {
            return matches_from(sector, sectors_[sector].ended, content);
        });
    }

    /// Behind a crash: is it what was stable, or something that was written later? What it is
    /// counts as the last write from now on.
    [[nodiscard]] bool survived(uint64_t first, std::span<const std::byte> bytes) {
        const std::lock_guard lock(mutex_);
        return each_sector(first, bytes, [&](uint64_t sector, std::span<const std::byte> content) {
            return matches_from(sector, sectors_[sector].stable, content) &&
                   forget_lost(sector, content);
        });
    }

    /// The same with a moment in place of what is known to be stable, and nothing forgotten.
    [[nodiscard]] bool may_hold(const Moment& stable,
                                uint64_t first,
                                std::span<const std::byte> bytes) const {
        const std::lock_guard lock(mutex_);
        return each_sector(first, bytes, [&](uint64_t sector, std::span<const std::byte> content) {
            return matches_from(sector, stable[sector], content);
        });
    }

  private:
    static constexpr uint32_t kBaseVersion = 0xffff'fffd;

    struct Sector {
        std::vector<uint32_t> history{};  ///< versions in the order in which they were begun
        uint32_t ended = 0;               ///< so many of them were answered
        uint32_t stable = 0;              ///< so many of them must survive
    };

    /// The eight bytes behind `before`; those of a sector begin with the ones behind first_value().
    static uint64_t next_value(uint32_t version, uint64_t before) {
        return version % 2 == 0 ? 0 : before + 0x1234'5678'9abc'def1;
    }

    static uint64_t first_value(uint64_t sector, uint32_t version) {
        return (sector << 32 | version) * 0x9e37'79b9'7f4a'7c15;
    }

    static void fill(uint64_t sector, uint32_t version, std::span<std::byte> out) {
        uint64_t value = first_value(sector, version);
        for (size_t at = 0; at < out.size(); at += sizeof value) {
            value = next_value(version, value);
            std::memcpy(out.data() + at, &value, sizeof value);
        }
    }

    [[nodiscard]] static bool is_version(uint64_t sector,
                                         uint32_t version,
                                         std::span<const std::byte> content) {
        uint64_t value = first_value(sector, version);
        for (size_t at = 0; at < content.size(); at += sizeof value) {
            value = next_value(version, value);
            if (std::memcmp(content.data() + at, &value, sizeof value) != 0) {
                return false;
            }
        }
        return true;
    }

    [[nodiscard]] uint32_t first_version(uint64_t sector) const {
        return sector < base_sectors_ ? kBaseVersion : 0;
    }

    /// Is it the change before `count`, or a later one?
    [[nodiscard]] bool matches_from(uint64_t sector,
                                    uint32_t count,
                                    std::span<const std::byte> content) const {
        const auto& history = sectors_[sector].history;
        if (count == 0 && is_version(sector, first_version(sector), content)) {
            return true;
        }
        const size_t from = count == 0 ? 0 : count - 1;
        return std::any_of(history.begin() + static_cast<ptrdiff_t>(from),
                           history.end(),
                           [&](uint32_t version) { return is_version(sector, version, content); });
    }

    bool forget_lost(uint64_t sector, std::span<const std::byte> content) {
        Sector& known = sectors_[sector];
        uint32_t left = static_cast<uint32_t>(known.history.size());
        while (left > known.stable && !is_version(sector, known.history[left - 1], content)) {
            --left;
        }
        known.history.resize(left);
        known.ended = left;
        known.stable = left;
        return true;
    }

    template <class Check>
    [[nodiscard]] static bool each_sector(uint64_t first,
                                          std::span<const std::byte> bytes,
                                          Check check) {
        for (size_t at = 0; at < bytes.size(); at += kSectorBytes) {
            if (!check(first + at / kSectorBytes, bytes.subspan(at, kSectorBytes))) {
                return false;
            }
        }
        return true;
    }

    const uint64_t base_sectors_;
    mutable std::mutex mutex_;
    std::vector<Sector> sectors_;
    uint32_t last_version_ = 0;
};

}  // namespace outrigger::testing
