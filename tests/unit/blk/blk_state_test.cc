// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_state.h"

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/blk_device.h"
#include "devices/blk/file_image.h"
#include "devices/blk/null_image.h"
#include "devices/blk/sync_mark.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kDiskBytes = uint64_t{64} << 20;

std::unique_ptr<BlkDevice> disk(const NullImageOptions& image = {.size_bytes = kDiskBytes},
                                const BlkDeviceOptions& options = {}) {
    return std::make_unique<BlkDevice>(std::make_unique<NullImage>(image), options);
}

std::unique_ptr<BlkDevice> disk_of(const TemporaryImage& backing) {
    auto file = ImageFile::open({.path = backing.path(), .lock = false});
    return std::make_unique<BlkDevice>(
        std::make_unique<FileImage>(*std::move(file), IoEngineKind::kThreads), BlkDeviceOptions{});
}

int writeback_of(const BlkDevice& device) {
    std::byte value{};
    device.read_config(ConfigOffset{kWritebackOffset}, std::span(&value, 1));
    return std::to_integer<int>(value);
}

void negotiate(BlkDevice& device) {
    device.on_negotiated(device.offered_features());
}

void write_writeback(BlkDevice& device, int value) {
    const auto byte = static_cast<std::byte>(value);
    ASSERT_TRUE(device.write_config(ConfigOffset{kWritebackOffset}, std::span(&byte, 1)));
}

/// What `change` makes of a good state is refused, and the message has that word.
void expect_refused(const std::function<void(std::vector<StateSection>&)>& change,
                    const std::string& word) {
    auto sections = disk()->save_state().value();
    change(sections);
    const auto target = disk();
    write_writeback(*target, 0);
    const auto loaded = target->load_state(sections);
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find(word), std::string::npos) << loaded.error().message;
    // All or nothing.
    EXPECT_EQ(writeback_of(*target), 0);
}

BlkConfigSpace config_of(const std::vector<StateSection>& sections) {
    return read_blk_state(sections).value().config;
}

void set_config(std::vector<StateSection>& sections, const BlkConfigSpace& config) {
    std::memcpy(sections[1].bytes.data(), &config, sizeof config);
}

TEST(BlkState, SectionsComeBackAsTheyWere) {
    for (const bool set : {false, true}) {
        BlkState state{.write_back = set,
                       .read_write_through = !set,
                       .keep_write_through = set,
                       .read_only = !set,
                       .config = {},
                       .sync_failed = set};
        state.config.capacity = 1234;
        const auto back = read_blk_state(write_blk_state(state)).value();
        EXPECT_EQ(back.write_back, set);
        EXPECT_EQ(back.read_write_through, !set);
        EXPECT_EQ(back.keep_write_through, set);
        EXPECT_EQ(back.read_only, !set);
        EXPECT_EQ(back.config.capacity, 1234U);
        EXPECT_EQ(back.sync_failed, set);
    }
}

TEST(BlkState, SectionsAreThoseThatTheDeviceDeclares) {
    const TemporaryImage backing(kDiskBytes);
    const auto device = disk_of(backing);
    // Without it there is one less.
    EXPECT_EQ(device->save_state().value().size() + 1, device->state_sections().size());
    device->image()->sync_mark()->set();
    const auto sections = device->save_state().value();
    ASSERT_EQ(sections.size(), device->state_sections().size());
    for (size_t i = 0; i < sections.size(); ++i) {
        EXPECT_EQ(sections[i].id, device->state_sections()[i].id);
        EXPECT_EQ(sections[i].version, device->state_sections()[i].version);
    }
}

// A guest that switched the cache off does not flush, wherever its disk is.
TEST(BlkState, TheWriteCacheFollowsAsTheGuestSetIt) {
    const auto source = disk();
    negotiate(*source);
    write_writeback(*source, 0);
    const auto target = disk();
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    negotiate(*target);
    EXPECT_EQ(writeback_of(*target), 0);
    EXPECT_TRUE(target->cache().writes_through);
}

TEST(BlkState, TheWriteCacheFollowsOverAnotherDefault) {
    const auto source = disk();
    const auto target = disk({.size_bytes = kDiskBytes}, {.write_back_at_reset = false});
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    negotiate(*target);
    EXPECT_EQ(writeback_of(*target), 1);
    EXPECT_FALSE(target->cache().writes_through);
}

// An operator switched the cache on, but this driver had read before that it need not flush.
TEST(BlkState, WhatADriverMayRelyOnFollows) {
    const auto source = disk({.size_bytes = kDiskBytes}, {.write_back_at_reset = false});
    negotiate(*source);
    EXPECT_EQ(writeback_of(*source), 0);
    source->set_cache(true, false);
    ASSERT_TRUE(source->cache().kept_for_driver);
    const auto target = disk();
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    negotiate(*target);
    EXPECT_TRUE(target->cache().kept_for_driver);
    EXPECT_TRUE(target->cache().writes_through);
}

// The kernel has told of lost data once. What another process opens would flush well.
TEST(BlkState, AFailedSyncFollows) {
    const TemporaryImage backing(kDiskBytes);
    const auto source = disk_of(backing);
    const auto target = disk_of(backing);
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    EXPECT_FALSE(target->image()->sync_mark()->is_set());
    source->image()->sync_mark()->set();
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    EXPECT_TRUE(target->image()->sync_mark()->is_set());
}

TEST(BlkState, AFailedSyncIsRefusedWhereNoneCanFail) {
    const auto source = disk();
    auto sections = source->save_state().value();
    sections.push_back(make_section(kSyncSection, {}));
    const auto loaded = disk()->load_state(sections);
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("a flush of the disk has failed"), std::string::npos)
        << loaded.error().message;
}

// What is refused changes nothing, and a mark is never taken back.
TEST(BlkState, AFailedSyncOfAStateThatIsRefusedIsNotTaken) {
    const TemporaryImage small(kDiskBytes);
    const TemporaryImage large(2 * kDiskBytes);
    const auto source = disk_of(large);
    source->image()->sync_mark()->set();
    const auto target = disk_of(small);
    ASSERT_FALSE(target->load_state(source->save_state().value()));
    EXPECT_FALSE(target->image()->sync_mark()->is_set());
}

// The driver reads 0 at one place, and an operator of the other switches the cache on.
TEST(BlkState, ThatADriverReadWriteThroughFollows) {
    const auto source = disk({.size_bytes = kDiskBytes}, {.write_back_at_reset = false});
    negotiate(*source);
    EXPECT_EQ(writeback_of(*source), 0);
    const auto target = disk();
    ASSERT_TRUE(target->load_state(source->save_state().value()));
    negotiate(*target);
    target->set_cache(true, false);
    EXPECT_TRUE(target->cache().writes_through);
}

TEST(BlkState, SavingIsNoReadOfTheDriver) {
    const auto device = disk({.size_bytes = kDiskBytes}, {.write_back_at_reset = false});
    negotiate(*device);
    (void)device->save_state().value();
    device->set_cache(true, false);
    EXPECT_FALSE(device->cache().kept_for_driver);
}

TEST(BlkState, ALargerDiskTakesIt) {
    const auto source = disk();
    const auto target = disk({.size_bytes = kDiskBytes + 512});
    EXPECT_TRUE(target->load_state(source->save_state().value()));
}

TEST(BlkState, ASmallerDiskRefusesIt) {
    const auto source = disk();
    const auto target = disk({.size_bytes = kDiskBytes - 512});
    const auto loaded = target->load_state(source->save_state().value());
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("the capacity of the disk was"), std::string::npos);
}

TEST(BlkState, ADiskOfOtherBlocksRefusesIt) {
    const auto source = disk();
    const auto target = disk({.size_bytes = kDiskBytes, .block_bytes = 4096});
    EXPECT_FALSE(target->load_state(source->save_state().value()));
}

TEST(BlkState, ADiskThatIsReadOnlyRefusesThatOfOneThatWasNot) {
    const auto source = disk();
    const auto target = disk({.size_bytes = kDiskBytes, .read_only = true});
    EXPECT_FALSE(target->load_state(source->save_state().value()));
    EXPECT_TRUE(target->load_state(target->save_state().value()));
}

TEST(BlkState, AnyLimitThatShrankIsRefused) {
    const auto shrunk = [](auto BlkConfigSpace::*field, const char* name) {
        expect_refused(
            [&](std::vector<StateSection>& sections) {
                BlkConfigSpace config = config_of(sections);
                config.*field = (config.*field).value() + 1;
                set_config(sections, config);
            },
            name);
    };
    shrunk(&BlkConfigSpace::capacity, "the capacity");
    shrunk(&BlkConfigSpace::size_max, "size_max");
    shrunk(&BlkConfigSpace::seg_max, "seg_max");
    shrunk(&BlkConfigSpace::num_queues, "the number of queues");
    shrunk(&BlkConfigSpace::max_discard_sectors, "max_discard_sectors");
    shrunk(&BlkConfigSpace::max_discard_seg, "max_discard_seg");
    shrunk(&BlkConfigSpace::max_write_zeroes_sectors, "max_write_zeroes_sectors");
    shrunk(&BlkConfigSpace::max_write_zeroes_seg, "max_write_zeroes_seg");
    shrunk(&BlkConfigSpace::max_secure_erase_sectors, "max_secure_erase_sectors");
    shrunk(&BlkConfigSpace::max_secure_erase_seg, "max_secure_erase_seg");
    shrunk(&BlkConfigSpace::blk_size, "the block size");
}

TEST(BlkState, OtherZonesAreRefused) {
    const auto changed = [](auto BlkConfigSpace::Zoned::*field, const char* name) {
        expect_refused(
            [&](std::vector<StateSection>& sections) {
                BlkConfigSpace config = config_of(sections);
                config.zoned.*field = 1;
                set_config(sections, config);
            },
            name);
    };
    changed(&BlkConfigSpace::Zoned::model, "the kind of zones");
    changed(&BlkConfigSpace::Zoned::zone_sectors, "the size of a zone");
    changed(&BlkConfigSpace::Zoned::max_open_zones, "max_open_zones");
    changed(&BlkConfigSpace::Zoned::max_active_zones, "max_active_zones");
    changed(&BlkConfigSpace::Zoned::max_append_sectors, "max_append_sectors");
    changed(&BlkConfigSpace::Zoned::write_granularity, "write_granularity");
}

TEST(BlkState, SectionsThatAreMissingOrOfAnotherSizeAreRefused) {
    expect_refused([](auto& sections) { sections.clear(); }, "missing");
    expect_refused([](auto& sections) { sections.pop_back(); }, "missing");
    expect_refused([](auto& sections) { sections.erase(sections.begin()); }, "missing");
    expect_refused([](auto& sections) { sections[0].bytes.clear(); }, "another size");
    expect_refused([](auto& sections) { sections[0].bytes.resize(2); }, "another size");
    expect_refused([](auto& sections) { sections[1].bytes.pop_back(); }, "another size");
    expect_refused([](auto& sections) { sections[1].bytes.resize(97); }, "another size");
    expect_refused(
        [](auto& sections) {
            sections.push_back(make_section(kSyncSection, std::as_bytes(std::span("x"))));
        },
        "another size");
}

TEST(BlkState, BitsThatMeanNothingAreRefused) {
    expect_refused([](auto& sections) { sections[0].bytes[0] |= std::byte{0x10}; },
                   "bits that mean nothing: 0x10");
    expect_refused([](auto& sections) { sections[0].bytes[0] |= std::byte{0x80}; }, "0x80");
}

}  // namespace
}  // namespace outrigger::blk
