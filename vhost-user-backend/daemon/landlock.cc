// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/landlock.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger {
namespace {

// The headers of Linux 6.1 end at ABI 2; the kernel that runs may be newer. Values of the kernel's
// stable interface.
constexpr uint64_t kFsRefer = 1ULL << 13;                 // ABI 2
constexpr uint64_t kFsTruncate = 1ULL << 14;              // ABI 3
constexpr uint64_t kFsIoctlDev = 1ULL << 15;              // ABI 5
constexpr uint64_t kNetBindAndConnectTcp = 0b11;          // ABI 4
constexpr uint64_t kScopeAbstractSocketAndSignal = 0b11;  // ABI 6

/// struct landlock_ruleset_attr as of ABI 6. An older kernel takes the longer form as long as what
/// it does not know is 0.
struct RulesetAttributes {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

static_assert(offsetof(RulesetAttributes, handled_access_fs) ==
              offsetof(landlock_ruleset_attr, handled_access_fs));

// The C library has no functions for these.

int landlock_abi() {
    return static_cast<int>(
        ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION));
}

int create_ruleset(const RulesetAttributes& attributes) {
    return static_cast<int>(
        ::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0));
}

constexpr uint64_t kOfFileContents =
    LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | kFsTruncate;

RulesetAttributes everything_of(int abi) {
    constexpr uint64_t kAbi1 = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    RulesetAttributes all{};
    all.handled_access_fs = kAbi1 | (abi >= 2 ? kFsRefer : 0) | (abi >= 3 ? kFsTruncate : 0) |
                            (abi >= 5 ? kFsIoctlDev : 0);
    all.handled_access_net = abi >= 4 ? kNetBindAndConnectTcp : 0;
    all.scoped = abi >= 6 ? kScopeAbstractSocketAndSignal : 0;
    return all;
}

/// A ruleset, and what it is about: no rule may speak of anything else.
struct Ruleset {
    UniqueFd fd;
    uint64_t handled = 0;
};

Result<void> allow_below(const Ruleset& ruleset, int directory, uint64_t access) {
    landlock_path_beneath_attr rule{};
    rule.allowed_access = access & ruleset.handled;
    rule.parent_fd = directory;
    if (rule.allowed_access == 0) {
        return {};
    }
    if (::syscall(SYS_landlock_add_rule, ruleset.fd.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) !=
        0) {
        return failure(error_from_errno("cannot except a directory from Landlock"));
    }
    return {};
}

/// But for running programs. `place` may be a file: then what one can do to it.
Result<void> allow_everything_below(const Ruleset& ruleset, int place, int abi) {
    struct stat status = {};
    if (::fstat(place, &status) != 0) {
        return failure(error_from_errno("cannot except a directory from Landlock"));
    }
    constexpr uint64_t kOfFiles =
        LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | kFsTruncate | kFsIoctlDev;
    const uint64_t all =
        everything_of(abi).handled_access_fs & ~uint64_t{LANDLOCK_ACCESS_FS_EXECUTE};
    return allow_below(ruleset, place, S_ISDIR(status.st_mode) ? all : all & kOfFiles);
}

/// struct landlock_net_port_attr, of ABI 4.
struct NetPortAttributes {
    uint64_t allowed_access;
    uint64_t port;
};

Result<void> allow_connecting(const Ruleset& ruleset, uint16_t port) {
    constexpr int kRuleNetPort = 2;
    constexpr uint64_t kConnectTcp = 0b10;
    const NetPortAttributes rule{.allowed_access = kConnectTcp, .port = port};
    if (::syscall(SYS_landlock_add_rule, ruleset.fd.get(), kRuleNetPort, &rule, 0) != 0) {
        return failure(error_from_errno("cannot except a TCP port from Landlock"));
    }
    return {};
}

Result<void> allow_reading_path(const Ruleset& ruleset, const std::string& path) {
    const UniqueFd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
    struct stat status = {};
    if (!place.valid() || ::fstat(place.get(), &status) != 0) {
        return failure(error_from_errno("cannot open " + path));
    }
    return allow_below(
        ruleset,
        place.get(),
        LANDLOCK_ACCESS_FS_READ_FILE | (S_ISDIR(status.st_mode) ? LANDLOCK_ACCESS_FS_READ_DIR : 0));
}

Result<void> allow_below_path(const Ruleset& ruleset, const std::string& path, uint64_t access) {
    const UniqueFd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) {
        return failure(error_from_errno("cannot open " + path));
    }
    return allow_below(ruleset, directory.get(), access);
}

/// Shared memory that is made by a name, and loses it at once: see seccomp_policy.cc.
Result<void> allow_named_memory(const Ruleset& ruleset, int abi) {
    const UniqueFd directory(::open("/dev/shm", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) {
        return failure(error_from_errno("cannot open /dev/shm"));
    }
    return allow_below(ruleset,
                       directory.get(),
                       LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_READ_FILE |
                           LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                           (abi >= 3 ? kFsTruncate : 0));
}

/// Sanitizers read the process's own state, and programs for the names of functions, when they have
/// something to report.
Result<void> allow_reading(const Ruleset& ruleset) {
    const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root.valid()) {
        return failure(error_from_errno("cannot open /"));
    }
    return allow_below(
        ruleset, root.get(), LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR);
}

}  // namespace

Result<bool> restrict_by_landlock(std::span<const int> removable_below,
                                  const SandboxExtras& extras) {
    const int abi = landlock_abi();
    // The kernel does not have it, has it switched off, or a container's filter forbids it.
    if (abi < 0 && (errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM)) {
        log(LogLevel::kWarning,
            "sandbox: {}: the system call filter stands alone, and socket files stay behind",
            error_from_errno("there is no Landlock here").message);
        return false;
    }
    RulesetAttributes restricted = everything_of(abi);
    if (extras.any_tcp) {
        restricted.handled_access_net = 0;
    }
    if (extras.opens_by_handle) {
        restricted.handled_access_fs &= ~kOfFileContents;
    }
    const Ruleset ruleset{.fd = UniqueFd(abi < 1 ? -1 : create_ruleset(restricted)),
                          .handled = restricted.handled_access_fs};
    if (!ruleset.fd.valid()) {
        return failure(error_from_errno("cannot create a Landlock ruleset"));
    }
    for (const int directory : removable_below) {
        OUTRIGGER_TRY(allow_below(ruleset, directory, LANDLOCK_ACCESS_FS_REMOVE_FILE));
    }
    for (const std::string& path : extras.readable_paths) {
        OUTRIGGER_TRY(allow_reading_path(ruleset, path));
    }
    for (const int tree : extras.writable_trees) {
        OUTRIGGER_TRY(allow_everything_below(ruleset, tree, abi));
    }
    for (const std::string& path : extras.removable_directories) {
        OUTRIGGER_TRY(allow_below_path(ruleset, path, LANDLOCK_ACCESS_FS_REMOVE_FILE));
    }
    for (const std::string& path : extras.writable_directories) {
        OUTRIGGER_TRY(allow_below_path(ruleset,
                                       path,
                                       LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                           LANDLOCK_ACCESS_FS_REMOVE_FILE));
    }
    if (abi >= 4 && !extras.any_tcp) {
        for (const uint16_t port : extras.connect_tcp_ports) {
            OUTRIGGER_TRY(allow_connecting(ruleset, port));
        }
    }
    if (kPortableBuild) {
        OUTRIGGER_TRY(allow_named_memory(ruleset, abi));
    }
    if (kSanitized) {
        OUTRIGGER_TRY(allow_reading(ruleset));
    }
    if (::syscall(SYS_landlock_restrict_self, ruleset.fd.get(), 0) != 0) {
        return failure(error_from_errno("cannot enter the Landlock ruleset"));
    }
    log(LogLevel::kDebug, "sandbox: Landlock ABI {}", abi);
    return true;
}

}  // namespace outrigger
