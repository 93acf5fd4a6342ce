// SPDX-License-Identifier: Apache-2.0
// outriggerctl add and remove: disks of a file (--config) that come and go while others are used.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

constexpr Ended kDone{.status = 0};
constexpr Ended kRefused{.status = 1};
constexpr Ended kUsage{.status = 2};
constexpr Ended kRolledBack{.status = 3};

class CtlDevicesTest : public BlkControlTest {
  protected:
    void SetUp() override {
        BlkControlTest::SetUp();
        const char* const program = std::getenv("OUTRIGGER_CTL_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        ctl_ = program;
    }

    [[nodiscard]] std::string path(const std::string& name) const {
        return (folder_ / name).string();
    }

    [[nodiscard]] std::string file() const {
        std::ifstream stream(path("config"));
        return {std::istreambuf_iterator<char>(stream), {}};
    }

    [[nodiscard]] std::string first() const {
        return "# one\n[one]\nsocket-path = " + path("one.sock") + "\nnull-size = 1M\n";
    }

    [[nodiscard]] std::vector<std::string> arguments(const std::string& keeper) const {
        return {"--config=" + path("config"),
                "--control-socket=" + control_path(),
                "--keeper=" + keeper,
                "--sandbox=log"};
    }

    /// As that user, who may go to no other place.
    void start_as(uid_t user, const std::string& text) {
        std::ofstream(path("config")) << text;
        std::filesystem::copy_file(program_, path("program"));
        for (const std::string& each : {folder_.string(), path("config"), path("program")}) {
            ASSERT_EQ(::chown(each.c_str(), user, user), 0);
        }
        const std::string number = std::to_string(user);
        std::vector<std::string> command = {
            "--reuid=" + number, "--regid=" + number, "--clear-groups", path("program")};
        std::ranges::copy(arguments("fork"), std::back_inserter(command));
        daemon_ = std::make_unique<ChildProcess>("/usr/bin/setpriv",
                                                 ChildProcess::Options{.arguments = command});
        ASSERT_TRUE(daemon_->wait_complained("control: listening")) << daemon_->complained();
    }

    void start_with(const std::string& text, const std::string& keeper = "fork") {
        std::ofstream(path("config")) << text;
        daemon_ = std::make_unique<ChildProcess>(
            program_, ChildProcess::Options{.arguments = arguments(keeper)});
        ASSERT_TRUE(daemon_->wait_complained("control: listening")) << daemon_->complained();
    }

    struct Said {
        std::string out;
        std::string err;
    };

    Said run(std::vector<std::string> arguments, const Ended& ended) const {
        arguments.push_back("--socket=" + control_path());
        ChildProcess ctl(ctl_, {.arguments = arguments});
        EXPECT_EQ(ctl.wait(), ended) << ctl.complained() << daemon_->complained();
        return {.out = ctl.printed(), .err = ctl.complained()};
    }

    [[nodiscard]] std::vector<std::string> names() const {
        const auto reply = ask([](v1::Request& request) { request.mutable_describe(); });
        std::vector<std::string> names;
        for (const v1::Device& device : reply.program().devices()) {
            names.push_back(device.name());
        }
        return names;
    }

    std::string ctl_;
};

using Names = std::vector<std::string>;

TEST_F(CtlDevicesTest, ADiskComesAndGoesWhileAnotherIsUsed) {
    start_with(first());
    ASSERT_EQ(::chmod(path("config").c_str(), 0640), 0);
    ControlGuest guest = connect_to(path("one.sock"));
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);

    const Said added =
        run({"add", "two", "socket-path=" + path("two.sock"), "null-size=2M"}, kDone);
    EXPECT_EQ(added.out, "taken\n") << added.err;
    EXPECT_EQ(names(), (Names{"one", "two"}));
    EXPECT_EQ(
        file(),
        first() + "\n[two]\nsocket-path = \"" + path("two.sock") + "\"\nnull-size = \"2M\"\n");

    struct stat status {};

    ASSERT_EQ(::stat(path("config").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777U, 0640U);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
    {
        ControlGuest second = connect_to(path("two.sock"));
        EXPECT_EQ(second.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
        EXPECT_EQ(run({"remove", "two", "--json"}, kDone).out.find("\"outcome\": \"taken\"") !=
                      std::string::npos,
                  true);
        EXPECT_TRUE(second.frontend().wait_closed());
    }
    EXPECT_EQ(names(), Names{"one"});
    EXPECT_FALSE(std::filesystem::exists(path("two.sock")));
    EXPECT_EQ(file(), first() + "\n");
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

/// A keeper without privileges cannot answer root.
TEST_F(CtlDevicesTest, RootAsksTheKeeperOfAnotherUser) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "takes root";
    }
    constexpr uid_t kNobody = 65534;
    start_as(kNobody, first());
    EXPECT_EQ(run({"add", "two", "socket-path=" + path("two.sock"), "null-size=2M"}, kDone).out,
              "taken\n");
    EXPECT_EQ(names(), (Names{"one", "two"}));
    EXPECT_EQ(run({"remove", "two"}, kDone).out, "taken\n");
    EXPECT_EQ(names(), Names{"one"});
    EXPECT_EQ(run({"take-over"}, kDone).out, "taken\n");
    EXPECT_EQ(run({"take-over", path("program")}, kDone).out, "taken\n");
    EXPECT_EQ(run({"add", "two", "colour=red"}, kRefused).out, "unchanged\n");
    EXPECT_EQ(file(), first() + "\n");
}

TEST_F(CtlDevicesTest, WhoeverHasTheFileIsWaitedForNoLongerThanSaid) {
    start_with(first());
    const UniqueFd directory(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_EQ(::flock(directory.get(), LOCK_SH), 0);
    const std::vector<std::string> add{
        "add", "two", "socket-path=" + path("two.sock"), "null-size=2M", "--timeout=1"};
    EXPECT_NE(run(add, kRefused).err.find("cannot lock"), std::string::npos);
    ASSERT_EQ(::flock(directory.get(), LOCK_UN), 0);
    run(add, kDone);
    EXPECT_EQ(names(), (Names{"one", "two"}));
}

/// Otherwise the keeper, which is of that group, could not read it again.
TEST_F(CtlDevicesTest, AFileThatCannotStayItsOwnersIsNotChanged) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "takes root";
    }
    constexpr uid_t kNobody = 65534;
    start_as(kNobody, first());
    std::filesystem::copy_file(ctl_, path("ctl"));
    ASSERT_EQ(::chown(path("config").c_str(), 0, kNobody), 0);
    ASSERT_EQ(::chmod(path("config").c_str(), 0640), 0);
    ChildProcess ctl("/usr/bin/setpriv",
                     {.arguments = {"--reuid=65534",
                                    "--regid=65534",
                                    "--clear-groups",
                                    path("ctl"),
                                    "add",
                                    "two",
                                    "socket-path=" + path("two.sock"),
                                    "null-size=2M",
                                    "--socket=" + control_path()}});
    EXPECT_EQ(ctl.wait(), kRefused) << ctl.complained();
    EXPECT_NE(ctl.complained().find("ask as its owner"), std::string::npos) << ctl.complained();

    struct stat status {};

    ASSERT_EQ(::stat(path("config").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 0U);
    EXPECT_EQ(file(), first());
    EXPECT_EQ(names(), Names{"one"});
}

/// The name and the comment of the section behind stay.
TEST_F(CtlDevicesTest, ASectionInTheMiddleGoes) {
    const std::string middle =
        "[two]\nsocket-path = " + path("two.sock") + "\nnull-size = 2M\n; of two\n\n";
    const std::string last =
        "# three\n# is large\n[three]\nsocket-path=" + path("three.sock") + "\nnull-size=3M";
    start_with(first() + middle + last);
    run({"remove", "two"}, kDone);
    EXPECT_EQ(file(), first() + last);
    EXPECT_EQ(names(), (Names{"one", "three"}));
}

TEST_F(CtlDevicesTest, WhatCannotBeServedLeavesTheFileAsItWas) {
    start_with(first());
    ControlGuest guest = connect_to(path("one.sock"));
    const Said unknown =
        run({"add", "two", "socket-path=" + path("two.sock"), "colour=red"}, kRefused);
    EXPECT_EQ(unknown.out, "unchanged\n");
    EXPECT_NE(unknown.err.find("its file is as before"), std::string::npos) << unknown.err;
    EXPECT_TRUE(daemon_->wait_complained("colour")) << daemon_->complained();
    EXPECT_EQ(file(), first());
    // What it cannot open it finds when the program before has left.
    const Said missing = run(
        {"add", "two", "socket-path=" + path("two.sock"), "blk-file=" + path("none")}, kRolledBack);
    EXPECT_EQ(missing.out, "rolled-back\n");
    EXPECT_EQ(file(), first());
    // The last one cannot go.
    run({"remove", "one"}, kRefused);
    EXPECT_EQ(file(), first());
    EXPECT_EQ(names(), Names{"one"});
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

/// Who may read the file by a list of its own, like the keeper, may go on to.
TEST_F(CtlDevicesTest, TheAccessListOfTheFileStays) {
    start_with(first());
    // acl(5), as the kernel takes it: version 2; of the owner, user 65534, the group, the mask and
    // others.
    const std::vector<uint16_t> list{2,      0,      1,  6, 0xffff, 0xffff, 2,  4,
                                     65534,  0,      4,  4, 0xffff, 0xffff, 16, 4,
                                     0xffff, 0xffff, 32, 0, 0xffff, 0xffff};
    const size_t bytes = list.size() * sizeof list[0];
    constexpr const char* kAccess = "system.posix_acl_access";
    const std::string config = path("config");
    if (::setxattr(config.c_str(), kAccess, list.data(), bytes, 0) != 0 && errno == ENOTSUP) {
        GTEST_SKIP() << "this file system has no access lists";
    }
    run({"add", "two", "socket-path=" + path("two.sock"), "null-size=2M"}, kDone);
    std::vector<uint16_t> found(list.size() + 1);
    EXPECT_EQ(::getxattr(config.c_str(), kAccess, found.data(), found.size() * 2),
              static_cast<ssize_t>(bytes));
    found.resize(list.size());
    EXPECT_EQ(found, list);
}

/// What came meanwhile is somebody's, too.
TEST_F(CtlDevicesTest, WhatSomebodyElseHasWrittenMeanwhileStays) {
    start_with(first());
    const std::string theirs = first() + "shape = round\n";
    daemon_->send_signal(SIGSTOP);
    ChildProcess ctl(ctl_,
                     {.arguments = {"add",
                                    "two",
                                    "socket-path=" + path("two.sock"),
                                    "colour=red",
                                    "--socket=" + control_path()}});
    EXPECT_TRUE(eventually([&] { return file().find("colour") != std::string::npos; }));
    std::ofstream(path("config")) << theirs;
    daemon_->send_signal(SIGCONT);
    EXPECT_EQ(ctl.wait(), kRefused);
    EXPECT_NE(ctl.complained().find("changed by somebody else"), std::string::npos)
        << ctl.complained();
    EXPECT_EQ(file(), theirs);
    EXPECT_EQ(names(), Names{"one"});
}

TEST_F(CtlDevicesTest, WhatIsNoSectionIsRefused) {
    start_with(first());
    const auto expect = [&](const std::vector<std::string>& arguments,
                            const std::string& why,
                            const Ended& ended = kRefused) {
        const Said said = run(arguments, ended);
        EXPECT_NE(said.err.find(why), std::string::npos) << said.err;
    };
    expect({"add", "one", "null-size=1M"}, "there is a section [one] already");
    expect({"remove", "two"}, "there is no section [two]");
    expect({"add", "two", "null-size"}, "is not KEY=VALUE");
    expect({"add", "a b", "null-size=1M"}, "the name of a section");
    expect({"add", "two", "null-size=1M\n[three]\nnull-size=1M"}, "as a section of a file");
    expect({"add", "two]\n[three", "null-size=1M"}, "a file cannot say that");
    expect({"add", "two", "null-size=\"1M\""}, "as a section of a file");
    expect({"add", "two"}, "at least one KEY=VALUE", kUsage);
    expect({"remove"}, "remove takes NAME", kUsage);
    expect({"add", "two", "null-size=1M", "--device=one"}, "--device does not go with", kUsage);
    EXPECT_EQ(file(), first());
    EXPECT_EQ(names(), Names{"one"});
}

TEST_F(CtlDevicesTest, ADaemonWithoutAFileOrAKeeperSaysSo) {
    start({"--keeper=fork"});
    EXPECT_NE(run({"add", "two", "null-size=1M"}, kRefused).err.find("started without --config"),
              std::string::npos);
    daemon_->send_signal(SIGTERM);
    ASSERT_TRUE(daemon_->wait());
    start_with(first(), "none");
    EXPECT_NE(run({"remove", "one"}, kRefused).err.find("has no keeper"), std::string::npos);
    EXPECT_EQ(file(), first());
}

}  // namespace
}  // namespace outrigger::testing
