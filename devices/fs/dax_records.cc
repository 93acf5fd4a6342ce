// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/dax_records.h"

#include <atomic>
#include <cstring>
#include <span>
#include <utility>

namespace outrigger::fs {
namespace {

constexpr uint64_t kFree = 0;
constexpr uint64_t kUncertain = 1;
constexpr uint64_t kCertain = 2;

/// What was stored before is there before what is stored behind this: a process dies between two
/// instructions, so it is the compiler alone that must not reorder them.
void in_this_order() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

struct DaxRecords::Record {
    uint64_t word;  // the last store of a record that comes, the only one of one that goes
    uint64_t offset;
    uint64_t bytes;
    uint64_t node;
    uint64_t file_offset;
    uint64_t writable;
};

Result<std::unique_ptr<DaxRecords>> DaxRecords::open(DeviceKeeper& keeper) {
    constexpr size_t kBytes = size_t{kPlaces} * sizeof(Record);
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("window", kBytes));
    return std::make_unique<DaxRecords>(OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kBytes)));
}

DaxRecords::DaxRecords(Mapping memory) : memory_(std::move(memory)) {}

std::byte* DaxRecords::at(uint32_t place) const {
    return memory_.data() + size_t{place} * sizeof(Record);
}

std::vector<DaxRecords::Found> DaxRecords::read() {
    std::vector<Found> found;
    for (uint32_t place = 0; place < kPlaces; ++place) {
        Record copy;
        std::memcpy(&copy, at(place), sizeof copy);
        if (copy.word == kFree) {
            continue;
        }
        for (; end_ < place; ++end_) {
            free_.push_back(end_);
        }
        ++end_;
        found.push_back({.place = place,
                         .piece = {.offset = copy.offset,
                                   .bytes = copy.bytes,
                                   .node = copy.node,
                                   .file_offset = copy.file_offset,
                                   .writable = copy.writable == 1,
                                   .is_certain = copy.word == kCertain}});
    }
    return found;
}

std::optional<uint32_t> DaxRecords::add(const KeptPiece& piece) {
    if (free_.empty()) {
        if (end_ == kPlaces) {
            return std::nullopt;
        }
        free_.push_back(end_++);
    }
    const uint32_t place = free_.back();
    free_.pop_back();
    const Record record{.word = kUncertain,
                        .offset = piece.offset,
                        .bytes = piece.bytes,
                        .node = piece.node,
                        .file_offset = piece.file_offset,
                        .writable = piece.writable ? 1U : 0U};
    std::memcpy(at(place) + sizeof record.word,
                std::as_bytes(std::span(&record, 1)).data() + sizeof record.word,
                sizeof record - sizeof record.word);
    in_this_order();
    note_certain(place, piece.is_certain);
    return place;
}

void DaxRecords::note_certain(uint32_t place, bool is_certain) {
    const uint64_t word = is_certain ? kCertain : kUncertain;
    std::memcpy(at(place), &word, sizeof word);
    in_this_order();
}

void DaxRecords::remove(uint32_t place) {
    const uint64_t word = kFree;
    std::memcpy(at(place), &word, sizeof word);
    in_this_order();
    free_.push_back(place);
}

}  // namespace outrigger::fs
