// SPDX-License-Identifier: Apache-2.0
// Users of the guest who are others on the host because the share's mount says so, which access
// control lists follow.
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/fs_test.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kSomebody = 1000;
constexpr uint32_t kSomebodyHere = 101'000;
constexpr uint32_t kOther = 1001;
constexpr uint32_t kOtherHere = 101'001;
constexpr uint32_t kNobody = 65'534;
constexpr std::string_view kAccessList = "system.posix_acl_access";

class FsMapped : public FsTest {
  protected:
    static std::vector<std::string> rules() {
        return {"--translate-by=mount",
                "--translate-uid=map:0:100000:2000",
                "--translate-gid=map:0:100000:2000"};
    }

    void begin(std::vector<std::string> more = {}, bool keeper = false) {
        if (::getuid() != 0) {
            GTEST_SKIP() << "this needs root";
        }
        if (!is_mappable()) {
            GTEST_SKIP() << "the file system here has no mapped mounts";
        }
        // As the root of the guest is who the share's owner is.
        ASSERT_EQ(::chown(share().c_str(), 100'000, 100'000), 0);
        ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
        const std::vector<std::string> all = rules();
        more.insert(more.end(), all.begin(), all.end());
        serve({.arguments = more, .keeper = keeper});
    }

    /// Asked of the daemon, which must then say that it is the file system.
    [[nodiscard]] bool is_mappable() {
        std::vector<std::string> arguments = rules();
        arguments.insert(
            arguments.end(),
            {"--socket-path=" + (home_ / "none/such"), "--shared-dir=" + share(), "--keeper=none"});
        ChildProcess probe(std::getenv("OUTRIGGER_FS_PROGRAM"),
                           ChildProcess::Options{.arguments = arguments});
        EXPECT_TRUE(probe.wait().has_value());
        return probe.complained().find("has no mapped mounts") == std::string::npos;
    }

    [[nodiscard]] struct stat on_host(std::string_view name) const {
        struct stat status {};

        EXPECT_EQ(::lstat(in_share(name).c_str(), &status), 0);
        return status;
    }

    static FuseRequest as(uint32_t user, FuseRequest request) {
        request.uid = user;
        request.gid = user;
        return request;
    }

    /// Of a file that its owner may read and write, as may that user.
    static std::string list_with(uint32_t user) {
        struct Entry {
            uint16_t tag;
            uint16_t permissions;
            uint32_t id;
        };

        const std::array<Entry, 5> entries = {{{.tag = 0x01, .permissions = 6, .id = UINT32_MAX},
                                               {.tag = 0x02, .permissions = 6, .id = user},
                                               {.tag = 0x04, .permissions = 0, .id = UINT32_MAX},
                                               {.tag = 0x10, .permissions = 6, .id = UINT32_MAX},
                                               {.tag = 0x20, .permissions = 0, .id = UINT32_MAX}}};
        std::string list("\2\0\0\0", 4);
        list.resize(list.size() + sizeof entries);
        std::memcpy(list.data() + 4, entries.data(), sizeof entries);
        return list;
    }

    [[nodiscard]] std::string list_on_host(std::string_view name) const {
        std::string list(200, '\0');
        const ssize_t bytes =
            ::getxattr(in_share(name).c_str(), kAccessList.data(), list.data(), list.size());
        list.resize(bytes < 0 ? 0 : static_cast<size_t>(bytes));
        return list;
    }

    void expect_refused(std::vector<std::string> arguments, const std::string& why) {
        arguments.insert(arguments.end(),
                         {"--socket-path=" + (home_ / "socket"), "--shared-dir=" + share()});
        ChildProcess refused(std::getenv("OUTRIGGER_FS_PROGRAM"),
                             ChildProcess::Options{.arguments = arguments});
        const auto ended = refused.wait();
        ASSERT_TRUE(ended.has_value());
        EXPECT_NE(ended->status, 0);
        EXPECT_NE(refused.complained().find(why), std::string::npos) << refused.complained();
    }

    /// Made, shown and given away.
    void expect_translated() {
        const FuseAnswer made = call(as(kSomebody, ask::mkdir(FUSE_ROOT_ID, "d", 0777)));
        ASSERT_EQ(made.error(), 0) << daemon().complained();
        EXPECT_EQ(made.as<fuse_entry_out>().attr.uid, kSomebody);
        EXPECT_EQ(made.as<fuse_entry_out>().attr.gid, kSomebody);
        EXPECT_EQ(on_host("d").st_uid, kSomebodyHere);
        EXPECT_EQ(on_host("d").st_gid, kSomebodyHere);
        fuse_setattr_in in{};
        in.valid = FATTR_UID | FATTR_GID;
        in.uid = kOther;
        in.gid = 0;
        const FuseAnswer given = call(ask::setattr(made.as<fuse_entry_out>().nodeid, in));
        EXPECT_EQ(given.as<fuse_attr_out>().attr.uid, kOther);
        EXPECT_EQ(on_host("d").st_uid, kOtherHere);
        EXPECT_EQ(on_host("d").st_gid, 100'000U);
    }
};

TEST_F(FsMapped, UsersAreTranslatedBothWays) {
    begin();
    if (IsSkipped()) {
        return;
    }
    expect_translated();
}

TEST_F(FsMapped, WithoutASandboxAndByHandlesToo) {
    begin(has_handles()
              ? std::vector<std::string>{"--sandbox=none", "--inode-file-handles=mandatory"}
              : std::vector<std::string>{"--sandbox=none"});
    if (IsSkipped()) {
        return;
    }
    expect_translated();
}

TEST_F(FsMapped, InMemoryToo) {
    if (::getuid() != 0 || ::mount("tmpfs", share().c_str(), "tmpfs", 0, "mode=777") != 0) {
        GTEST_SKIP() << "this needs root";
    }
    begin();
    if (!IsSkipped()) {
        expect_translated();
    }
    ::umount2(share().c_str(), MNT_DETACH);
}

TEST_F(FsMapped, AccessListsNameTheUsersOfEachSide) {
    begin({"--posix-acl=always"});
    if (IsSkipped()) {
        return;
    }
    const OpenFile file = create("f", "content");
    if (::setxattr(in_share("f").c_str(), kAccessList.data(), list_with(1).data(), 44, 0) != 0) {
        GTEST_SKIP() << "no access control lists here";
    }
    ASSERT_EQ(error_of(ask::setxattr(file.node, kAccessList, list_with(kOther), true)), 0);
    EXPECT_EQ(list_on_host("f"), list_with(kOtherHere));
    EXPECT_EQ(call(ask::getxattr(file.node, kAccessList, 200)).text(), list_with(kOther));
}

TEST_F(FsMapped, WhoIsInNoRuleIsNobody) {
    begin();
    if (IsSkipped()) {
        return;
    }
    write_in_share("roots", "of the host");
    ASSERT_EQ(::chmod(in_share("roots").c_str(), 0600), 0);
    const uint64_t node = node_of("roots");
    EXPECT_EQ(call(ask::getattr(node)).as<fuse_attr_out>().attr.uid, kNobody);
    // Not even the root of the guest has power over it.
    fuse_setattr_in in{};
    in.valid = FATTR_UID;
    in.uid = 0;
    EXPECT_NE(error_of(ask::setattr(node, in)), 0);
    EXPECT_EQ(error_of(ask::open(node, O_RDONLY)), EACCES);
    EXPECT_NE(error_of(as(5000, ask::mkdir(FUSE_ROOT_ID, "d"))), 0);
    EXPECT_EQ(on_host("roots").st_uid, 0U);
    expect_alive();
}

TEST_F(FsMapped, TheNextProcessTranslatesToo) {
    begin({}, true);
    if (IsSkipped()) {
        return;
    }
    const OpenFile before = create("before", "content");
    kill();
    expect_translated();
    EXPECT_EQ(call(ask::getattr(before.node)).as<fuse_attr_out>().attr.uid, 0U);
    EXPECT_EQ(on_host("before").st_uid, 100'000U);
}

TEST_F(FsMapped, RulesThatAMountDoesNotKnowAreRefused) {
    expect_refused({"--translate-by=mount"}, "there are none");
    expect_refused({"--translate-by=mount", "--translate-uid=squash-guest:0:1:1"}, "type map");
    expect_refused({"--translate-by=mount", "--translate-gid=guest:0:1:1"}, "--translate-gid");
    expect_refused({"--translate-by=nobody", "--translate-uid=map:0:1:1"}, "translate-by");
}

TEST_F(FsMapped, AFileSystemThatHasNoneIsRefused) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    std::filesystem::create_directory(share() + "/proc");
    if (::mount("proc", in_share("proc").c_str(), "proc", 0, nullptr) != 0) {
        GTEST_SKIP() << "nothing is mounted here";
    }
    expect_refused(rules(), "has no mapped mounts");
    ::umount2(in_share("proc").c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace outrigger::testing
