// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: saved states that anybody wrote, up to a disk that takes them up. What is read is
/// what was written, a state that was damaged is never another one, and a disk takes all or
/// nothing.
#include "vhost-user-backend/state/device_state.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/state/state_text.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/blk_state.h"
#include "devices/blk/null_image.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/state_script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kSectionsMax = 8;
constexpr size_t kQueuesMax = 8;
constexpr size_t kSectionBytesMax = 128;

std::unique_ptr<blk::BlkDevice> make_disk() {
    return std::make_unique<blk::BlkDevice>(
        std::make_unique<blk::NullImage>(blk::NullImageOptions{.size_bytes = uint64_t{1} << 30}),
        blk::BlkDeviceOptions{.shape = {.queue_count = 2}});
}

/// A state as a writer may have put it together: ids and indices once each, all else anything.
DeviceState read_fields(ScriptReader& script) {
    DeviceState state{.format_version = kStateFormatVersion + (script.u8() & 1U),
                      .device_id = 1U + script.u8()};
    if ((script.u8() & 1) != 0) {
        state.features = FeatureSet(script.u64());
    }
    const size_t queues = script.pick(kQueuesMax);
    for (size_t i = 0; i < queues; ++i) {
        const uint8_t wraps = script.u8();
        state.queues.push_back({.index = static_cast<uint16_t>(i * 31),
                                .size = static_cast<uint16_t>(1 + script.u16() % 32768),
                                .next_available = script.u16(),
                                .next_used = script.u16(),
                                .available_wrap = (wraps & 1) != 0,
                                .used_wrap = (wraps & 2) != 0});
    }
    const size_t sections = script.pick(kSectionsMax);
    uint32_t id = 0;
    for (size_t i = 0; i < sections; ++i) {
        id += 1 + static_cast<uint32_t>(script.pick(3));
        StateSection section{.id = id,
                             .name = std::string(script.pick(kSectionNameBytesMax + 1), 'n'),
                             .version = 1 + static_cast<uint32_t>(script.pick(3)),
                             .critical = (script.u8() & 1) != 0};
        const auto content = std::as_bytes(script.bytes(script.pick(kSectionBytesMax)));
        section.bytes.assign(content.begin(), content.end());
        state.sections.push_back(std::move(section));
    }
    return state;
}

void load_into_disk(const DeviceState& state) {
    const auto disk = make_disk();
    const auto before = disk->save_state().value();
    const auto known = select_sections(state.sections, disk->state_sections());
    if (!known) {
        OUTRIGGER_ASSERT(known.error().fault == StateFault::kSection);
        OUTRIGGER_ASSERT(!known.error().message.empty());
        return;
    }
    for (const StateSection& section : known->sections) {
        OUTRIGGER_ASSERT(section.version <= 1);
    }
    const auto loaded = disk->load_state(known->sections);
    const auto after = disk->save_state().value();
    if (!loaded) {
        OUTRIGGER_ASSERT(after == before);
        return;
    }
    // Nothing is lost, and nothing is there that did not come.
    const auto came = blk::read_blk_state(known->sections).value();
    const auto is = blk::read_blk_state(after).value();
    OUTRIGGER_ASSERT(is.write_back == came.write_back);
    OUTRIGGER_ASSERT(is.read_write_through == came.read_write_through);
    OUTRIGGER_ASSERT(is.keep_write_through == came.keep_write_through);
    OUTRIGGER_ASSERT(is.config.capacity >= came.config.capacity);
}

void take(std::span<const std::byte> bytes) {
    const auto state = parse_state(bytes);
    if (!state) {
        OUTRIGGER_ASSERT(!state.error().message.empty());
        return;
    }
    OUTRIGGER_ASSERT(state->min_reader <= kStateFormatVersion);
    const auto again = encode_state(*state);
    OUTRIGGER_ASSERT(again.has_value());
    const auto back = parse_state(std::as_bytes(std::span(*again)));
    OUTRIGGER_ASSERT(back.has_value() && *back == *state);
    OUTRIGGER_ASSERT(state_text(*state).ends_with('\n'));
    load_into_disk(*state);
}

void take_fields(ScriptReader& script, bool damage) {
    const DeviceState state = read_fields(script);
    std::string bytes = encode_state(state).value();
    const auto view = [&] { return std::as_bytes(std::span(bytes)); };
    const auto parsed = parse_state(view());
    OUTRIGGER_ASSERT(parsed.has_value() && *parsed == state);
    if (!damage) {
        take(view());
        return;
    }
    char& victim = bytes[script.u16() % bytes.size()];
    victim = static_cast<char>(victim ^ (1 << script.pick(8)));
    const auto damaged = parse_state(view());
    OUTRIGGER_ASSERT(!damaged || *damaged == state);
    bytes.resize(script.u16() % bytes.size());
    OUTRIGGER_ASSERT(!parse_state(view()));
}

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    ScriptReader script({data, size});
    switch (script.pick_enum<StateScript>(static_cast<size_t>(StateScript::kCount))) {
        case StateScript::kBytes:
            take(std::as_bytes(script.bytes(size)));
            break;
        case StateScript::kFields:
            take_fields(script, false);
            break;
        case StateScript::kDamage:
            take_fields(script, true);
            break;
        case StateScript::kCount:
            break;
    }
    return 0;
}
