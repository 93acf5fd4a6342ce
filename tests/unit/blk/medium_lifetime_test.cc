// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/medium_lifetime.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <sys/sysmacros.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "devices/blk/host_block_device.h"
#include "tests/unit/blk/file_queue_fixture.h"

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

/// A tree of devices as sysfs shows it.
class DeviceTree : public testing::Test {
  protected:
    DeviceTree() {
        std::string path = (fs::temp_directory_path() / "outrigger-sysfs-XXXXXX").string();
        EXPECT_NE(::mkdtemp(path.data()), nullptr);
        root_ = path;
        fs::create_directories(root_ / "dev/block");
    }

    ~DeviceTree() override { fs::remove_all(root_); }

    void add_disk(const std::string& number, const std::string& path) const {
        fs::create_directories(root_ / "devices" / path);
        fs::create_symlink("../../devices/" + path, root_ / "dev/block" / number);
    }

    void add_file(const std::string& path, const std::string& text) const {
        fs::create_directories((root_ / "devices" / path).parent_path());
        std::ofstream(root_ / "devices" / path) << text;
    }

    /// What the files tell; nothing when they do not.
    [[nodiscard]] std::optional<ImageLifetime> lifetime_of(dev_t device) const {
        ImageLifetime lifetime;
        const auto attributes = find_lifetime_attributes(root_.string(), device);
        for (const LifetimeAttribute& attribute : attributes) {
            std::array<char, 32> text{};
            const ssize_t length = ::pread(attribute.fd.get(), text.data(), text.size(), 0);
            EXPECT_GE(length, 0);
            EXPECT_TRUE(
                read_lifetime(attribute, {text.data(), static_cast<size_t>(length)}, lifetime));
        }
        return attributes.empty() ? std::nullopt : std::optional(lifetime);
    }

    fs::path root_;
};

TEST_F(DeviceTree, PartitionOfAnEmmcTellsWhatItsCardTells) {
    add_disk("179:1", "soc/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p1");
    add_file("soc/mmc0/mmc0:0001/life_time", "0x02 0x0b\n");
    add_file("soc/mmc0/mmc0:0001/pre_eol_info", "0x01\n");
    const auto lifetime = lifetime_of(makedev(179, 1));
    ASSERT_TRUE(lifetime);
    EXPECT_EQ(lifetime->pre_end_of_life, 1);
    EXPECT_EQ(lifetime->estimate_a, 2);
    EXPECT_EQ(lifetime->estimate_b, 11);
}

TEST_F(DeviceTree, UfsDiskTellsWhatItsControllerTells) {
    add_disk("8:0", "soc/1d84000.ufshc/host0/target0:0:0/0:0:0:0/block/sda");
    add_file("soc/1d84000.ufshc/health_descriptor/eol_info", "0x03\n");
    add_file("soc/1d84000.ufshc/health_descriptor/life_time_estimation_a", "0x04\n");
    add_file("soc/1d84000.ufshc/health_descriptor/life_time_estimation_b", "0x05\n");
    const auto lifetime = lifetime_of(makedev(8, 0));
    ASSERT_TRUE(lifetime);
    EXPECT_EQ(lifetime->pre_end_of_life, 3);
    EXPECT_EQ(lifetime->estimate_a, 4);
    EXPECT_EQ(lifetime->estimate_b, 5);
}

TEST_F(DeviceTree, DiskWithoutTheFilesTellsNothing) {
    add_disk("254:0", "pci0/virtio1/block/vda");
    EXPECT_FALSE(lifetime_of(makedev(254, 0)));
}

TEST_F(DeviceTree, HalfOfTheFilesIsNothing) {
    add_disk("179:0", "soc/mmc0/mmc0:0001/block/mmcblk0");
    add_file("soc/mmc0/mmc0:0001/life_time", "0x02 0x0b\n");
    EXPECT_FALSE(lifetime_of(makedev(179, 0)));
}

TEST_F(DeviceTree, UnknownDeviceTellsNothing) {
    EXPECT_FALSE(lifetime_of(makedev(1, 2)));
}

TEST_F(DeviceTree, ZonedDisksAndTheirPartitionsAreKnown) {
    add_disk("8:1", "pci0/block/sda/sda1");
    add_disk("8:16", "pci0/block/sdb");
    add_disk("8:32", "pci0/block/sdc");
    add_file("pci0/block/sda/queue/zoned", "host-managed\n");
    add_file("pci0/block/sdb/queue/zoned", "host-aware\n");
    add_file("pci0/block/sdc/queue/zoned", "none\n");
    add_file("pci0/block/sda/queue/max_open_zones", "3\n");
    add_file("pci0/block/sda/queue/max_active_zones", "0\n");
    add_file("pci0/block/sda/queue/zone_write_granularity", "4096\n");
    const auto zoning = [&](dev_t device) { return zoning_of_device(root_.string(), -1, device); };
    EXPECT_EQ(zoning(makedev(8, 1)).model, ZoneModel::kHostManaged);
    EXPECT_EQ(zoning(makedev(8, 1)).open_zones_max, 3U);
    EXPECT_EQ(zoning(makedev(8, 1)).active_zones_max, 0U);
    EXPECT_EQ(zoning(makedev(8, 1)).write_granularity_bytes, 4096U);
    EXPECT_EQ(zoning(makedev(8, 16)).model, ZoneModel::kHostAware);
    EXPECT_EQ(zoning(makedev(8, 32)).model, ZoneModel::kNone);
    EXPECT_EQ(zoning(makedev(8, 48)).model, ZoneModel::kNone) << "and no zones, says the device";
}

TEST_F(DeviceTree, PolledQueuesAreThoseThatTheHostSays) {
    add_disk("8:1", "pci0/block/sda/sda1");
    add_disk("8:16", "pci0/block/sdb");
    add_file("pci0/block/sda/queue/io_poll", "1\n");
    add_file("pci0/block/sdb/queue/io_poll", "0\n");
    EXPECT_TRUE(device_polls(root_.string(), makedev(8, 1)));
    EXPECT_FALSE(device_polls(root_.string(), makedev(8, 16)));
    EXPECT_FALSE(device_polls(root_.string(), makedev(8, 32)));
}

TEST(MediumLifetime, OtherTextsAreRefused) {
    const LifetimeAttribute one{.kind = LifetimeAttribute::Kind::kPreEndOfLife, .fd = {}};
    const LifetimeAttribute two{.kind = LifetimeAttribute::Kind::kEstimates, .fd = {}};
    ImageLifetime lifetime;
    EXPECT_TRUE(read_lifetime(one, "0x00", lifetime));
    EXPECT_FALSE(read_lifetime(one, "", lifetime));
    EXPECT_FALSE(read_lifetime(one, "1\n", lifetime));
    EXPECT_FALSE(read_lifetime(one, "0x\n", lifetime));
    EXPECT_FALSE(read_lifetime(one, "0x10000\n", lifetime));
    EXPECT_FALSE(read_lifetime(one, "0x01 0x02\n", lifetime));
    EXPECT_FALSE(read_lifetime(two, "0x01\n", lifetime));
    EXPECT_FALSE(read_lifetime(two, "0x01,0x02\n", lifetime));
}

// --- As a request --------------------------------------------------------------------------------

class FileQueueLifetime : public FileQueueTest {
  protected:
    FileQueueLifetime() {
        file_.lifetime.push_back({.kind = LifetimeAttribute::Kind::kPreEndOfLife, .fd = {}});
        file_.lifetime.push_back({.kind = LifetimeAttribute::Kind::kEstimates, .fd = {}});
        request_.command = ImageCommand::kGetLifetime;
    }

    void answer_with(std::string_view text) {
        ASSERT_EQ(call().opcode, IoOpcode::kReadAttribute);
        ASSERT_GE(call().segments[0].iov_len, text.size());
        std::ranges::copy(text, static_cast<char*>(call().segments[0].iov_base));
        answer(static_cast<int32_t>(text.size()));
    }
};

TEST_F(FileQueueLifetime, EachRequestReadsTheFilesAnew) {
    queue_->submit(request_);
    answer_with("0x01\n");
    answer_with("0x02 0x03\n");
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(request_.lifetime.estimate_b, 3);
    request_.result.reset();
    queue_->submit(request_);
    answer_with("0x02\n");
    answer_with("0x03 0x04\n");
    EXPECT_EQ(request_.result, 0);
    EXPECT_EQ(request_.lifetime.pre_end_of_life, 2);
    EXPECT_EQ(request_.lifetime.estimate_a, 3);
    EXPECT_EQ(request_.lifetime.estimate_b, 4);
}

TEST_F(FileQueueLifetime, FileThatCannotBeReadIsAFailure) {
    queue_->submit(request_);
    answer(-ENODEV);
    EXPECT_EQ(request_.result, ENODEV);
}

TEST_F(FileQueueLifetime, NonsenseIsAFailure) {
    queue_->submit(request_);
    answer_with("unknown\n");
    EXPECT_EQ(request_.result, EIO);
}

}  // namespace
}  // namespace outrigger::blk
