// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/kept_disk.h"

#include <span>
#include <utility>

namespace outrigger::blk {
namespace {

/// Programs of all versions have the same, or they do not take over from one another.
constexpr size_t kBytes = 4096;
constexpr size_t kPolicyOffset = 64;  // behind the word of the SyncMark, which is first

}  // namespace

KeptDisk::KeptDisk(Mapping mapping)
    : mapping_(std::move(mapping)),
      policy_(std::span(mapping_.data(), mapping_.size())
                  .subspan(kPolicyOffset, KeptValue<Policy>::kBytes)) {
    static_assert(kPolicyOffset + KeptValue<Policy>::kBytes <= kBytes);
}

Result<std::shared_ptr<KeptDisk>> KeptDisk::open(DeviceKeeper& keeper) {
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("disk", kBytes));
    return std::shared_ptr<KeptDisk>(
        new KeptDisk(OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kBytes))));
}

std::shared_ptr<uint64_t> KeptDisk::sync_word(const std::shared_ptr<KeptDisk>& disk) {
    // SAFETY: the mapping is aligned to pages, and lives as long as `disk`.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return {disk, reinterpret_cast<uint64_t*>(disk->mapping_.data())};
}

std::optional<ErrorPolicy> KeptDisk::policy(ErrorPolicy given) const {
    const auto kept = policy_.load();
    constexpr auto kLast = static_cast<uint8_t>(ErrorPolicy::kStopOnFull);
    if (!kept || kept->given != static_cast<uint8_t>(given) || kept->chosen > kLast) {
        return std::nullopt;
    }
    return ErrorPolicy{kept->chosen};
}

void KeptDisk::store_policy(ErrorPolicy given, ErrorPolicy chosen) {
    policy_.store({.given = static_cast<uint8_t>(given), .chosen = static_cast<uint8_t>(chosen)});
}

}  // namespace outrigger::blk
