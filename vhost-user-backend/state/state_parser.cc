// SPDX-License-Identifier: Apache-2.0
// Reads a state that anybody may have written. Protobuf is given one header and one section at a
// time; what is around them is walked here, so that a state of nothing but empty sections is
// refused before it is a table of millions.
#include <algorithm>
#include <cstring>
#include <string_view>

#include <device_state.pb.h>
#include <fmt/core.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/state/device_state.h"
#include "vhost-user-backend/state/state_schema.h"

namespace outrigger {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

/// Our messages contain messages of their own once; unknown groups may go a little deeper.
constexpr int kDepthMax = 8;

std::unexpected<StateError> damaged(std::string what) {
    return failure(StateError{.fault = StateFault::kDamaged, .message = std::move(what)});
}

template <class Message>
bool parse_message(std::string_view bytes, Message& out) {
    // SAFETY: protobuf takes bytes as uint8_t, which may alias any object.
    CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                           static_cast<int>(bytes.size()));
    input.SetRecursionLimit(kDepthMax);
    return out.ParseFromCodedStream(&input) && input.ConsumedEntireMessage();
}

/// The fields of the outermost message, as views of the bytes.
struct Parts {
    std::optional<std::string_view> header;
    std::optional<uint32_t> header_crc;
    std::vector<std::string_view> sections;
    bool has_more = false;  ///< fields that this reader does not know
};

/// One field behind the magic. False: it does not end where the state does, or there is too much.
bool read_part(CodedInputStream& input, std::string_view all, uint32_t tag, Parts& parts) {
    using state::v1::DeviceState;
    const int field = WireFormatLite::GetTagFieldNumber(tag);
    const auto type = WireFormatLite::GetTagWireType(tag);
    const bool is_view =
        field == DeviceState::kHeaderFieldNumber || field == DeviceState::kSectionsFieldNumber;
    if (is_view && type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        uint32_t length = 0;
        if (!input.ReadVarint32(&length)) {
            return false;
        }
        const auto at = static_cast<size_t>(input.CurrentPosition());
        if (length > all.size() - at || !input.Skip(static_cast<int>(length))) {
            return false;
        }
        const std::string_view view = all.substr(at, length);
        if (field == DeviceState::kSectionsFieldNumber) {
            parts.sections.push_back(view);
            return parts.sections.size() <= kStateSectionsMax;
        }
        return !std::exchange(parts.header, view).has_value();
    }
    if (field == DeviceState::kHeaderCrc32CFieldNumber &&
        type == WireFormatLite::WIRETYPE_FIXED32) {
        uint32_t crc = 0;
        return input.ReadLittleEndian32(&crc) && !std::exchange(parts.header_crc, crc).has_value();
    }
    parts.has_more = true;
    return WireFormatLite::SkipField(&input, tag);
}

Result<Parts, StateError> read_parts(std::string_view all) {
    // SAFETY: as above.
    CodedInputStream input(reinterpret_cast<const uint8_t*>(all.data()),
                           static_cast<int>(all.size()));
    uint64_t magic = 0;
    constexpr uint32_t kMagicTag =
        state::v1::DeviceState::kMagicFieldNumber << 3 | WireFormatLite::WIRETYPE_FIXED64;
    if (input.ReadTag() != kMagicTag || !input.ReadLittleEndian64(&magic) ||
        magic != state::kMagic) {
        return failure(StateError{
            .fault = StateFault::kNoState,
            .message = all.empty() ? "it is empty" : "it does not begin as a saved state"});
    }
    Parts parts;
    while (static_cast<size_t>(input.CurrentPosition()) < all.size()) {
        if (!read_part(input, all, input.ReadTag(), parts)) {
            return damaged("it is cut short, or damaged between its sections");
        }
    }
    if (!parts.header || !parts.header_crc) {
        return damaged("it is cut short: its header is not whole");
    }
    return parts;
}

bool is_queue(const state::v1::Queue& queue) {
    constexpr uint32_t kIndexMax = 0xffff;
    return queue.has_index() && queue.index() < state::kQueuesMax && queue.num() >= 1 &&
           queue.num() <= state::kQueueSizeMax && queue.last_avail() <= kIndexMax &&
           queue.used() <= kIndexMax && queue.avail_wrap() <= 1 && queue.used_wrap() <= 1;
}

Result<void, StateError> read_queues(const state::v1::Header& header, DeviceState& out) {
    if (static_cast<size_t>(header.queues_size()) > state::kQueuesMax) {
        return damaged("it has too many queues");
    }
    for (const state::v1::Queue& queue : header.queues()) {
        const auto index = static_cast<uint16_t>(queue.index());
        const auto same = std::ranges::find(out.queues, index, &SavedQueue::index);
        if (!is_queue(queue) || same != out.queues.end()) {
            return damaged("its table of queues is impossible");
        }
        out.queues.push_back({.index = index,
                              .size = static_cast<uint16_t>(queue.num()),
                              .next_available = static_cast<uint16_t>(queue.last_avail()),
                              .next_used = static_cast<uint16_t>(queue.used()),
                              .available_wrap = queue.avail_wrap() != 0,
                              .used_wrap = queue.used_wrap() != 0});
    }
    return {};
}

Result<void, StateError> read_header(const Parts& parts, DeviceState& out) {
    const std::string_view bytes = *parts.header;
    if (bytes.size() > state::kHeaderBytesMax ||
        crc32c(std::as_bytes(std::span(bytes))) != *parts.header_crc) {
        return damaged("its header is damaged: the checksum is not right");
    }
    state::v1::Header header;
    if (!parse_message(bytes, header) || header.min_reader() == 0 ||
        header.min_reader() > header.format_version()) {
        return damaged("its header is impossible");
    }
    // Before all else: what follows may mean something else by then.
    if (header.min_reader() > kStateFormatVersion) {
        return failure(StateError{
            .fault = StateFault::kTooNew,
            .message = fmt::format("its header asks for a reader of format {}, and this one reads "
                                   "up to {}: load it with a later version",
                                   header.min_reader(),
                                   kStateFormatVersion)});
    }
    if (parts.has_more) {
        // What a later writer adds for this reader to ignore is a section.
        return damaged("it is damaged between its sections");
    }
    if (header.device_id() == 0 || header.section_count() != parts.sections.size()) {
        return damaged(fmt::format("it is cut short: {} of its {} sections are there",
                                   parts.sections.size(),
                                   header.section_count()));
    }
    out.format_version = header.format_version();
    out.min_reader = header.min_reader();
    out.device_id = header.device_id();
    if (header.has_features()) {
        out.features = FeatureSet(header.features());
    }
    return read_queues(header, out);
}

Result<StateSection, StateError> read_section(std::string_view bytes, size_t number) {
    state::v1::Section message;
    if (!parse_message(bytes, message) || !message.has_crc32c() || !message.has_critical() ||
        !state::is_section_name(message.name())) {
        return damaged(fmt::format("section number {} of it is damaged", number));
    }
    StateSection section{.id = message.id(),
                         .name = message.name(),
                         .version = message.version(),
                         .critical = message.critical(),
                         .bytes = {}};
    const auto content = std::as_bytes(std::span(message.content()));
    section.bytes.assign(content.begin(), content.end());
    if (state::checksum(section) != message.crc32c() || section.id == 0 || section.version == 0) {
        return damaged(describe(section) + ", is damaged: the checksum is not right");
    }
    return section;
}

}  // namespace

Result<DeviceState, StateError> parse_state(std::span<const std::byte> bytes) {
    if (bytes.size() > kStateBytesMax) {
        return failure(
            StateError{.fault = StateFault::kTooLarge, .message = "it is larger than 64 MiB"});
    }
    // SAFETY: char may alias any object.
    const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const Parts parts = OUTRIGGER_TRY(read_parts(all));
    DeviceState out;
    OUTRIGGER_TRY(read_header(parts, out));
    for (const std::string_view part : parts.sections) {
        StateSection section = OUTRIGGER_TRY(read_section(part, out.sections.size() + 1));
        if (find_section(out.sections, section.id) != nullptr) {
            return damaged(describe(section) + ", is there twice");
        }
        out.sections.push_back(std::move(section));
    }
    return out;
}

}  // namespace outrigger
