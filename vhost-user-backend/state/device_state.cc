// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/state/device_state.h"

#include <algorithm>
#include <string_view>

#include <device_state.pb.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/state/state_schema.h"

namespace outrigger {
namespace state {

uint32_t checksum(const StateSection& section) {
    struct Prefix {
        Le32 id;
        Le32 version;
        uint8_t critical;
        Le32 name_bytes;
    } __attribute__((packed));

    const Prefix prefix{.id = section.id,
                        .version = section.version,
                        .critical = static_cast<uint8_t>(section.critical ? 1 : 0),
                        .name_bytes = static_cast<uint32_t>(section.name.size())};
    uint32_t sum = crc32c(std::as_bytes(std::span(&prefix, 1)));
    sum = crc32c(std::as_bytes(std::span(section.name)), sum);
    return crc32c(section.bytes, sum);
}

bool is_section_name(std::string_view name) {
    return name.size() <= kSectionNameBytesMax && std::ranges::all_of(name, [](char character) {
               return character >= ' ' && character <= '~';
           });
}

}  // namespace state

namespace {

std::string encode_header(const DeviceState& state) {
    state::v1::Header header;
    header.set_format_version(state.format_version);
    header.set_min_reader(state.min_reader);
    header.set_device_id(state.device_id);
    if (state.features) {
        header.set_features(state.features->bits());
    }
    for (const SavedQueue& queue : state.queues) {
        auto& entry = *header.add_queues();
        entry.set_index(queue.index);
        entry.set_num(queue.size);
        entry.set_last_avail(queue.next_available);
        entry.set_used(queue.next_used);
        entry.set_avail_wrap(queue.available_wrap ? 1 : 0);
        entry.set_used_wrap(queue.used_wrap ? 1 : 0);
    }
    header.set_section_count(static_cast<uint32_t>(state.sections.size()));
    return header.SerializeAsString();
}

std::string encode_section(const StateSection& section) {
    state::v1::Section entry;
    entry.set_id(section.id);
    entry.set_name(section.name);
    entry.set_version(section.version);
    entry.set_critical(section.critical);
    entry.set_content(section.bytes.data(), section.bytes.size());
    entry.set_crc32c(state::checksum(section));
    return entry.SerializeAsString();
}

/// Protobuf counts in int: nothing that could be larger may reach it.
bool is_too_large(const DeviceState& state) {
    size_t room = kStateBytesMax;
    for (const StateSection& section : state.sections) {
        if (section.bytes.size() > room) {
            return true;
        }
        room -= section.bytes.size();
    }
    return false;
}

}  // namespace

Result<std::string, StateError> encode_state(const DeviceState& state) {
    const auto too_large = [] {
        return failure(StateError{.fault = StateFault::kTooLarge,
                                  .message = "the device's state is larger than 64 MiB"});
    };
    if (is_too_large(state)) {
        return too_large();
    }
    OUTRIGGER_ASSERT(state.sections.size() <= kStateSectionsMax);
    OUTRIGGER_ASSERT(state.queues.size() <= state::kQueuesMax);
    state::v1::DeviceState message;
    message.set_magic(state::kMagic);
    const std::string header = encode_header(state);
    message.set_header(header);
    message.set_header_crc32c(crc32c(std::as_bytes(std::span(header))));
    for (const StateSection& section : state.sections) {
        OUTRIGGER_ASSERT(section.id != 0 && section.version != 0);
        OUTRIGGER_ASSERT(state::is_section_name(section.name));
        message.add_sections(encode_section(section));
    }
    std::string bytes = message.SerializeAsString();
    if (bytes.size() > kStateBytesMax) {
        return too_large();
    }
    return bytes;
}

}  // namespace outrigger
