// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/open_beneath.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

#include <stdlib.h>

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

class OpenBeneath : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "beneath-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        fs::create_directories(folder_ / "in" / "deep");
        std::ofstream(folder_ / "in" / "deep" / "file") << "inside";
        std::ofstream(folder_ / "file") << "outside";
    }

    void TearDown() override { fs::remove_all(folder_); }

    /// 0, or why not.
    int open_below_in(const fs::path& relative) {
        const UniqueFd directory = open_directory(folder_ / "in").value();
        const auto fd = open_beneath(directory.get(), relative);
        return fd ? 0 : fd.error().os_error;
    }

    fs::path folder_;
};

TEST_F(OpenBeneath, FileInADirectoryIsOpened) {
    EXPECT_EQ(open_below_in("deep/file"), 0);
}

/// What a race makes of a name that was resolved before.
TEST_F(OpenBeneath, SymbolicLinkInPlaceOfADirectoryIsNotFollowed) {
    fs::rename(folder_ / "in" / "deep", folder_ / "deep");
    fs::create_symlink(folder_, folder_ / "in" / "deep");
    EXPECT_EQ(open_below_in("deep/file"), ENOTDIR);
}

TEST_F(OpenBeneath, SymbolicLinkInPlaceOfTheFileIsNotFollowed) {
    fs::remove(folder_ / "in" / "deep" / "file");
    fs::create_symlink(folder_ / "file", folder_ / "in" / "deep" / "file");
    EXPECT_EQ(open_below_in("deep/file"), ELOOP);
}

TEST_F(OpenBeneath, WayUpIsRefused) {
    EXPECT_EQ(open_below_in("../file"), EINVAL);
    EXPECT_EQ(open_below_in("deep/../../file"), EINVAL);
    EXPECT_EQ(open_below_in(folder_ / "file"), EINVAL);
    EXPECT_EQ(open_below_in(""), EINVAL);
}

TEST_F(OpenBeneath, WhatIsNotThereIsAnError) {
    EXPECT_EQ(open_below_in("deep/none"), ENOENT);
}

}  // namespace
}  // namespace outrigger::blk
