// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/namespaces.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger {
namespace {

namespace fs = std::filesystem;

constexpr int kFieldOfMountPoint = 5;  // in mountinfo, from 1
constexpr unsigned long kMountFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
/// Where the new root is put together. It is everywhere, and nothing there is needed any more.
constexpr const char* kPlace = "/proc";

Result<void> write_file(const char* path, std::string_view text) {
    const UniqueFd file(::open(path, O_WRONLY | O_CLOEXEC));
    if (!file.valid() ||
        ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        return failure(error_from_errno(std::string("cannot write ") + path));
    }
    return {};
}

/// Files of /proc/self are root's, and not ours, in a process that nobody may look into. Until
/// destruction this one lets its own user.
class OwnFilesOfProc final {
  public:
    OwnFilesOfProc() : before_(::prctl(PR_GET_DUMPABLE)) { (void)::prctl(PR_SET_DUMPABLE, 1); }

    OwnFilesOfProc(const OwnFilesOfProc&) = delete;
    OwnFilesOfProc& operator=(const OwnFilesOfProc&) = delete;
    OwnFilesOfProc(OwnFilesOfProc&&) = delete;
    OwnFilesOfProc& operator=(OwnFilesOfProc&&) = delete;

    ~OwnFilesOfProc() {
        if (before_ == 0) {
            (void)::prctl(PR_SET_DUMPABLE, 0);
        }
    }

  private:
    int before_;
};

/// Our user and group keep their numbers.
Result<void> map_ourselves(uid_t user, gid_t group) {
    const OwnFilesOfProc own_files;
    OUTRIGGER_TRY(write_file("/proc/self/setgroups", "deny"));
    const std::string user_text = std::to_string(user);
    const std::string group_text = std::to_string(group);
    OUTRIGGER_TRY(write_file("/proc/self/uid_map", user_text + " " + user_text + " 1"));
    return write_file("/proc/self/gid_map", group_text + " " + group_text + " 1");
}

/// Whether a user namespace of our own is of use. Some systems let everybody make one and no rights
/// come with it, and nobody who is in one gets out again: another process tries.
bool can_use_own_user(int flags, uid_t user, gid_t group) {
    const pid_t child = ::fork();
    if (child == 0) {
        const bool can = ::unshare(flags | CLONE_NEWUSER) == 0 && map_ourselves(user, group) &&
                         ::mount("none", kPlace, "tmpfs", kMountFlags, nullptr) == 0;
        ::_exit(can ? 0 : 1);
    }
    int status = -1;
    pid_t ended = -1;
    while (child > 0 && (ended = ::waitpid(child, &status, 0)) < 0 && errno == EINTR) {
    }
    return child > 0 && ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

uid_t overflow_user() {
    constexpr uid_t kUsual = 65534;
    uid_t user = kUsual;
    std::ifstream file("/proc/sys/kernel/overflowuid");
    return file >> user ? user : kUsual;
}

/// What is mounted at `path`, and below, does not spread; what the host mounts or unmounts there
/// later still comes and goes here, too, so that nothing of it is kept busy. False: `path` is no
/// mount.
bool keep_mounts_to_ourselves(const char* path) {
    return ::mount(nullptr, path, nullptr, MS_SLAVE | MS_REC, nullptr) == 0;
}

/// Does what is mounted below "/" spread? In a chroot "/" is no mount, and others would see us
/// under other names. A copy of a private one would see nothing that the host mounts later, and
/// hold what it unmounts.
bool is_root_shared() {
    std::ifstream mounts("/proc/self/mountinfo");
    bool is_shared = false;  // by the last one that covers it
    for (std::string line; std::getline(mounts, line);) {
        std::istringstream fields(line);
        std::string field;
        for (int i = 0; i < kFieldOfMountPoint; ++i) {
            fields >> field;
        }
        if (field == "/") {
            is_shared = false;
            while (fields >> field && field != "-") {
                is_shared = is_shared || field.starts_with("shared:");
            }
        }
    }
    return is_shared;
}

/// The working directory becomes the root, and the old root goes; but a process that begins in a
/// chroot has no mount to exchange, and then only leaves its root behind. It has no descriptor of
/// that and loses the right to change its root.
bool enter_root() {
    if (::syscall(SYS_pivot_root, ".", ".") == 0) {
        return ::umount2(".", MNT_DETACH) == 0;
    }
    return errno == EINVAL && ::chroot(".") == 0;
}

/// At its own name below kPlace.
bool show(const fs::path& path) {
    struct stat status {};

    if (::stat(path.c_str(), &status) != 0) {
        return false;
    }
    const fs::path to = kPlace / path.relative_path();
    const bool is_directory = S_ISDIR(status.st_mode);
    std::error_code error;
    fs::create_directories(is_directory ? to : to.parent_path(), error);
    if (!is_directory && !UniqueFd(::open(to.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0)).valid()) {
        return false;
    }
    // With all that is mounted below: what covers something must go on to cover it. In a chroot,
    // whose "/" is no mount, it is the host's peer until it is told not to be.
    return !error && ::mount(path.c_str(), to.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0 &&
           keep_mounts_to_ourselves(to.c_str());
}

/// Why not; empty: it is made.
std::string make_root(const NamespacePlan& plan, const fs::path& directory) {
    // In a chroot "/" is no mount, and then it is enough that nothing spreads from kPlace.
    if ((!keep_mounts_to_ourselves("/") && !keep_mounts_to_ourselves(kPlace)) ||
        ::mount("none", kPlace, "tmpfs", kMountFlags, "mode=0755,size=64k,nr_inodes=1k") != 0) {
        return error_from_errno("no root directory of its own").message;
    }
    for (const std::string& each : plan.visible_paths) {
        const fs::path path(each);
        if (!show((path.is_absolute() ? path : directory / path).lexically_normal())) {
            return error_from_errno("no root directory of its own, with " + each).message;
        }
    }
    if (!plan.visible_paths.empty()) {
        std::error_code error;  // relative names go on to be what they are, where they are of use
        fs::create_directories(kPlace / directory.relative_path(), error);
    }
    if (::mount(
            nullptr, kPlace, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kMountFlags, nullptr) !=
        0) {
        return error_from_errno("no root directory of its own").message;
    }
    return {};
}

}  // namespace

Result<OwnNamespaces> enter_own_namespaces(const NamespacePlan& plan) {
    OwnNamespaces entered;
    // The sanitizers look at /proc when they report.
    if (kSanitized) {
        entered.lack = "no namespaces in a build with sanitizers";
        return entered;
    }
    const uid_t user = ::geteuid();
    const gid_t group = ::getegid();
    const uid_t others = overflow_user();
    std::error_code error;
    const fs::path directory = fs::current_path(error);
    const int flags =
        CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (plan.keeps_network ? 0 : CLONE_NEWNET);
    if (::unshare(flags) != 0) {
        entered.lack = error_from_errno("no namespaces of its own").message;
        if (errno != EPERM || plan.shows_owners || !can_use_own_user(flags, user, group)) {
            return entered;
        }
        if (::unshare(flags | CLONE_NEWUSER) != 0) {
            return entered;
        }
        entered.lack.clear();
        OUTRIGGER_TRY(map_ourselves(user, group));
        entered.others_look_like = others;
    }
    entered.lack = make_root(plan, directory);
    if (!entered.lack.empty()) {
        return entered;
    }
    if (::chdir(kPlace) != 0 || !enter_root() || ::chdir("/") != 0) {
        return failure(error_from_errno("cannot make the root directory an empty one"));
    }
    (void)!::chdir(directory.c_str());
    return entered;
}

void take_own_mounts() {
    if (is_root_shared() && ::unshare(CLONE_NEWNS) == 0) {
        (void)keep_mounts_to_ourselves("/");
    }
}

}  // namespace outrigger
