// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zone_table.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

/// How many zones are asked for at a time.
constexpr size_t kZonesPerReport = 1024;

bool has_write_pointer(ZoneState state) {
    switch (state) {
        case ZoneState::kEmpty:
        case ZoneState::kImplicitlyOpen:
        case ZoneState::kExplicitlyOpen:
        case ZoneState::kClosed:
            return true;
        case ZoneState::kNoWritePointer:
        case ZoneState::kReadOnly:
        case ZoneState::kFull:
        case ZoneState::kOffline:
            return false;
    }
    return false;
}

}  // namespace

void ZoneTable::Line::push(Holder& holder) {
    holder.next_in_line = nullptr;
    (first == nullptr ? first : last->next_in_line) = &holder;
    last = &holder;
}

ZoneTable::Holder* ZoneTable::Line::pop() {
    Holder* const holder = first;
    if (holder != nullptr) {
        first = std::exchange(holder->next_in_line, nullptr);
    }
    return holder;
}

// --- What the host says --------------------------------------------------------------------------

Result<std::unique_ptr<ZoneTable>> ZoneTable::load(ZoneHost& host,
                                                   uint64_t disk_bytes,
                                                   const ImageZoning& zoning) {
    if (disk_bytes == 0 || zoning.zone_bytes == 0 || zoning.write_granularity_bytes == 0 ||
        zoning.zone_bytes % zoning.write_granularity_bytes != 0) {
        return failure(
            Error{.message = fmt::format("zones of {} bytes, written in steps of {}, make no disk",
                                         zoning.zone_bytes,
                                         zoning.write_granularity_bytes)});
    }
    auto table = std::unique_ptr<ZoneTable>(new ZoneTable(disk_bytes, zoning));
    OUTRIGGER_TRY(table->add_zones(host));
    return table;
}

Result<void> ZoneTable::add_zones(ZoneHost& host) {
    std::vector<ImageZone> report(kZonesPerReport);
    const size_t count = index_of(disk_bytes_ - 1) + 1;
    zones_.reserve(count);
    while (zones_.size() < count) {
        const int32_t told = host.report(start_of(zones_.size()), report);
        if (told <= 0) {
            Error error =
                error_from_code("cannot read the zones of the device", told == 0 ? EPROTO : -told);
            if (told == -EACCES || told == -EPERM) {
                error.message += "; kernels before 5.15 let only root do so";
            }
            return failure(std::move(error));
        }
        for (const ImageZone& zone : std::span(report).first(static_cast<size_t>(told))) {
            const size_t index = zones_.size();
            if (index == count) {
                break;
            }
            zones_.push_back({.writing = {}, .type = zone.type, .taken = false, .line = {}});
            if (!learn(index, zone)) {
                return failure(Error{.message = fmt::format("zone {} of the device, at byte {}, is "
                                                            "not like the others",
                                                            index,
                                                            zone.start_bytes)});
            }
        }
    }
    return {};
}

uint64_t ZoneTable::length_of(size_t zone) const {
    return std::min(zone_bytes_, disk_bytes_ - start_of(zone));
}

bool ZoneTable::fits(size_t zone, const ImageZone& now) const {
    if (now.start_bytes != start_of(zone) || now.length_bytes != length_of(zone) ||
        now.type != type_of(zone) || now.capacity_bytes > now.length_bytes) {
        return false;
    }
    if (now.type != ZoneType::kSequentialRequired) {
        return true;
    }
    const uint64_t written = now.write_pointer_bytes - now.start_bytes;  // wraps to a large one
    return now.capacity_bytes % granularity_ == 0 &&
           (!has_write_pointer(now.state) ||
            (written <= now.capacity_bytes && written % granularity_ == 0));
}

bool ZoneTable::learn(size_t zone, const ImageZone& now) {
    Writing& writing = zones_[zone].writing;
    writing.known = fits(zone, now);
    writing.write_pointer_bytes = now.write_pointer_bytes;
    writing.end_bytes = now.start_bytes + now.capacity_bytes;
    writing.state = now.state;
    return writing.known;
}

void ZoneTable::forget() {
    const std::lock_guard lock(mutex_);  // behind whoever had them
    for (Zone& zone : zones_) {
        zone.writing.known = false;
    }
}

int32_t ZoneTable::learn_all(ZoneHost& host) {
    for (Zone& zone : zones_) {
        zone.writing.known = false;
    }
    std::vector<ImageZone> report(kZonesPerReport);
    for (size_t index = 0; index < zones_.size();) {
        const int32_t told = host.report(start_of(index), report);
        if (told <= 0) {
            return told == 0 ? -EPROTO : told;
        }
        for (const ImageZone& zone : std::span(report).first(static_cast<size_t>(told))) {
            if (index < zones_.size()) {
                (void)learn(index++, zone);  // one that makes no sense is asked again
            }
        }
    }
    return 0;
}

bool ZoneTable::has_ordered(uint64_t offset_bytes, uint64_t length_bytes) const {
    const auto first = zones_.begin() + static_cast<ptrdiff_t>(index_of(offset_bytes));
    const auto last =
        zones_.begin() + static_cast<ptrdiff_t>(index_of(offset_bytes + length_bytes - 1));
    return std::any_of(first, last + 1, [](const Zone& zone) {
        return zone.type == ZoneType::kSequentialRequired;
    });
}

// --- Turns ---------------------------------------------------------------------------------------

bool ZoneTable::take(Holder& holder, size_t zone) {
    OUTRIGGER_ASSERT(zone < zones_.size());
    const std::lock_guard lock(mutex_);
    holder.taken_zone = zone;
    if (all_taken_ || !all_line_.empty()) {
        shut_line_.push(holder);
        return false;
    }
    return take_locked(holder);
}

bool ZoneTable::take_locked(Holder& holder) {
    Zone& zone = zones_[holder.taken_zone];
    if (zone.taken) {
        zone.line.push(holder);
        return false;
    }
    zone.taken = true;
    ++zones_taken_;
    return true;
}

bool ZoneTable::take_all(Holder& holder) {
    const std::lock_guard lock(mutex_);
    holder.taken_zone = kAllZones;
    if (all_taken_ || zones_taken_ > 0 || !all_line_.empty()) {
        all_line_.push(holder);
        return false;
    }
    all_taken_ = true;
    return true;
}

void ZoneTable::release(Holder& holder) {
    Line admitted;
    {
        const std::lock_guard lock(mutex_);
        release_locked(holder, admitted);
    }
    while (Holder* const next = admitted.pop()) {
        next->on_turn();
    }
}

void ZoneTable::release_locked(Holder& holder, Line& admitted) {
    if (holder.taken_zone == kAllZones) {
        all_taken_ = false;
        // They waited for one that had all. Others that want all have their turn behind them.
        Line waiting = std::exchange(shut_line_, {});
        while (Holder* const next = waiting.pop()) {
            if (take_locked(*next)) {
                admitted.push(*next);
            }
        }
    } else if (Holder* const next = zones_[holder.taken_zone].line.pop()) {
        admitted.push(*next);  // the zone stays taken
    } else {
        zones_[holder.taken_zone].taken = false;
        --zones_taken_;
    }
    if (zones_taken_ == 0 && !all_taken_) {
        if (Holder* const next = all_line_.pop()) {
            all_taken_ = true;
            admitted.push(*next);
        }
    }
}

}  // namespace outrigger::blk
