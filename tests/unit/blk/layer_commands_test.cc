// SPDX-License-Identifier: Apache-2.0
// Layer files on the host's file system: made, matched with their base, and what the commands do.
#include <cerrno>
#include <filesystem>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/host_calls.h"
#include "devices/blk/overlay/open_overlay.h"
#include "devices/blk/overlay/overlay_command.h"
#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBaseBytes = 1 << 20;
constexpr uint32_t kCluster = 4096;

class LayerCommandsTest : public ::testing::Test {
  protected:
    ~LayerCommandsTest() override { fs::remove(path_); }

    void create(uint64_t disk_bytes = kBaseBytes) {
        const auto created = create_layer_file({.path = path_,
                                                .disk_bytes = disk_bytes,
                                                .cluster_bytes = kCluster,
                                                .base = identity()});
        ASSERT_TRUE(created) << created.error().message;
    }

    [[nodiscard]] BaseIdentity identity() const {
        return identify_base("raw", base_.path(), kBaseBytes);
    }

    /// Puts clusters into the layer as a daemon does, with that byte all over.
    void fill_clusters(uint64_t first, uint64_t count, int value) {
        OpenLayer layer = open_layer_file({.path = path_}).value();
        ClusterMap map(layer.journal->geometry(), 0);
        ASSERT_EQ(layer.journal->load(map), 0);
        const std::vector<std::byte> content(kCluster, static_cast<std::byte>(value));
        for (uint64_t i = first; i < first + count; ++i) {
            ASSERT_EQ(
                layer.store->write(layer.journal->geometry().data_offset + i * kCluster, content),
                0);
            ASSERT_TRUE(map.try_claim({.first = i, .count = 1}));
            map.release({.first = i, .count = 1}, true);
        }
        ASSERT_EQ(layer.journal->close(map), 0);
    }

    void set_committing() {
        OpenLayer layer = open_layer_file({.path = path_}).value();
        LayerHeader header = layer.journal->header();
        header.committing = true;
        ASSERT_EQ(layer.journal->update_header(header), 0);
    }

    [[nodiscard]] LayerCommand command() const { return {.layer = path_}; }

    /// The line that refuses to serve the layer; empty: it is served.
    [[nodiscard]] std::string refusal(bool accept_base = false) const {
        auto base = std::make_unique<FileImage>(
            ImageFile::open({.path = base_.path(), .read_only = true, .block_bytes = {}}).value(),
            IoEngineKind::kAuto);
        const auto overlay = open_overlay(
            std::move(base), identity(), {.layer = {.path = path_}, .accept_base = accept_base});
        return overlay ? "" : overlay.error().message;
    }

    void change_base() const {
        // Not by waiting for the clock: file systems count in large steps.
        const fs::path path = base_.path();
        fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(5));
    }

    TemporaryImage base_{kBaseBytes};
    const std::string path_ = base_.path() + ".layer";
};

TEST_F(LayerCommandsTest, NewLayerIsEmptyAndServed) {
    create();
    EXPECT_EQ(refusal(), "");
    EXPECT_NE(describe_layer(command())->find("clusters-present: 0\n"), std::string::npos);
    EXPECT_TRUE(check_layer(command()));
}

TEST_F(LayerCommandsTest, LayerThatExistsIsNotMadeAgain) {
    create();
    fill_clusters(0, 1, 1);
    const auto again = create_layer_file({.path = path_, .disk_bytes = kBaseBytes});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().os_error, EEXIST);
    EXPECT_NE(describe_layer(command())->find("clusters-present: 1\n"), std::string::npos);
}

TEST_F(LayerCommandsTest, ChangedBaseIsRefusedUntilItIsAcceptedForGood) {
    create();
    change_base();
    EXPECT_NE(refusal().find("was modified"), std::string::npos);
    EXPECT_EQ(refusal(true), "");
    EXPECT_EQ(refusal(), "");
}

TEST_F(LayerCommandsTest, BaseOfAnotherSizeIsRefused) {
    create();
    const auto mismatch = describe_mismatch(open_layer_file({.path = path_})->journal->header(),
                                            identify_base("raw", base_.path(), kBaseBytes + 512));
    ASSERT_TRUE(mismatch);
    EXPECT_NE(mismatch->find("bytes"), std::string::npos);
}

TEST_F(LayerCommandsTest, BaseOfAnotherKindIsRefused) {
    create();
    EXPECT_TRUE(describe_mismatch(open_layer_file({.path = path_})->journal->header(),
                                  identify_base("qcow2", base_.path(), kBaseBytes)));
}

TEST_F(LayerCommandsTest, BaseMayMoveAsLongAsItStaysTheSame) {
    create();
    BaseIdentity moved = identity();
    moved.path = "elsewhere.img";
    EXPECT_FALSE(describe_mismatch(open_layer_file({.path = path_})->journal->header(), moved));
}

TEST_F(LayerCommandsTest, CommitWritesDataAndZeroesAndNothingElse) {
    base_.fill(0, kBaseBytes, 0x11);
    create();
    fill_clusters(2, 1, 0x22);
    fill_clusters(4, 1, 0);
    const auto committed = commit_layer(command());
    ASSERT_TRUE(committed) << committed.error().message;
    EXPECT_TRUE(base_.holds(0, 2 * kCluster, 0x11));
    EXPECT_TRUE(base_.holds(2 * kCluster, kCluster, 0x22));
    EXPECT_TRUE(base_.holds(3 * kCluster, kCluster, 0x11));
    EXPECT_TRUE(base_.holds(4 * kCluster, kCluster, 0));
    EXPECT_TRUE(base_.holds(5 * kCluster, kBaseBytes - 5 * kCluster, 0x11));
    EXPECT_NE(describe_layer(command())->find("clusters-present: 0\n"), std::string::npos);
    EXPECT_EQ(refusal(), "");
}

TEST_F(LayerCommandsTest, CommitOfALargerDiskExtendsTheBase) {
    create(2 * kBaseBytes);
    fill_clusters(2 * kBaseBytes / kCluster - 1, 1, 0x22);
    ASSERT_TRUE(commit_layer(command()));
    EXPECT_EQ(fs::file_size(base_.path()), 2 * kBaseBytes);
    EXPECT_TRUE(base_.holds(2 * kBaseBytes - kCluster, kCluster, 0x22));
}

TEST_F(LayerCommandsTest, InterruptedCommitRefusesEverythingButToBeFinished) {
    create();
    fill_clusters(2, 1, 0x22);
    set_committing();
    change_base();  // what was written before the interruption
    EXPECT_NE(describe_layer(command())->find("state: commit interrupted\n"), std::string::npos);
    EXPECT_NE(refusal(true).find("overlay commit"), std::string::npos);
    EXPECT_FALSE(discard_layer(command()));
    const auto committed = commit_layer(command());
    ASSERT_TRUE(committed) << committed.error().message;
    EXPECT_TRUE(base_.holds(2 * kCluster, kCluster, 0x22));
    EXPECT_EQ(refusal(), "");
}

TEST_F(LayerCommandsTest, CommitRefusesABaseThatChangedUnlessToldOtherwise) {
    create();
    fill_clusters(2, 1, 0x22);
    change_base();
    EXPECT_FALSE(commit_layer(command()));
    EXPECT_TRUE(base_.holds(2 * kCluster, kCluster, 0));
    EXPECT_TRUE(commit_layer({.layer = path_, .accept_base = true}));
    EXPECT_TRUE(base_.holds(2 * kCluster, kCluster, 0x22));
}

TEST_F(LayerCommandsTest, DiscardEmptiesTheLayerAndGivesItsSpaceBack) {
    create();
    fill_clusters(0, 64, 0x22);
    ASSERT_TRUE(discard_layer(command()));
    EXPECT_NE(describe_layer(command())->find("clusters-present: 0\n"), std::string::npos);
    EXPECT_TRUE(base_.holds(0, kBaseBytes, 0));
    EXPECT_EQ(refusal(), "");
    struct stat status = {};
    ASSERT_EQ(::stat(path_.c_str(), &status), 0);
    EXPECT_GT(static_cast<uint64_t>(status.st_size), kBaseBytes) << "it keeps its size";
    const UniqueFd file(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    if (can_punch_holes(file.get(), static_cast<uint64_t>(status.st_size))) {
        EXPECT_LT(static_cast<uint64_t>(status.st_blocks) * 512, uint64_t{64} * kCluster);
    }
}

TEST_F(LayerCommandsTest, CheckFindsADamagedCopyAndALostPage) {
    create();
    fill_clusters(0, 1, 0x22);
    const LayerGeometry geometry = layer_geometry(kBaseBytes, kCluster).value();
    const auto damage = [&](size_t copy) {
        const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
        const char garbage[] = "garbage";
        ASSERT_EQ(::pwrite(fd.get(),
                           garbage,
                           sizeof garbage,
                           static_cast<off_t>(geometry.page_offset(0, copy) + 64)),
                  static_cast<ssize_t>(sizeof garbage));
    };
    damage(0);
    EXPECT_FALSE(check_layer(command()));
    EXPECT_EQ(refusal(), "");  // the other copy is whole
    EXPECT_TRUE(discard_layer(command()));
    EXPECT_TRUE(check_layer(command()));
    damage(0);
    damage(1);
    EXPECT_FALSE(check_layer(command()));
    EXPECT_NE(refusal().find("damaged"), std::string::npos);
    EXPECT_FALSE(commit_layer(command()));
}

TEST_F(LayerCommandsTest, MissingAndForeignFilesAreErrors) {
    EXPECT_FALSE(describe_layer(command()));
    EXPECT_FALSE(describe_layer({.layer = base_.path()}));
    EXPECT_FALSE(describe_layer({.layer = "/dev/null"}));
    EXPECT_FALSE(create_layer_file({.path = "/nowhere/at/all", .disk_bytes = kBaseBytes}));
}

}  // namespace
}  // namespace outrigger::blk
