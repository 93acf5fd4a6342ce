// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_program.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/daemon/common_options.h"

#include "devices/blk/blk_config.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

using Given = std::initializer_list<std::pair<std::string_view, std::string_view>>;

OptionValues values_of(Given given) {
    OptionValues values;
    for (const auto& [name, text] : given) {
        const auto own = std::ranges::find(blk_program().options, name, &OptionSpec::name);
        const auto common = std::ranges::find(device_common_options(), name, &OptionSpec::name);
        const bool is_own = own != blk_program().options.end();
        EXPECT_TRUE(is_own || common != device_common_options().end()) << name;
        EXPECT_TRUE(values.set(is_own ? *own : *common, text)) << name << "=" << text;
    }
    values.set_defaults(blk_program().options);
    return values;
}

std::string usage_problem(Given given) {
    const auto checked = blk_program().check_options(values_of(given));
    return checked ? std::string() : checked.error().message;
}

std::unique_ptr<Device> device_of(Given given) {
    return blk_program().create_device(values_of(given)).value();
}

uint32_t config_u32(const Device& device, uint32_t offset) {
    std::array<std::byte, 4> bytes{};
    device.read_config(ConfigOffset{offset}, bytes);
    Le32 value;
    std::ranges::copy(bytes, std::as_writable_bytes(std::span(&value, 1)).begin());
    return value;
}

TEST(BlkProgram, WantsAnImageOrASize) {
    EXPECT_NE(usage_problem({}).find("--blk-file"), std::string::npos);
    EXPECT_EQ(usage_problem({{"blk-file", "x"}}), "");
    EXPECT_EQ(usage_problem({{"null-size", "1M"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"null-size", "1M"}}), "");
}

TEST(BlkProgram, FixedBuffersAreForDirectFilesOnIoUring) {
    const auto problem = [](Given given) { return usage_problem(given).find("--fixed-buffers"); };
    constexpr size_t kNone = std::string::npos;
    EXPECT_EQ(problem({{"blk-file", "x"}, {"fixed-buffers", "off"}}), kNone);
    EXPECT_NE(problem({{"blk-file", "x"}, {"fixed-buffers", "on"}}), kNone);
    EXPECT_NE(problem({{"blk-file", "x"}, {"fixed-buffers", "on"}, {"cache", "writethrough"}}),
              kNone);
    EXPECT_NE(problem({{"null-size", "1M"}, {"fixed-buffers", "on"}, {"cache", "none"}}), kNone);
    EXPECT_NE(problem({{"blk-file", "x"},
                       {"fixed-buffers", "on"},
                       {"cache", "none"},
                       {"io-engine", "threads"}}),
              kNone);
    EXPECT_NE(
        problem(
            {{"blk-file", "x"}, {"fixed-buffers", "on"}, {"cache", "none"}, {"overlay", "layer"}}),
        kNone);
    EXPECT_NE(
        problem(
            {{"blk-file", "x"}, {"fixed-buffers", "on"}, {"cache", "none"}, {"postcopy", "on"}}),
        kNone);
    EXPECT_EQ(problem({{"blk-file", "x"}, {"postcopy", "on"}}), kNone);
    EXPECT_EQ(problem({{"blk-file", "x"}, {"fixed-buffers", "on"}, {"cache", "none"}}) == kNone,
              !kPortableBuild);
}

TEST(BlkProgram, PollingIsForDirectFilesOnIoUring) {
    const auto problem = [](Given given) { return usage_problem(given).find("--io-poll"); };
    constexpr size_t kNone = std::string::npos;
    EXPECT_EQ(problem({{"blk-file", "x"}, {"io-poll", "off"}}), kNone);
    EXPECT_NE(problem({{"blk-file", "x"}, {"io-poll", "on"}}), kNone);
    EXPECT_NE(
        problem(
            {{"blk-file", "x"}, {"io-poll", "on"}, {"cache", "none"}, {"io-engine", "threads"}}),
        kNone);
    EXPECT_NE(
        usage_problem(
            {{"blk-file", "x"}, {"io-poll", "on"}, {"cache", "none"}, {"fixed-buffers", "on"}}),
        "");
    EXPECT_EQ(problem({{"blk-file", "x"}, {"io-poll", "on"}, {"cache", "none"}}) == kNone,
              !kPortableBuild);
}

TEST(BlkProgram, OnlyFixedBuffersMayRegisterMemory) {
    const auto extras = [](std::string_view fixed) {
        return blk_program().sandbox_extras(
            values_of({{"blk-file", "x"}, {"cache", "none"}, {"fixed-buffers", fixed}}));
    };
    EXPECT_TRUE(extras("off").uring_operations.empty());
    EXPECT_TRUE(extras("off").system_calls.empty());
    EXPECT_EQ(extras("on").uring_operations.empty(), kPortableBuild);
    EXPECT_EQ(extras("on").system_calls.empty(), kPortableBuild);
}

#ifdef OUTRIGGER_NBD
TEST(BlkProgram, NbdServerIsADiskOfItsOwn) {
    EXPECT_EQ(usage_problem({{"blk-nbd", "nbd://server"}}), "");
    EXPECT_NE(usage_problem({{"blk-nbd", "server"}}).find("nbd://"), std::string::npos);
    EXPECT_NE(usage_problem({{"blk-nbd", "nbd://server"}, {"blk-file", "x"}}), "");
    EXPECT_NE(usage_problem({{"blk-nbd", "nbd://server"}, {"cache", "none"}}), "");
    EXPECT_NE(usage_problem({{"blk-nbd", "nbd://server"}, {"image-format", "qcow2"}}), "");
}

TEST(BlkProgram, OnlyNbdMayConnect) {
    EXPECT_TRUE(blk_program().sandbox_extras(values_of({{"blk-file", "x"}})).system_calls.empty());
    const SandboxExtras tcp = blk_program().sandbox_extras(values_of({{"blk-nbd", "nbd://a:7"}}));
    EXPECT_FALSE(tcp.system_calls.empty());
    EXPECT_EQ(tcp.connect_tcp_ports, std::vector<uint16_t>{7});
    EXPECT_TRUE(tcp.readable_paths.empty());
    const SandboxExtras tls = blk_program().sandbox_extras(
        values_of({{"blk-nbd", "nbds+unix:///?socket=/s&tls-psk-file=/k"}}));
    EXPECT_GT(tls.system_calls.size(), tcp.system_calls.size());
    EXPECT_TRUE(tls.connect_tcp_ports.empty());
    EXPECT_EQ(tls.readable_paths, std::vector<std::string>{"/k"});
}
#endif

TEST(BlkProgram, BlockSizeIsAPowerOfTwo) {
    EXPECT_EQ(usage_problem({{"blk-file", "x"}, {"blk-size", "4096"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"blk-size", "4095"}}), "");
}

TEST(BlkProgram, OnlyRawFilesAreLockedWhileTheyRun) {
    EXPECT_EQ(usage_problem({{"blk-file", "x"}, {"lock", "running"}}), "");
    EXPECT_EQ(usage_problem({{"blk-file", "x"}, {"lock", "running"}, {"read-only", "on"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1M"}, {"lock", "running"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"overlay", "y"}, {"lock", "running"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"},
                             {"image-format", "qcow2"},
                             {"read-only", "on"},
                             {"lock", "running"}}),
              "");
}

TEST(BlkProgram, NullSizeIsAMultipleOfTheBlockSize) {
    EXPECT_NE(usage_problem({{"null-size", "1000"}}), "");
    EXPECT_NE(usage_problem({{"null-size", "512"}, {"blk-size", "4096"}}), "");
}

TEST(BlkProgram, MemoryIsADiskOfItsOwn) {
    EXPECT_EQ(usage_problem({{"blk-memory", "1M"}}), "");
    EXPECT_EQ(usage_problem({{"blk-memory", "1M"}, {"memory-huge-pages", "off"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1M"}, {"blk-file", "x"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1M"}, {"null-size", "1M"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1000"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1M"}, {"cache", "none"}}), "");
    EXPECT_NE(usage_problem({{"blk-memory", "1M"}, {"overlay", "layer"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"memory-huge-pages", "on"}}), "");
}

TEST(BlkProgram, MemoryDiskHasTheSizeThatWasAskedForAndDiscards) {
    const auto device = device_of({{"blk-memory", "1G"}});
    EXPECT_EQ(config_u32(*device, offsetof(BlkConfigSpace, capacity)), (1U << 30) / 512);
    EXPECT_TRUE(device->offered_features().has(VIRTIO_BLK_F_DISCARD));
    EXPECT_TRUE(device_of({{"blk-memory", "1G"}, {"read-only", "on"}})
                    ->offered_features()
                    .has(VIRTIO_BLK_F_RO));
}

TEST(BlkProgram, SerialHas20BytesAtMost) {
    EXPECT_EQ(usage_problem({{"blk-file", "x"}, {"serial", "12345678901234567890"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"serial", "123456789012345678901"}}), "");
}

TEST(BlkProgram, ReadZeroesIsForTheNullDisk) {
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"null-read-zeroes", "on"}}), "");
}

TEST(BlkProgram, Qcow2IsForFilesThroughThePageCache) {
    EXPECT_EQ(usage_problem({{"blk-file", "x"}, {"image-format", "qcow2"}}), "");
    EXPECT_NE(usage_problem({{"null-size", "1M"}, {"image-format", "qcow2"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"image-format", "qcow2"}, {"cache", "none"}}), "");
    for (const auto& [option, value] :
         {std::pair("cache", "writethrough"), std::pair("discard", "ignore")}) {
        EXPECT_NE(usage_problem({{"blk-file", "x"}, {"image-format", "qcow2"}, {option, value}})
                      .find("for reading only"),
                  std::string::npos);
        EXPECT_EQ(
            usage_problem(
                {{"blk-file", "x"}, {"image-format", "qcow2"}, {"overlay", "l"}, {option, value}}),
            "");
    }
}

TEST(BlkProgram, BackingFilesAreForQcow2) {
    EXPECT_EQ(
        usage_problem({{"blk-file", "x"}, {"image-format", "qcow2"}, {"allow-backing", "/a"}}), "");
    EXPECT_NE(usage_problem({{"blk-file", "x"}, {"allow-backing", "/a"}}), "");
}

TEST(BlkProgram, MissingImageIsAnErrorOfRunTime) {
    EXPECT_EQ(usage_problem({{"blk-file", "/nonexistent"}}), "");
    EXPECT_FALSE(blk_program().create_device(values_of({{"blk-file", "/nonexistent"}})));
}

TEST(BlkProgram, NullDiskHasTheSizeThatWasAskedFor) {
    const auto device = device_of({{"null-size", "1G"}, {"blk-size", "4096"}});
    EXPECT_EQ(config_u32(*device, offsetof(BlkConfigSpace, capacity)), (1U << 30) / 512);
    EXPECT_EQ(config_u32(*device, offsetof(BlkConfigSpace, blk_size)), 4096U);
}

TEST(BlkProgram, OptionsReachTheDevice) {
    const TemporaryImage backing(1 << 20);
    const auto device = device_of({{"blk-file", backing.path()},
                                   {"num-queues", "3"},
                                   {"seg-max", "62"},
                                   {"discard", "ignore"},
                                   {"cache", "writethrough"}});
    EXPECT_EQ(device->identity().queue_count, 3);
    EXPECT_EQ(config_u32(*device, offsetof(BlkConfigSpace, seg_max)), 62U);
    EXPECT_FALSE(device->offered_features().has(VIRTIO_BLK_F_DISCARD));
    EXPECT_EQ(config_u32(*device, kWritebackOffset) & 0xff, 0U);
}

TEST(BlkProgram, ReadOnlyReachesTheDevice) {
    const TemporaryImage backing(1 << 20);
    const auto device = device_of({{"blk-file", backing.path()}, {"read-only", "on"}});
    EXPECT_TRUE(device->offered_features().has(VIRTIO_BLK_F_RO));
}

TEST(BlkProgram, LockCanBeSwitchedOff) {
    const TemporaryImage backing(1 << 20);
    const auto first = device_of({{"blk-file", backing.path()}});
    EXPECT_FALSE(blk_program().create_device(values_of({{"blk-file", backing.path()}})));
    EXPECT_TRUE(
        blk_program().create_device(values_of({{"blk-file", backing.path()}, {"lock", "off"}})));
}

}  // namespace
}  // namespace outrigger::blk
