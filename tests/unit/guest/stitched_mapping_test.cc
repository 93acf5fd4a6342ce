// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/stitched_mapping.h"

#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include <stdlib.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {
namespace {

/// A file that can be truncated.
UniqueFd create_file(size_t size) {
    std::string path = "/tmp/stitch-test-XXXXXX";
    UniqueFd fd(::mkstemp(path.data()));
    ::unlink(path.c_str());
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
    return fd;
}

/// How often this process maps such a file.
size_t count_mappings() {
    size_t count = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        if (line.find("stitch-test") != std::string::npos) {
            ++count;
        }
    }
    return count;
}

class StitchedMappingTest : public testing::Test {
  protected:
    void SetUp() override {
        if (kPortableBuild) {
            GTEST_SKIP() << "only Linux maps memory a second time";
        }
    }

    [[nodiscard]] iovec piece(size_t offset, size_t length) const {
        return {.iov_base = memory_.data() + offset, .iov_len = length};
    }

    const size_t page_ = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    UniqueFd fd_ = create_file(8 * page_);
    Mapping memory_ = Mapping::map_file(fd_.get(), 0, 8 * page_).value();
};

TEST_F(StitchedMappingTest, ShowsScatteredPagesSideBySide) {
    const std::array pieces = {
        piece(5 * page_ + 100, page_ - 100), piece(2 * page_, page_), piece(7 * page_, 10)};
    const auto stitched = StitchedMapping::map(pieces);
    ASSERT_TRUE(stitched.has_value());
    std::byte* const data = (*stitched)->data();

    std::memset(memory_.data() + 6 * page_ - 1, 'a', 1);
    std::memset(memory_.data() + 2 * page_, 'b', 1);
    std::memset(memory_.data() + 7 * page_ + 9, 'c', 1);
    EXPECT_EQ(data[page_ - 101], std::byte{'a'});
    EXPECT_EQ(data[page_ - 100], std::byte{'b'});
    EXPECT_EQ(data[2 * page_ - 100 + 9], std::byte{'c'});

    data[2 * page_ - 100] = std::byte{'d'};
    EXPECT_EQ(memory_.data()[7 * page_], std::byte{'d'});
}

TEST_F(StitchedMappingTest, RefusesPiecesThatMeetInsideAPage) {
    EXPECT_FALSE(
        StitchedMapping::map(std::array{piece(0, page_ - 1), piece(2 * page_, 8)}).has_value());
    EXPECT_FALSE(
        StitchedMapping::map(std::array{piece(0, page_), piece(2 * page_ + 1, 8)}).has_value());
    EXPECT_FALSE(
        StitchedMapping::map(
            std::array{piece(0, page_), piece(2 * page_, page_ / 2), piece(4 * page_, page_)})
            .has_value());
    EXPECT_FALSE(StitchedMapping::map({}).has_value());
}

TEST_F(StitchedMappingTest, KnowsItsPieces) {
    const std::array pieces = {piece(3 * page_, page_), piece(0, page_)};
    const auto stitched = StitchedMapping::map(pieces);
    ASSERT_TRUE(stitched.has_value());
    EXPECT_TRUE((*stitched)->is_of(pieces));
    EXPECT_FALSE((*stitched)->is_of(std::array{pieces[1], pieces[0]}));
    EXPECT_FALSE((*stitched)->is_of(std::array{pieces[0]}));
}

TEST_F(StitchedMappingTest, OutlivesTheMappingThatItCameFrom) {
    memory_.data()[page_] = std::byte{'x'};
    const auto stitched = StitchedMapping::map(std::array{piece(page_, page_), piece(0, page_)});
    ASSERT_TRUE(stitched.has_value());
    memory_ = {};
    EXPECT_EQ((*stitched)->data()[0], std::byte{'x'});
}

TEST_F(StitchedMappingTest, TruncationIsNoticed) {
    const auto stitched = StitchedMapping::map(std::array{piece(page_, page_), piece(0, page_)});
    ASSERT_TRUE(stitched.has_value());
    EXPECT_FALSE((*stitched)->lost());
    ASSERT_EQ(::ftruncate(fd_.get(), 0), 0);
    // Volatile: it is the access that counts.
    *static_cast<volatile std::byte*>((*stitched)->data()) = std::byte{1};
    EXPECT_TRUE((*stitched)->lost());
}

TEST_F(StitchedMappingTest, FailureLeavesNoMappingBehind) {
    // Private memory cannot be mapped a second time.
    const auto private_memory = std::make_unique<std::byte[]>(4 * page_);
    const auto start = (std::bit_cast<uintptr_t>(private_memory.get()) + page_ - 1) / page_ * page_;
    const iovec private_piece = {.iov_base = std::bit_cast<void*>(start), .iov_len = page_};
    const size_t before = count_mappings();
    EXPECT_FALSE(StitchedMapping::map(std::array{piece(0, page_), private_piece}).has_value());
    EXPECT_EQ(count_mappings(), before);
}

}  // namespace
}  // namespace outrigger
