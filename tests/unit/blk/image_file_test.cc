// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/image_file.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/support/temporary_image.h"

namespace outrigger::blk {
namespace {

std::string error_of(const ImageFileOptions& options) {
    const auto file = ImageFile::open(options);
    return file ? std::string() : file.error().message;
}

void expect_one_line_with(const std::string& message, std::string_view part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(ImageFile, TellsTheSizeAndTheFileSystemsBlock) {
    const TemporaryImage backing(1 << 20);
    const auto file = ImageFile::open({.path = backing.path()}).value();
    EXPECT_EQ(file->properties.size_bytes, 1U << 20);
    EXPECT_EQ(file->properties.block_bytes, 512U);
    EXPECT_GE(file->properties.physical_block_bytes, 512U);
    EXPECT_FALSE(file->properties.read_only);
}

TEST(ImageFile, LookingForHolesLeavesTheFileAsItIs) {
    const TemporaryImage backing((1 << 20) + 512);
    backing.fill(0, (1 << 20) + 512, 0x31);
    ASSERT_TRUE(ImageFile::open({.path = backing.path()}));
    EXPECT_EQ(backing.size(), (1U << 20) + 512);
    EXPECT_TRUE(backing.holds(0, (1 << 20) + 512, 0x31));
}

TEST(ImageFile, ReadOnlyDoesNotOfferToDiscard) {
    const TemporaryImage backing(1 << 20);
    const auto file = ImageFile::open({.path = backing.path(), .read_only = true}).value();
    EXPECT_TRUE(file->properties.read_only);
    EXPECT_FALSE(file->properties.can_discard);
}

TEST(ImageFile, MissingFileSaysHowToMakeOne) {
    expect_one_line_with(error_of({.path = "/nonexistent/disk.img"}), "truncate -s");
}

TEST(ImageFile, DirectoryIsRefused) {
    expect_one_line_with(error_of({.path = "/"}), "is a directory");
}

TEST(ImageFile, CharacterDeviceIsRefused) {
    expect_one_line_with(error_of({.path = "/dev/null"}), "image file or a block device");
}

TEST(ImageFile, SizeThatIsNoMultipleOfTheBlockSizeIsRefused) {
    const TemporaryImage backing(1000);
    expect_one_line_with(error_of({.path = backing.path()}), "truncate -s 1024");
}

TEST(ImageFile, SizeMustFitAChosenBlockSize) {
    const TemporaryImage backing(4096 + 512);
    EXPECT_EQ(error_of({.path = backing.path()}), "");
    expect_one_line_with(error_of({.path = backing.path(), .block_bytes = 4096}),
                         "truncate -s 8192");
}

TEST(ImageFile, ChosenBlockSizeIsTaken) {
    const TemporaryImage backing(1 << 20);
    const auto file = ImageFile::open({.path = backing.path(), .block_bytes = 4096}).value();
    EXPECT_EQ(file->properties.block_bytes, 4096U);
    EXPECT_GE(file->properties.physical_block_bytes, 4096U);
}

TEST(ImageFile, DirectIoKnowsItsAlignment) {
    const TemporaryImage backing(1 << 20);
    const auto file = ImageFile::open({.path = backing.path(), .direct = true});
    if (!file) {
        expect_one_line_with(file.error().message, "--cache=writeback");
        return;
    }
    EXPECT_GE((*file)->offset_alignment, 512U);
    EXPECT_GE((*file)->properties.block_bytes, (*file)->offset_alignment);
}

// --- Locks ---------------------------------------------------------------------------------------

TEST(ImageFileLock, SecondWriterIsRefused) {
    const TemporaryImage backing(1 << 20);
    const auto first = ImageFile::open({.path = backing.path()});
    ASSERT_TRUE(first);
    expect_one_line_with(error_of({.path = backing.path()}), "is in use by");
}

TEST(ImageFileLock, ReaderBesideAWriterIsRefused) {
    const TemporaryImage backing(1 << 20);
    const auto first = ImageFile::open({.path = backing.path()});
    ASSERT_TRUE(first);
    EXPECT_NE(error_of({.path = backing.path(), .read_only = true}), "");
}

TEST(ImageFileLock, ReadersShare) {
    const TemporaryImage backing(1 << 20);
    const auto first = ImageFile::open({.path = backing.path(), .read_only = true});
    ASSERT_TRUE(first);
    EXPECT_EQ(error_of({.path = backing.path(), .read_only = true}), "");
}

TEST(ImageFileLock, GoesWithTheImage) {
    const TemporaryImage backing(1 << 20);
    { ASSERT_TRUE(ImageFile::open({.path = backing.path()})); }
    EXPECT_EQ(error_of({.path = backing.path()}), "");
}

TEST(ImageFileLock, CanBeSwitchedOff) {
    const TemporaryImage backing(1 << 20);
    const auto first = ImageFile::open({.path = backing.path()});
    ASSERT_TRUE(first);
    EXPECT_EQ(error_of({.path = backing.path(), .lock = false}), "");
}

}  // namespace
}  // namespace outrigger::blk
