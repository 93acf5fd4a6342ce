// SPDX-License-Identifier: Apache-2.0
// How files of a share are pinned again, and what is known of its file system.
#include "devices/fs/share.h"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

class ShareTest : public ::testing::Test {
  protected:
    ShareTest() {
        std::string name = (std::filesystem::temp_directory_path() / "share-XXXXXX").string();
        settings_.shared_dir = ::mkdtemp(name.data());
    }

    ~ShareTest() override { std::filesystem::remove_all(settings_.shared_dir); }

    [[nodiscard]] std::string path_of(const std::string& name) const {
        return settings_.shared_dir + "/" + name;
    }

    [[nodiscard]] UniqueFd open(const std::string& name, int flags) const {
        return UniqueFd(::open(path_of(name).c_str(), flags | O_CLOEXEC, 0600));
    }

    [[nodiscard]] static uint64_t number_of(const UniqueFd& fd) {
        const StatResult status = stat_fd(fd.get(), STATX_INO);
        return status ? status->stx_ino : 0;
    }

    FsSettings settings_;
};

TEST_F(ShareTest, PinsAgainWhatIsOpenAndNotItsName) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    const UniqueFd made = open("made", O_RDWR | O_CREAT);
    std::filesystem::rename(path_of("made"), path_of("moved"));
    const UniqueFd other = open("made", O_RDWR | O_CREAT);

    const auto pinned = share->pin_again(made.get());

    ASSERT_TRUE(pinned);
    EXPECT_EQ(number_of(*pinned), number_of(made));
    EXPECT_NE(number_of(*pinned), number_of(other));
}

/// As filters around services are; of this thread alone.
bool refuse_open_tree() {
    std::array<sock_filter, 4> program = {{
        {.code = BPF_LD | BPF_W | BPF_ABS, .jt = 0, .jf = 0, .k = offsetof(seccomp_data, nr)},
        {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 1, .k = SYS_open_tree},
        {.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ERRNO | EPERM},
        {.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ALLOW},
    }};
    const sock_fprog filter = {.len = program.size(), .filter = program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_F(ShareTest, PinsAgainWhereAFilterRefusesTheCall) {
    const UniqueFd made = open("made", O_RDWR | O_CREAT);
    std::thread([&] {
        ASSERT_TRUE(refuse_open_tree());
        ASSERT_LT(::open_tree(made.get(), "", unsigned{AT_EMPTY_PATH} | OPEN_TREE_CLOEXEC), 0);
        const auto share = Share::open(settings_);
        ASSERT_TRUE(share);
        EXPECT_FALSE(share->is_own_mount());

        const auto pinned = share->pin_again(made.get());

        ASSERT_TRUE(pinned);
        EXPECT_EQ(number_of(*pinned), number_of(made));
        EXPECT_NE(::fcntl(pinned->get(), F_GETFL) & O_PATH, 0);
    }).join();
}

TEST_F(ShareTest, PinsAgainWithoutOpening) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    const UniqueFd made = open("made", O_RDWR | O_CREAT);

    const auto pinned = share->pin_again(made.get());

    ASSERT_TRUE(pinned);
    const int flags = ::fcntl(pinned->get(), F_GETFL);
    EXPECT_NE(flags & O_PATH, 0);
    EXPECT_EQ(flags & O_ACCMODE, O_RDONLY);
    EXPECT_EQ(::fcntl(pinned->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(::write(pinned->get(), "x", 1), -1);
}

TEST_F(ShareTest, PinsAgainWhatHasNoName) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    const UniqueFd made = open("made", O_RDWR | O_CREAT);
    std::filesystem::remove(path_of("made"));

    const auto pinned = share->pin_again(made.get());

    ASSERT_TRUE(pinned);
    EXPECT_EQ(number_of(*pinned), number_of(made));
}

TEST_F(ShareTest, PinsNothingWithoutADescriptor) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);

    const auto pinned = share->pin_again(-1);

    ASSERT_FALSE(pinned);
    EXPECT_EQ(pinned.error(), EBADF);
}

/// In a thread that serves requests: what it has for a working directory.
[[nodiscard]] ino_t working_directory() {
    struct stat status {};

    return ::stat(".", &status) == 0 ? status.st_ino : 0;
}

TEST_F(ShareTest, ALongListingLooksUpFromWithin) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    const UniqueFd directory = open(".", O_PATH);
    const UniqueFd made = open("made", O_RDWR | O_CREAT);
    std::thread([&] {
        ASSERT_TRUE(share->adopt_thread());
        const ino_t before = working_directory();
        {
            NamesBase base(*share, directory.get());
            EXPECT_EQ(base.take(), directory.get());
            int from = -1;
            for (int i = 0; i < 100; ++i) {
                from = base.take();
            }
            EXPECT_EQ(from, AT_FDCWD);
            const StatResult status = stat_name(from, "made", STATX_INO);
            ASSERT_TRUE(status);
            EXPECT_EQ(status->stx_ino, number_of(made));
        }
        EXPECT_EQ(working_directory(), before);
    }).join();
}

TEST_F(ShareTest, AListingOfWhatCannotBeEnteredStaysOutside) {
    const auto share = Share::open(settings_);
    ASSERT_TRUE(share);
    const UniqueFd file = open("file", O_RDWR | O_CREAT);
    std::thread([&] {
        ASSERT_TRUE(share->adopt_thread());
        const ino_t before = working_directory();
        {
            NamesBase base(*share, file.get());
            for (int i = 0; i < 100; ++i) {
                EXPECT_EQ(base.take(), file.get());
            }
        }
        EXPECT_EQ(working_directory(), before);
    }).join();
}

/// What a keeper had of the process before.
TEST_F(ShareTest, GoesOnWithAMountOfItsOwnOrWithTheHosts) {
    const auto before = Share::open(settings_);
    ASSERT_TRUE(before);
    const auto own = Share::go_on(settings_, before->duplicate_root());
    ASSERT_TRUE(own);
    EXPECT_EQ(own->is_own_mount(), before->is_own_mount());
    const auto of_the_host = Share::go_on(settings_, open("", O_PATH));
    ASSERT_TRUE(of_the_host);
    EXPECT_FALSE(of_the_host->is_own_mount());
}

TEST_F(ShareTest, GoesOnWithNoOtherDirectory) {
    std::filesystem::create_directory(path_of("below"));
    EXPECT_FALSE(Share::go_on(settings_, open("below", O_PATH)));
    EXPECT_FALSE(Share::go_on(settings_, UniqueFd()));
}

TEST_F(ShareTest, AKindThatIsNotKnownPromisesNothing) {
    const UniqueFd proc(::open("/proc/self", O_PATH | O_CLOEXEC));
    ASSERT_TRUE(proc.valid());

    const FileSystemKind kind = kind_of(proc.get());

    EXPECT_FALSE(kind.is_in_memory);
    EXPECT_FALSE(kind.ignores_closes);
    EXPECT_FALSE(kind_of(-1).ignores_closes);
}

TEST_F(ShareTest, MemoryIsMemory) {
    const UniqueFd memory(::open("/dev/shm", O_PATH | O_CLOEXEC));

    struct statfs status {};

    if (!memory.valid() || ::fstatfs(memory.get(), &status) != 0 || status.f_type != TMPFS_MAGIC) {
        GTEST_SKIP() << "/dev/shm is no tmpfs";
    }

    const FileSystemKind kind = kind_of(memory.get());

    EXPECT_TRUE(kind.is_in_memory);
    EXPECT_TRUE(kind.ignores_closes);
}

}  // namespace
}  // namespace outrigger::fs
