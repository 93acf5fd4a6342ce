// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/ring_script.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fuzz {
namespace {

// VIRTIO 1.3, 2.7.5 and 2.8.13.
constexpr uint16_t kFlagNext = 1;
constexpr uint16_t kFlagAvailable = 1U << 7;
constexpr uint16_t kFlagUsed = 1U << 15;
/// A bit that no descriptor has: the script says AVAILABLE and USED itself.
constexpr uint16_t kFlagRaw = 1U << 14;

constexpr size_t kDescriptorBytes = 16;
constexpr size_t kTableEntriesMax = 16;
constexpr size_t kLongTableEntriesMax = 1100;
constexpr size_t kPackedChainMax = 8;
constexpr size_t kPopsMax = 8;
constexpr size_t kLooksMax = 16;

template <class T>
void put(std::array<uint8_t, 16>& raw, size_t offset, T value) {
    std::memcpy(raw.data() + offset, &value, sizeof value);
}

uint64_t total_of(std::span<const iovec> segments) {
    uint64_t sum = 0;
    for (const iovec& segment : segments) {
        OUTRIGGER_ASSERT(segment.iov_len > 0);
        sum += segment.iov_len;
    }
    return sum;
}

/// What a device may do with the readable part.
void look_at(ChainReader& reader, LookOp op, uint16_t argument) {
    const uint64_t before = reader.remaining();
    std::array<std::byte, 4096> buffer;
    uint64_t consumed = 0;
    if (op == LookOp::kRead) {
        consumed = reader.read(std::span(buffer).first(argument % (buffer.size() + 1)));
        OUTRIGGER_ASSERT(consumed == std::min<uint64_t>(before, argument % (buffer.size() + 1)));
    } else if (op == LookOp::kReadObject) {
        const auto object = reader.read_object<std::array<std::byte, 16>>();
        OUTRIGGER_ASSERT(object.has_value() == (before >= 16));
        consumed = object ? 16 : 0;
    } else if (op == LookOp::kSkipReadable) {
        consumed = std::min<uint64_t>(before, argument);
        reader.skip(consumed);
    } else {
        consumed = total_of(reader.take_iovecs());
        OUTRIGGER_ASSERT(consumed == before);
    }
    OUTRIGGER_ASSERT(reader.remaining() == before - consumed);
}

/// And with the writable one.
void look_at(ChainWriter& writer, LookOp op, uint16_t argument) {
    const uint64_t before = writer.remaining();
    std::array<std::byte, 4096> buffer;
    buffer.fill(std::byte{0x5a});
    uint64_t consumed = 0;
    if (op == LookOp::kWrite) {
        consumed = writer.write(std::span(buffer).first(argument % (buffer.size() + 1)));
        OUTRIGGER_ASSERT(consumed == std::min<uint64_t>(before, argument % (buffer.size() + 1)));
    } else if (op == LookOp::kWriteZeroes) {
        consumed = writer.write_zeroes(argument);
        OUTRIGGER_ASSERT(consumed == std::min<uint64_t>(before, argument));
    } else if (op == LookOp::kSkipWritable) {
        consumed = std::min<uint64_t>(before, argument);
        writer.skip(consumed);
    } else if (op == LookOp::kTakeLastByte) {
        const auto last = writer.take_last_byte();
        OUTRIGGER_ASSERT(last.has_value() == (before > 0));
        consumed = last ? 1 : 0;
        if (last) {
            OUTRIGGER_ASSERT(last->copy_from(std::span(buffer).first(1)) == 1);
        }
    } else {
        const std::span<const iovec> segments = writer.take_iovecs();
        for (const iovec& segment : segments) {
            std::memset(segment.iov_base, 0xa5, segment.iov_len);
        }
        consumed = total_of(segments);
        OUTRIGGER_ASSERT(consumed == before);
    }
    OUTRIGGER_ASSERT(writer.remaining() == before - consumed);
}

}  // namespace

ScriptDescriptor ScriptDescriptor::read(ScriptReader& script) {
    ScriptDescriptor descriptor;
    descriptor.address = FuzzMemory::read_place(script);
    descriptor.length = script.u16();
    if (descriptor.length == 0xffff) {
        descriptor.length = script.u32();
    }
    descriptor.flags = script.u16();
    descriptor.link = script.u16();
    return descriptor;
}

std::array<uint8_t, 16> ScriptDescriptor::split() const {
    std::array<uint8_t, 16> raw;
    put(raw, 0, address);
    put(raw, 8, length);
    put(raw, 12, flags);
    put(raw, 14, link);
    return raw;
}

std::array<uint8_t, 16> ScriptDescriptor::packed() const {
    std::array<uint8_t, 16> raw;
    put(raw, 0, address);
    put(raw, 8, length);
    put(raw, 12, link);
    put(raw, 14, flags);
    return raw;
}

std::array<uint8_t, 16> RingScript::bytes_of(const ScriptDescriptor& descriptor) const {
    return packed_ ? descriptor.packed() : descriptor.split();
}

// --- Setting up --------------------------------------------------------------------------------

void RingScript::run() {
    memory_.reset();
    if (set_up()) {
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<RingOp>(script_));
            check_standing();
        }
        finish();
    }
    memory_.check();
}

bool RingScript::set_up() {
    const uint8_t options = script_.u8();
    const size_t size = script_.pick(kRingSizeCount + 1);
    config_.size = size < kRingSizeCount ? kRingSizes[size] : script_.u16();
    config_.packed = packed_;
    config_.event_idx = (options & RingOptions::kEventIdx) != 0;
    config_.indirect = (options & RingOptions::kIndirect) != 0;
    config_.in_order = (options & RingOptions::kInOrder) != 0;
    place_areas();
    if ((options & RingOptions::kPlaceAreas) != 0) {
        descriptor_area_ = FuzzMemory::read_place(script_);
        driver_area_ = FuzzMemory::read_place(script_);
        device_area_ = FuzzMemory::read_place(script_);
    }
    iommu_ = (options & RingOptions::kIommu) != 0;
    if (iommu_ && (options & RingOptions::kUntranslated) == 0) {
        for (size_t region = 0; region < FuzzMemory::kRegionCount; ++region) {
            const uint64_t start = FuzzMemory::guest_start(region);
            OUTRIGGER_ASSERT(iotlb_
                                 .update({.iova = start,
                                          .size = FuzzMemory::region_bytes(region),
                                          .target = FuzzMemory::frontend_address(start),
                                          .access = Access::kReadWrite})
                                 .has_value());
        }
    }
    const auto ring_address = [this](uint64_t address) {
        return FrontendAddr{iommu_ ? address : FuzzMemory::frontend_address(address)};
    };
    config_.descriptor_area = ring_address(descriptor_area_);
    config_.driver_area = ring_address(driver_area_);
    config_.device_area = ring_address(device_area_);
    base_.raw = packed_ ? 0x8000'8000 : 0;
    if ((options & RingOptions::kBase) != 0) {
        base_.raw = script_.u32();
    }
    available_index_ = static_cast<uint16_t>(packed_ ? base_.raw & 0x7fff : base_.raw);
    available_wrap_ = (base_.raw & 0x8000) != 0;
    if (!packed_) {
        used_index_ = available_index_;
        memory_.store_object(driver_area_ + 2, available_index_);
        memory_.store_object(device_area_ + 2, used_index_);
        used_index_ = memory_.load_object<uint16_t>(device_area_ + 2);
    }
    auto queue =
        Virtqueue::create(config_, base_, current_memory(MemorySnapshot::Withdrawn::kNothing));
    if (!queue) {
        return false;
    }
    queue_ = *std::move(queue);
    allow_ring_writes();
    return true;
}

void RingScript::place_areas() {
    // One behind the other at the start of the first region.
    descriptor_area_ = FuzzMemory::guest_start(FuzzMemory::kHome);
    driver_area_ = descriptor_area_ + kDescriptorBytes * config_.size;
    const uint64_t driver_bytes = packed_ ? 4 : 6 + 2ULL * config_.size;
    device_area_ = (driver_area_ + driver_bytes + 3) & ~3ULL;
}

std::shared_ptr<const MemorySnapshot> RingScript::current_memory(
    MemorySnapshot::Withdrawn withdrawn) const {
    const auto& table = memory_.snapshot(memory_.current());
    return iommu_ ? table->with_mode({.iommu = true})->with_translations(iotlb_, withdrawn) : table;
}

void RingScript::allow_ring_writes() {
    if (iommu_) {
        const auto memory = current_memory(MemorySnapshot::Withdrawn::kNothing);
        const auto allow = [&](uint64_t iova, uint64_t bytes) {
            for (const iovec& piece :
                 memory->translate_pieces(GuestAddr{iova}, bytes, Access::kWrite)) {
                memory_.allow_writes(piece, memory_.current());
            }
        };
        allow(device_area_, packed_ ? 4 : 6 + 8ULL * config_.size);
        if (packed_) {
            allow(descriptor_area_, kDescriptorBytes * config_.size);
        }
        return;
    }
    if (packed_) {
        memory_.allow_writes(descriptor_area_, kDescriptorBytes * config_.size);
        memory_.allow_writes(device_area_, 4);
    } else {
        memory_.allow_writes(device_area_, 6 + 8ULL * config_.size);
    }
}

bool RingScript::areas_are_mapped() const {
    const uint64_t size = config_.size;
    return memory_.is_contiguous(descriptor_area_, kDescriptorBytes * size) &&
           memory_.is_contiguous(driver_area_, packed_ ? 4 : 6 + 2 * size) &&
           memory_.is_contiguous(device_area_, packed_ ? 4 : 6 + 8 * size);
}

void RingScript::step(RingOp op) {
    switch (op) {
        case RingOp::kWriteDescriptor:
            return write_descriptor();
        case RingOp::kWriteTable:
            return write_table();
        case RingOp::kMakeAvailable:
            return make_available();
        case RingOp::kMoveIndex:
            return move_index();
        case RingOp::kWriteBytes:
            return write_bytes();
        case RingOp::kPop:
            return pop();
        case RingOp::kLook:
            return look();
        case RingOp::kComplete:
            return complete();
        case RingOp::kDrop:
            return drop();
        case RingOp::kPublish:
            (void)queue_->publish();
            return;
        case RingOp::kSuppressKicks:
            return queue_->suppress_kicks();
        case RingOp::kEnableKicks:
            (void)queue_->enable_kicks();
            return;
        case RingOp::kAdoptMemory:
            return adopt(script_.pick_enum<FuzzMemory::Table>(
                static_cast<size_t>(FuzzMemory::Table::kCount)));
        case RingOp::kBreak:
            return queue_->break_ring(script_.pick_enum<RingError>(kRingErrorCount));
        case RingOp::kEventIndex: {
            const auto value = script_.u32();
            if (packed_) {
                memory_.store_object(driver_area_, value);
            } else {
                memory_.store_object(driver_area_, static_cast<uint16_t>(value >> 16));
                memory_.store_object(driver_area_ + 4 + 2ULL * config_.size,
                                     static_cast<uint16_t>(value));
            }
            return;
        }
        case RingOp::kCheckMemory:
            return queue_->check_memory();
        case RingOp::kFillTable:
            return fill_table();
        case RingOp::kTranslate:
            return translate();
        case RingOp::kInvalidate:
            return invalidate();
        case RingOp::kAnswerMiss:
            return answer_miss();
        case RingOp::kCount:
            return;
    }
}

// --- The front end -----------------------------------------------------------------------------

void RingScript::translate() {
    const uint64_t iova = FuzzMemory::read_place(script_);
    const uint64_t bytes = script_.u16();
    const size_t region = script_.pick(FuzzMemory::kRegionCount);
    const uint64_t target = FuzzMemory::guest_start(region) + script_.u16();
    const auto access = static_cast<Access>(1 + script_.pick(3));
    const size_t before = iotlb_.size();
    if (!iommu_ || !iotlb_.update({.iova = iova,
                                   .size = bytes,
                                   .target = FuzzMemory::frontend_address(target),
                                   .access = access})) {
        return;
    }
    // One more than before: it took the place of nothing.
    adopt(memory_.current(),
          iotlb_.size() == before + 1 ? MemorySnapshot::Withdrawn::kNothing
                                      : MemorySnapshot::Withdrawn::kSome);
}

void RingScript::invalidate() {
    const uint64_t iova = FuzzMemory::read_place(script_);
    const uint64_t bytes = script_.u16();
    if (iommu_ && iotlb_.invalidate(iova, bytes)) {
        adopt(memory_.current(), MemorySnapshot::Withdrawn::kSome);
    }
}

void RingScript::answer_miss() {
    const bool refused = script_.u8() == 1;
    const auto misses = queue_->take_misses();
    OUTRIGGER_ASSERT(iommu_ || misses.empty());
    if (!misses.empty()) {
        const TranslationMiss first = misses.front();
        queue_->on_miss_answered(first, refused);
    }
}

// --- The driver --------------------------------------------------------------------------------

void RingScript::write_descriptor() {
    const size_t index = script_.u8() % std::min<size_t>(config_.size, 256);
    memory_.store(descriptor_area_ + kDescriptorBytes * index,
                  bytes_of(ScriptDescriptor::read(script_)));
}

void RingScript::write_table() {
    uint64_t place = FuzzMemory::read_place(script_);
    const size_t count = script_.pick(kTableEntriesMax + 1);
    for (size_t i = 0; i < count; ++i, place += kDescriptorBytes) {
        memory_.store(place, bytes_of(ScriptDescriptor::read(script_)));
    }
}

void RingScript::fill_table() {
    uint64_t place = FuzzMemory::read_place(script_);
    const size_t count = script_.u16() % (kLongTableEntriesMax + 1);
    ScriptDescriptor descriptor = ScriptDescriptor::read(script_);
    for (size_t i = 0; i < count; ++i, place += kDescriptorBytes) {
        descriptor.link = static_cast<uint16_t>(i + 1);
        if (i + 1 == count) {
            descriptor.flags &= static_cast<uint16_t>(~kFlagNext);
        }
        memory_.store(place, bytes_of(descriptor));
    }
}

void RingScript::make_available() {
    if (packed_) {
        return make_packed_available();
    }
    const uint16_t head = script_.u8();
    const size_t position = available_index_ % config_.size;
    memory_.store_object(driver_area_ + 4 + 2 * position, head);
    ++available_index_;
    memory_.store_object(driver_area_ + 2, available_index_);
}

void RingScript::make_packed_available() {
    const size_t count = script_.pick(kPackedChainMax + 1);
    const uint16_t id = script_.u16();
    for (size_t i = 0; i < count; ++i) {
        ScriptDescriptor descriptor = ScriptDescriptor::read(script_);
        descriptor.link = id;
        if ((descriptor.flags & kFlagRaw) == 0) {
            descriptor.flags &= static_cast<uint16_t>(~(kFlagAvailable | kFlagUsed));
            descriptor.flags |= available_wrap_ ? kFlagAvailable : kFlagUsed;
        }
        memory_.store(descriptor_area_ + kDescriptorBytes * available_index_, descriptor.packed());
        if (++available_index_ >= config_.size) {
            available_index_ = 0;
            available_wrap_ = !available_wrap_;
        }
    }
}

void RingScript::move_index() {
    const uint16_t value = script_.u16();
    if (!packed_) {
        available_index_ = value;
        memory_.store_object(driver_area_ + 2, value);
        return;
    }
    const uint64_t at = descriptor_area_ + kDescriptorBytes * (value % config_.size) + 14;
    const auto flags = memory_.load_object<uint16_t>(at);
    memory_.store_object(at, static_cast<uint16_t>(flags ^ (kFlagAvailable | kFlagUsed)));
}

void RingScript::write_bytes() {
    const uint64_t place = FuzzMemory::read_place(script_);
    memory_.store(place, script_.bytes(script_.pick(65)));
}

// --- The device --------------------------------------------------------------------------------

void RingScript::pop() {
    const size_t count = 1 + script_.pick(kPopsMax);
    for (size_t i = 0; i < count; ++i) {
        if (held_.size() >= kHeldMax) {
            end_chain(0, 0);
        }
        const bool was_broken = queue_->broken().has_value();
        auto chain = queue_->pop();
        if (!chain) {
            return;
        }
        OUTRIGGER_ASSERT(!was_broken && !queue_->broken());
        OUTRIGGER_ASSERT(iommu_ || areas_are_mapped());
        ++popped_;
        outstanding_.push_back({.id = chain->id()});
        ChainReader reader = chain->take_reader();
        ChainWriter writer = chain->take_writer();
        held_.push_back({.chain = *std::move(chain),
                         .table = memory_.current(),
                         .reader = reader,
                         .writer = writer});
        examine(held_.back());
    }
}

void RingScript::examine(Held& held) {
    for (const Held& other : held_) {
        OUTRIGGER_ASSERT(&other == &held || other.chain.id() != held.chain.id());
    }
    OUTRIGGER_ASSERT(packed_ || held.chain.id() < config_.size);
    // Copies of the cursors give the segments and leave the chain's own where they are.
    ChainReader reader = held.reader;
    ChainWriter writer = held.writer;
    const std::span<const iovec> readable = reader.take_iovecs();
    const std::span<const iovec> writable = writer.take_iovecs();
    OUTRIGGER_ASSERT(total_of(readable) == held.chain.readable_bytes());
    OUTRIGGER_ASSERT(total_of(writable) == held.chain.writable_bytes());
    OUTRIGGER_ASSERT(held.reader.remaining() == held.chain.readable_bytes());
    OUTRIGGER_ASSERT(held.writer.remaining() == held.chain.writable_bytes());
    for (const iovec& segment : readable) {
        OUTRIGGER_ASSERT(memory_.holds(segment, held.table));
    }
    for (const iovec& segment : writable) {
        memory_.allow_writes(segment, held.table);
    }
}

std::optional<size_t> RingScript::pick_held() {
    const uint8_t which = script_.u8();
    return held_.empty() ? std::nullopt : std::optional(which % held_.size());
}

void RingScript::look() {
    const auto index = pick_held();
    for (size_t count = 0; count < kLooksMax; ++count) {
        const auto op = next_op<LookOp>(script_);
        if (op == LookOp::kEnd) {
            return;
        }
        const uint16_t argument = script_.u16();
        if (!index) {
            continue;
        }
        if (op < LookOp::kWrite) {
            look_at(held_[*index].reader, op, argument);
        } else {
            look_at(held_[*index].writer, op, argument);
        }
    }
}

void RingScript::complete() {
    const auto index = pick_held();
    const uint32_t written = script_.u32();
    if (index) {
        end_chain(*index,
                  static_cast<uint32_t>(written % (held_[*index].chain.writable_bytes() + 1)));
    }
}

void RingScript::drop() {
    if (const auto index = pick_held()) {
        const uint16_t id = held_[*index].chain.id();
        const auto position = static_cast<uint16_t>(queue_->base().raw >> 16 & 0x7fff);
        held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(*index));
        note_completed(id, 0, position);
    }
}

void RingScript::end_chain(size_t index, uint32_t written_bytes) {
    DescriptorChain chain = std::move(held_[index].chain);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
    const uint16_t id = chain.id();
    const auto position = static_cast<uint16_t>(queue_->base().raw >> 16 & 0x7fff);
    chain.complete(written_bytes);
    note_completed(id, written_bytes, position);
}

/// Right behind a completion, before the driver can write there: are the used elements right?
/// `packed_position` is where the first of them goes.
void RingScript::note_completed(uint16_t id, uint32_t written_bytes, uint16_t packed_position) {
    const auto done = std::ranges::find(outstanding_, id, &Outstanding::id);
    OUTRIGGER_ASSERT(done != outstanding_.end());
    done->completed = true;
    done->written_bytes = written_bytes;
    if (!config_.in_order) {
        outstanding_.erase(done);
        check_used_element(packed_ ? packed_position : used_index_, id, written_bytes);
        ++used_index_;
        return;
    }
    bool first = true;
    while (!outstanding_.empty() && outstanding_.front().completed) {
        const Outstanding& oldest = outstanding_.front();
        if (!packed_) {
            check_used_element(used_index_, oldest.id, oldest.written_bytes);
        } else if (first) {
            check_used_element(packed_position, oldest.id, oldest.written_bytes);
        }
        first = false;
        ++used_index_;
        outstanding_.erase(outstanding_.begin());
    }
}

void RingScript::check_used_element(uint16_t position, uint16_t id, uint32_t written_bytes) const {
    if (iommu_) {
        return;  // only its translations know where the ring is
    }
    if (packed_) {
        const uint64_t entry = descriptor_area_ + kDescriptorBytes * position;
        OUTRIGGER_ASSERT(memory_.load_object<uint16_t>(entry + 12, ring_table_) == id);
        OUTRIGGER_ASSERT(memory_.load_object<uint32_t>(entry + 8, ring_table_) == written_bytes);
    } else {
        const uint64_t element = device_area_ + 4 + 8ULL * (position % config_.size);
        OUTRIGGER_ASSERT(memory_.load_object<uint32_t>(element, ring_table_) == id);
        OUTRIGGER_ASSERT(memory_.load_object<uint32_t>(element + 4, ring_table_) == written_bytes);
    }
}

void RingScript::adopt(FuzzMemory::Table table, MemorySnapshot::Withdrawn withdrawn) {
    memory_.select(table);
    allow_ring_writes();
    queue_->adopt_memory(current_memory(withdrawn));
    if (areas_are_mapped()) {
        ring_table_ = table;
    }
}

void RingScript::check_standing() const {
    OUTRIGGER_ASSERT(queue_->in_flight() == outstanding_.size());
    OUTRIGGER_ASSERT(held_.size() <= outstanding_.size() && outstanding_.size() <= config_.size);
    OUTRIGGER_ASSERT(config_.in_order || held_.size() == outstanding_.size());
    OUTRIGGER_ASSERT(queue_->counters().chains_completed.value() == popped_ - held_.size());
    OUTRIGGER_ASSERT(!queue_->broken() || !queue_->has_available());
    OUTRIGGER_ASSERT(iommu_ || areas_are_mapped() || !queue_->has_available());
    const uint32_t base = queue_->base().raw;
    if (packed_) {
        OUTRIGGER_ASSERT((base & 0x7fff) < config_.size && (base >> 16 & 0x7fff) < config_.size);
    } else {
        OUTRIGGER_ASSERT(base == static_cast<uint16_t>(base_.raw + popped_));
    }
}

void RingScript::finish() {
    while (!held_.empty()) {
        end_chain(held_.size() - 1, 0);
    }
    (void)queue_->publish();
    check_standing();
    OUTRIGGER_ASSERT(queue_->in_flight() == 0 && queue_->old_memory_released());
    if (packed_ && base_.raw >> 16 == (base_.raw & 0xffff)) {
        const uint32_t base = queue_->base().raw;
        OUTRIGGER_ASSERT(base >> 16 == (base & 0xffff));
    }
    memory_.check_released();
    queue_.reset();
}

}  // namespace outrigger::fuzz
