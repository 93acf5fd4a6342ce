// SPDX-License-Identifier: Apache-2.0
// What a process in namespaces of its own still reaches: each test lets one try.
#include "vhost-user-backend/daemon/namespaces.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/sandbox.h"
#include "vhost-user-backend/daemon/sanitizers.h"

#include "tests/unit/daemon/try_to_connect.h"

namespace outrigger {
namespace {

namespace fs = std::filesystem;

constexpr int kFine = 42;
constexpr int kLacking = 43;

/// What `body` returned, or -1.
int in_process_of_its_own(const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);  // a hang ends by a signal
        ::_exit(body());
    }
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// In a user namespace that has just been made: the one map that needs no capability outside.
bool can_write_map(uid_t user) {
    const std::string text = std::to_string(user) + " " + std::to_string(user) + " 1";
    std::ofstream file("/proc/self/uid_map");
    file << text << std::flush;
    return file.good();
}

/// In mounts of its own: nothing of what follows spreads to the host. In a chroot "/" is no mount,
/// and then that holds for the mount `path` alone, if there is one.
bool keep_mounts(const char* path) {
    const auto keep = [](const char* place) {
        return ::mount(nullptr, place, nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    };
    return keep("/") || (path != nullptr && keep(path));
}

/// Runs `body` in namespaces of its own, where this system lets us make them: that is asked of the
/// kernel, and not of what is tested. As ourselves and, as root, as another user.
void expect_isolated(const NamespacePlan& plan,
                     const std::function<int()>& body,
                     bool looked_into_by_nobody = false) {
    if (kSanitized) {
        GTEST_SKIP() << "the sanitizers look at /proc";
    }
    constexpr uid_t kNobody = 65534;
    for (const bool other_user : {false, true}) {
        const auto begin = [&] {
            const bool is_user = !other_user || (::setresgid(kNobody, kNobody, kNobody) == 0 &&
                                                 ::setresuid(kNobody, kNobody, kNobody) == 0);
            return is_user && ::prctl(PR_SET_DUMPABLE, looked_into_by_nobody ? 0 : 1) == 0;
        };
        if (other_user && ::geteuid() != 0) {
            continue;
        }
        const int possible = in_process_of_its_own([&] {
            const uid_t user = begin() ? ::geteuid() : 0;
            const bool own = ::unshare(CLONE_NEWNS) == 0 ||
                             (::prctl(PR_SET_DUMPABLE, 1) == 0 &&
                              ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && can_write_map(user));
            return own && keep_mounts("/proc") && ::mount("none", "/proc", "tmpfs", 0, nullptr) == 0
                       ? kFine
                       : 1;
        });
        const int ended = in_process_of_its_own([&] {
            const auto entered = begin() ? enter_own_namespaces(plan)
                                         : Result<OwnNamespaces>(failure(Error{.message = ""}));
            if (!entered) {
                return 1;
            }
            return entered->lack.empty() ? body() : kLacking;
        });
        EXPECT_EQ(ended, possible == kFine ? kFine : kLacking) << "other user: " << other_user;
    }
}

TEST(Namespaces, ThereIsNoNetworkButWhereItIsKept) {
    // Nobody listens at the port, and in a network of its own nothing leads there.
    expect_isolated({}, [] { return try_to_connect(9) == ENETUNREACH ? kFine : 2; });
    expect_isolated({.keeps_network = true},
                    [] { return try_to_connect(9) == ECONNREFUSED ? kFine : 2; });
}

TEST(Namespaces, TheRootIsEmptyAndCannotBeWritten) {
    expect_isolated({}, [] {
        return fs::is_empty("/") && ::mkdir("/x", 0700) != 0 && errno == EROFS ? kFine : 2;
    });
}

TEST(Namespaces, WhatIsVisibleKeepsItsNameAndNothingElseDoes) {
    std::string pattern = testing::TempDir() + "visible-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    const fs::path folder = pattern;
    for (const char* const name : {"one", "two"}) {
        ASSERT_TRUE(fs::create_directory(folder / name));
    }
    std::ofstream(folder / "file") << "text";
    // Every user may.
    for (const fs::path& path : {folder, folder / "one"}) {
        fs::permissions(path, fs::perms::all);
    }
    expect_isolated({.visible_paths = {folder / "one", folder / "file", folder / "one"}}, [&] {
        std::string text;
        std::ifstream(folder / "file") >> text;
        std::ofstream(folder / "one" / std::to_string(::geteuid())) << "there";
        return text == "text" && !fs::exists(folder / "two") ? kFine : 2;
    });
    EXPECT_EQ(fs::exists(folder / "one" / std::to_string(::geteuid())), !kSanitized);
    fs::remove_all(folder);
}

// A mount of the host's in a folder that is visible, made while a process is isolated: it comes,
// and what that process mounts does not go there. The host is a process with mounts of its own.
TEST(Namespaces, MountsOfTheHostComeAndNoneGoThere) {
    if (::geteuid() != 0 || kSanitized) {
        GTEST_SKIP() << "the host of this test mounts";
    }
    const int possible = in_process_of_its_own(
        [] { return ::unshare(CLONE_NEWNS) == 0 && keep_mounts(nullptr) ? kFine : 1; });
    if (possible != kFine) {
        GTEST_SKIP() << "no mounts here that the host of the machine would not see";
    }
    std::string pattern = testing::TempDir() + "mounts-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    const fs::path folder = pattern;
    const int ended = in_process_of_its_own([&] {
        if (::unshare(CLONE_NEWNS) != 0 || !keep_mounts(nullptr) ||
            ::mount("none", folder.c_str(), "tmpfs", 0, nullptr) != 0 ||
            ::mount(nullptr, folder.c_str(), nullptr, MS_SHARED, nullptr) != 0 ||
            !fs::create_directory(folder / "from-host") ||
            !fs::create_directory(folder / "from-there")) {
            return 1;
        }
        std::array<int, 2> there{};
        std::array<int, 2> here{};
        if (::pipe2(there.data(), O_CLOEXEC) != 0 || ::pipe2(here.data(), O_CLOEXEC) != 0) {
            return 2;
        }
        char byte = 0;
        const pid_t child = ::fork();
        if (child == 0) {
            const auto entered = enter_own_namespaces({.visible_paths = {folder}});
            if (!entered || !entered->lack.empty() ||
                ::mount("none", (folder / "from-there").c_str(), "tmpfs", 0, nullptr) != 0 ||
                ::mkdir((folder / "from-there/mark").c_str(), 0700) != 0 ||
                ::write(there[1], "x", 1) != 1 || ::read(here[0], &byte, 1) != 1) {
                ::_exit(1);
            }
            ::_exit(fs::exists(folder / "from-host/mark") ? kFine : 2);
        }
        ::close(there[1]);
        const bool is_isolated = ::read(there[0], &byte, 1) == 1;
        const bool stays = !fs::exists(folder / "from-there/mark");
        if (::mount("none", (folder / "from-host").c_str(), "tmpfs", 0, nullptr) != 0 ||
            ::mkdir((folder / "from-host/mark").c_str(), 0700) != 0 ||
            ::write(here[1], "x", 1) != 1) {
            return 3;
        }
        int status = 0;
        if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) {
            return 4;
        }
        return !is_isolated ? kLacking : stays ? WEXITSTATUS(status) : 5;
    });
    EXPECT_EQ(ended, kFine);
    fs::remove_all(folder);
}

TEST(Namespaces, AKeeperTakesMountsOfItsOwnWhereTheHostsSpread) {
    const auto take = [](unsigned long spread) {
        return in_process_of_its_own([spread] {
            if (::unshare(CLONE_NEWNS) != 0 || !keep_mounts(nullptr)) {
                return 1;
            }
            if (::mount(nullptr, "/", nullptr, MS_REC | spread, nullptr) != 0) {
                return 2;
            }
            const fs::path before = fs::read_symlink("/proc/self/ns/mnt");
            take_own_mounts();
            return fs::read_symlink("/proc/self/ns/mnt") != before ? kFine : kLacking;
        });
    };
    const int where_private = take(MS_PRIVATE);
    if (where_private == 1) {
        GTEST_SKIP() << "no mounts here that the host of the machine would not see";
    }
    EXPECT_EQ(where_private, kLacking);
    EXPECT_EQ(take(MS_SHARED), kFine);
}

// Whoever lets nobody look into it cannot write its own files in /proc.
TEST(Namespaces, NobodyMayLookIntoItAfterwardsEither) {
    expect_isolated(
        {}, [] { return ::prctl(PR_GET_DUMPABLE) == 0 ? kFine : 2; }, true);
}

// As on systems that let everybody have a user namespace and give no rights in it: from Linux 5.12
// on root is mapped by nobody who had not CAP_SETFCAP before.
TEST(Namespaces, OneThatNobodyCanBeMappedIntoIsALack) {
    if (::geteuid() != 0 || kSanitized) {
        GTEST_SKIP() << "only root can lose what it needs";
    }
    const auto give_up_capabilities = [] {
        __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
        std::array<__user_cap_data_struct, 2> none{};
        return ::syscall(SYS_capset, &header, none.data()) == 0;
    };
    const int mapped = in_process_of_its_own([&] {
        return give_up_capabilities() && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
                       can_write_map(0)
                   ? 1
                   : kFine;
    });
    if (mapped != kFine) {
        GTEST_SKIP() << "this kernel maps root for everybody";
    }
    const int ended = in_process_of_its_own([&] {
        const auto entered = give_up_capabilities()
                                 ? enter_own_namespaces({})
                                 : Result<OwnNamespaces>(failure(Error{.message = ""}));
        // Nothing has changed: a user namespace without a map has no user.
        return entered && !entered->lack.empty() && ::geteuid() == 0 && fs::exists("/proc/self")
                   ? kFine
                   : 1;
    });
    EXPECT_EQ(ended, kFine);
}

TEST(Namespaces, APathThatIsNotThereIsALackAndNoRoot) {
    const int ended = in_process_of_its_own([] {
        const auto entered = enter_own_namespaces({.visible_paths = {"/nowhere/at/all"}});
        return entered && !entered->lack.empty() ? kFine : 1;
    });
    EXPECT_EQ(ended, kFine);
}

TEST(Namespaces, StrictDoesNotStartWithoutWhatIsLacking) {
    const int ended = in_process_of_its_own([] {
        const SandboxExtras extras{.readable_paths = {"/nowhere/at/all"}};
        const auto dropped = drop_access(SandboxMode::kStrict, {}, extras);
        return !dropped && dropped.error().message.starts_with("--sandbox=strict: ") ? kFine : 1;
    });
    EXPECT_EQ(ended, kFine);
}

}  // namespace
}  // namespace outrigger
