// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_state.h"

#include <cstdint>
#include <cstring>

#include <fmt/core.h>

namespace outrigger::blk {
namespace {

// Bits of the one byte of the section "mode". The others are 0.
constexpr uint8_t kWriteBack = 1;
constexpr uint8_t kReadWriteThrough = 2;
constexpr uint8_t kKeepWriteThrough = 4;
constexpr uint8_t kReadOnly = 8;
constexpr uint8_t kModeBits = kWriteBack | kReadWriteThrough | kKeepWriteThrough | kReadOnly;

// Version 1 of the section "configuration". Fields that come to it make a new version of the
// section, and this one is read, too.
static_assert(sizeof(BlkConfigSpace) == 96);

}  // namespace

std::vector<StateSection> write_blk_state(const BlkState& state) {
    const auto mode = static_cast<uint8_t>(
        (state.write_back ? kWriteBack : 0) | (state.read_write_through ? kReadWriteThrough : 0) |
        (state.keep_write_through ? kKeepWriteThrough : 0) | (state.read_only ? kReadOnly : 0));
    std::vector<StateSection> sections{
        make_section(kModeSection, std::as_bytes(std::span(&mode, 1))),
        make_section(kConfigSection, std::as_bytes(std::span(&state.config, 1)))};
    if (state.sync_failed) {
        sections.push_back(make_section(kSyncSection, {}));
    }
    return sections;
}

Result<BlkState> read_blk_state(std::span<const StateSection> sections) {
    const StateSection* const mode = find_section(sections, kModeSection.id);
    const StateSection* const config = find_section(sections, kConfigSection.id);
    const StateSection* const sync = find_section(sections, kSyncSection.id);
    BlkState state;
    if (mode == nullptr || mode->bytes.size() != 1 || config == nullptr ||
        config->bytes.size() != sizeof state.config || (sync != nullptr && !sync->bytes.empty())) {
        return failure(Error{.message = "a section of a disk is missing or of another size"});
    }
    const auto bits = std::to_integer<uint8_t>(mode->bytes[0]);
    if ((bits & ~kModeBits) != 0) {
        return failure(Error{.message = fmt::format("{}, has bits that mean nothing: {:#x}",
                                                    describe(*mode),
                                                    bits & ~kModeBits)});
    }
    state.write_back = (bits & kWriteBack) != 0;
    state.read_write_through = (bits & kReadWriteThrough) != 0;
    state.keep_write_through = (bits & kKeepWriteThrough) != 0;
    state.read_only = (bits & kReadOnly) != 0;
    state.sync_failed = sync != nullptr;
    std::memcpy(&state.config, config->bytes.data(), sizeof state.config);
    return state;
}

Result<void> check_config(const BlkConfigSpace& seen, const BlkConfigSpace& here) {
    struct Field {
        const char* name;
        uint64_t seen;
        uint64_t here;
    };

    // 0 in `seen` is what a driver does not use.
    const Field at_least[] = {
        {"the capacity", seen.capacity, here.capacity},
        {"size_max", seen.size_max, here.size_max},
        {"seg_max", seen.seg_max, here.seg_max},
        {"the number of queues", seen.num_queues, here.num_queues},
        {"max_discard_sectors", seen.max_discard_sectors, here.max_discard_sectors},
        {"max_discard_seg", seen.max_discard_seg, here.max_discard_seg},
        {"max_write_zeroes_sectors", seen.max_write_zeroes_sectors, here.max_write_zeroes_sectors},
        {"max_write_zeroes_seg", seen.max_write_zeroes_seg, here.max_write_zeroes_seg},
        {"max_secure_erase_sectors", seen.max_secure_erase_sectors, here.max_secure_erase_sectors},
        {"max_secure_erase_seg", seen.max_secure_erase_seg, here.max_secure_erase_seg},
        {"max_append_sectors", seen.zoned.max_append_sectors, here.zoned.max_append_sectors},
    };
    for (const Field& field : at_least) {
        if (field.here < field.seen) {
            return failure(
                Error{.message = fmt::format("{} of the disk was {}, and is only {} here",
                                             field.name,
                                             field.seen,
                                             field.here)});
        }
    }
    const Field the_same[] = {
        {"the block size", seen.blk_size, here.blk_size},
        {"the kind of zones", seen.zoned.model, here.zoned.model},
        {"the size of a zone", seen.zoned.zone_sectors, here.zoned.zone_sectors},
        {"max_open_zones", seen.zoned.max_open_zones, here.zoned.max_open_zones},
        {"max_active_zones", seen.zoned.max_active_zones, here.zoned.max_active_zones},
        {"write_granularity", seen.zoned.write_granularity, here.zoned.write_granularity},
    };
    for (const Field& field : the_same) {
        if (field.here != field.seen) {
            return failure(Error{
                .message = fmt::format(
                    "{} of the disk was {}, and is {} here", field.name, field.seen, field.here)});
        }
    }
    return {};
}

}  // namespace outrigger::blk
