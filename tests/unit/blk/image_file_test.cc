// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/image_file.h"

#include <chrono>
#include <cstddef>
#include <string>
#include <thread>

#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

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
    expect_one_line_with(error_of({.path = "/dev/null"}), "raw image file or a block device");
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

/// A locked image on its way through a socket: no process has it open. That of a process that was
/// killed is like it, while its last requests end.
class LockOfNobody {
  public:
    explicit LockOfNobody(const TemporaryImage& backing) {
        int ends[2] = {};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        sender_ = UniqueFd(ends[0]);
        receiver_ = UniqueFd(ends[1]);
        const auto file = ImageFile::open({.path = backing.path()}).value();
        const int fds[] = {file->fd.get()};
        const std::byte byte{};
        EXPECT_TRUE(wire::send_all(sender_.get(), {&byte, 1}, {}, fds, 1000));
    }

    void end() {
        sender_.reset();
        receiver_.reset();
    }

  private:
    UniqueFd sender_;
    UniqueFd receiver_;
};

TEST(ImageFileLock, OfNobodyIsWaitedFor) {
    const TemporaryImage backing(1 << 20);
    LockOfNobody lock(backing);
    const std::jthread end([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        lock.end();
    });
    EXPECT_EQ(error_of({.path = backing.path()}), "");
}

TEST(ImageFileLock, OfNobodyIsNotWaitedForWithoutEnd) {
    const TemporaryImage backing(1 << 20);
    const LockOfNobody lock(backing);
    expect_one_line_with(error_of({.path = backing.path()}), "is in use by another process");
}

TEST(ImageFileLock, CanBeSwitchedOff) {
    const TemporaryImage backing(1 << 20);
    const auto first = ImageFile::open({.path = backing.path()});
    ASSERT_TRUE(first);
    EXPECT_EQ(error_of({.path = backing.path(), .lock = false}), "");
}

}  // namespace
}  // namespace outrigger::blk
