// SPDX-License-Identifier: Apache-2.0
#include "tests/states/state_samples.h"

#include <span>
#include <utility>
#include <vector>

#include <device_state.pb.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/state/device_state.h"

#include "devices/blk/blk_state.h"
#include "devices/blk/null_image.h"
#include "devices/rng/entropy_source.h"
#include "tests/states/vsock_samples.h"

namespace outrigger::testing {
namespace {

constexpr unsigned kIndirectDesc = 28;
constexpr unsigned kEventIdx = 29;
constexpr unsigned kVersion1 = 32;
constexpr unsigned kRingPacked = 34;

/// A driver that switched the cache off, on two packed rings.
DeviceState disk_state() {
    const auto disk = sample_disk();
    disk->on_negotiated(disk->offered_features());
    const std::byte off{0};
    OUTRIGGER_ASSERT(
        disk->write_config(ConfigOffset{blk::kWritebackOffset}, std::span(&off, 1)).has_value());
    return {.device_id = disk->identity().virtio_id,
            .features = disk->offered_features() |
                        FeatureSet::of({kIndirectDesc, kEventIdx, kVersion1, kRingPacked}),
            .queues = {{.index = 0,
                        .size = 256,
                        .next_available = 17,
                        .next_used = 17,
                        .available_wrap = true,
                        .used_wrap = true},
                       {.index = 1,
                        .size = 100,
                        .next_available = 99,
                        .next_used = 99,
                        .available_wrap = false,
                        .used_wrap = false}},
            .sections = disk->save_state().value()};
}

/// The same of a disk whose sync has failed: what is written where the image can have that.
DeviceState failed_disk_state() {
    DeviceState state = disk_state();
    blk::BlkState disk = blk::read_blk_state(state.sections).value();
    disk.sync_failed = true;
    state.sections = blk::write_blk_state(disk);
    return state;
}

DeviceState entropy_state() {
    const auto entropy = sample_entropy();
    return {.device_id = entropy->identity().virtio_id,
            .features = FeatureSet::of({kIndirectDesc, kEventIdx, kVersion1}),
            .queues = {{.index = 0, .size = 8, .next_available = 65535, .next_used = 65535}},
            .sections = entropy->save_state().value()};
}

StateSection from_the_future(bool critical) {
    return {.id = 77,
            .name = "from-the-future",
            .version = 3,
            .critical = critical,
            .bytes = std::vector(5, std::byte{0xf7})};
}

std::string with_future_section(DeviceState state, bool critical) {
    state.format_version = kStateFormatVersion + 1;
    state.sections.push_back(from_the_future(critical));
    return encode_state(state).value();
}

std::string with_later_version(DeviceState state) {
    state.sections[0].version += 1;
    state.sections[0].bytes.push_back(std::byte{1});
    return encode_state(state).value();
}

std::string for_later_readers(DeviceState state) {
    state.format_version = kStateFormatVersion + 1;
    state.min_reader = kStateFormatVersion + 1;
    return encode_state(state).value();
}

/// A field in the header that this version does not know.
std::string with_future_header(const DeviceState& state) {
    state::v1::DeviceState message;
    OUTRIGGER_ASSERT(message.ParseFromString(encode_state(state).value()));
    *message.mutable_header() += std::string("\xf8\x07\x2a", 3);  // number 127, a varint
    message.set_header_crc32c(crc32c(std::as_bytes(std::span(message.header()))));
    return message.SerializeAsString();
}

}  // namespace

std::unique_ptr<blk::BlkDevice> sample_disk() {
    return std::make_unique<blk::BlkDevice>(
        std::make_unique<blk::NullImage>(
            blk::NullImageOptions{.size_bytes = uint64_t{1} << 30, .block_bytes = 4096}),
        blk::BlkDeviceOptions{.shape = {.queue_count = 2}});
}

std::unique_ptr<rng::RngDevice> sample_entropy() {
    return std::make_unique<rng::RngDevice>(
        rng::RngOptions{.source = rng::make_getrandom_source()});
}

std::map<std::string, std::string> sample_states() {
    std::map<std::string, std::string> states = sample_vsock_states();
    states.merge(std::map<std::string, std::string>{
        {"v1/blk.state", encode_state(disk_state()).value()},
        {"v1/blk-failed-sync.state", encode_state(failed_disk_state()).value()},
        {"v1/rng.state", encode_state(entropy_state()).value()},
        {"future/blk-critical-section.state", with_future_section(disk_state(), true)},
        {"future/blk-other-section.state", with_future_section(disk_state(), false)},
        {"future/blk-later-version.state", with_later_version(disk_state())},
        {"future/blk-min-reader.state", for_later_readers(disk_state())},
        {"future/blk-header-field.state", with_future_header(disk_state())},
        {"future/rng-critical-section.state", with_future_section(entropy_state(), true)},
        {"future/rng-other-section.state", with_future_section(entropy_state(), false)}});
    return states;
}

}  // namespace outrigger::testing
