// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/random/operations.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace outrigger::randomops {
namespace {

constexpr size_t kOpenMax = 24;
constexpr uint32_t kFileBytesMax = 300'000;

Outcome outcome(long result) {
    return {.result = result < 0 ? -1 : result, .error = result < 0 ? errno : 0};
}

/// Few names, so that they meet.
std::string random_path(Dice& dice) {
    std::string path;
    for (uint32_t depth = dice.below(3); depth > 0; --depth) {
        path += std::string("dir") + static_cast<char>('0' + dice.below(3)) + "/";
    }
    constexpr std::string_view kNames = "abcdefgh";
    return dice.one_in(4) ? path + "dir" + static_cast<char>('0' + dice.below(3))
                          : path + kNames[dice.below(kNames.size())];
}

std::string status_text(const struct stat& status) {
    std::array<char, 96> text{};
    std::snprintf(text.data(),
                  text.size(),
                  "%06o %u:%u links %lu",
                  status.st_mode,
                  status.st_uid,
                  status.st_gid,
                  static_cast<unsigned long>(status.st_nlink));
    return S_ISDIR(status.st_mode) ? text.data()
                                   : text.data() + (" size " + std::to_string(status.st_size));
}

std::string bytes_for(uint32_t seed, size_t count) {
    std::string out(count, '\0');
    uint32_t state = seed;
    for (char& c : out) {
        state = state * 1664525U + 1013904223U;
        c = static_cast<char>(state >> 24);
    }
    return out;
}

uint64_t hash_of(std::string_view bytes) {
    uint64_t hash = 0xcbf29ce484222325U;
    for (const char c : bytes) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    }
    return hash;
}

// --- Names -------------------------------------------------------------------------------------

bool open_file(Twin& twin, Dice& dice) {
    if (twin.open_files() >= kOpenMax) {
        return true;
    }
    const std::string path = random_path(dice);
    constexpr std::array kAccess = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR};
    constexpr std::array kMore = {
        0, O_CREAT, O_CREAT | O_TRUNC, O_CREAT | O_EXCL, O_TRUNC, O_APPEND | O_CREAT, O_NOFOLLOW};
    const int flags = kAccess[dice.below(kAccess.size())] | kMore[dice.below(kMore.size())];
    const mode_t mode = 0600 | (dice.below(64));
    return twin.both("open " + path + " " + std::to_string(flags), [&](Twin::Side& side) {
        // Fifos would wait for each other.
        const int fd = ::openat(side.root, path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, mode);
        const Outcome got = outcome(fd < 0 ? -1 : 0);
        if (fd >= 0) {
            side.files.push_back(fd);
        }
        return got;
    });
}

bool make_nameless(Twin& twin, Dice& dice) {
    if (twin.open_files() >= kOpenMax) {
        return true;
    }
    const bool in_directory = dice.one_in(2);
    return twin.both("tmpfile", [&](Twin::Side& side) {
        const int fd =
            ::openat(side.root, in_directory ? "dir0" : ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
        const Outcome got = outcome(fd < 0 ? -1 : 0);
        if (fd >= 0) {
            side.files.push_back(fd);
        }
        return got;
    });
}

bool make_name(Twin& twin, Dice& dice) {
    const std::string path = random_path(dice);
    const std::string target = random_path(dice);
    const mode_t mode = 0700 | dice.below(512);
    switch (dice.below(4)) {
        case 0:
            return twin.both("mkdir " + path, [&](Twin::Side& side) {
                return outcome(::mkdirat(side.root, path.c_str(), mode));
            });
        case 1:
            return twin.both("symlink " + path + " to " + target, [&](Twin::Side& side) {
                return outcome(::symlinkat(target.c_str(), side.root, path.c_str()));
            });
        case 2:
            return twin.both("mkfifo " + path, [&](Twin::Side& side) {
                return outcome(::mkfifoat(side.root, path.c_str(), mode));
            });
        default:
            return twin.both("link " + target + " as " + path, [&](Twin::Side& side) {
                return outcome(::linkat(side.root, target.c_str(), side.root, path.c_str(), 0));
            });
    }
}

bool remove_name(Twin& twin, Dice& dice) {
    const std::string path = random_path(dice);
    const int flags = dice.one_in(3) ? AT_REMOVEDIR : 0;
    return twin.both((flags != 0 ? "rmdir " : "unlink ") + path, [&](Twin::Side& side) {
        return outcome(::unlinkat(side.root, path.c_str(), flags));
    });
}

bool rename_name(Twin& twin, Dice& dice) {
    const std::string from = random_path(dice);
    const std::string to = random_path(dice);
    constexpr std::array kFlags = {0U, 0U, 0U, RENAME_NOREPLACE + 0U, RENAME_EXCHANGE + 0U};
    const unsigned flags = kFlags[dice.below(kFlags.size())];
    return twin.both(
        "rename " + from + " to " + to + " " + std::to_string(flags), [&](Twin::Side& side) {
            return outcome(::renameat2(side.root, from.c_str(), side.root, to.c_str(), flags));
        });
}

// --- Attributes --------------------------------------------------------------------------------

bool look_at(Twin& twin, Dice& dice) {
    const std::string path = random_path(dice);
    const int flags = dice.one_in(2) ? AT_SYMLINK_NOFOLLOW : 0;
    return twin.both("stat " + path, [&](Twin::Side& side) {
        struct stat status {};
        Outcome got = outcome(::fstatat(side.root, path.c_str(), &status, flags));
        got.detail = got.result == 0 ? status_text(status) : "";
        return got;
    });
}

bool change_mode(Twin& twin, Dice& dice) {
    const std::string path = random_path(dice);
    const mode_t special = dice.one_in(4) ? dice.below(8) << 9 : 0;
    const mode_t mode = 0600 | dice.below(01000) | special;
    return twin.both("chmod " + path + " " + std::to_string(mode), [&](Twin::Side& side) {
        return outcome(::fchmodat(side.root, path.c_str(), mode, 0));
    });
}

bool change_owner(Twin& twin, Dice& dice) {
    if (::geteuid() != 0) {
        return true;
    }
    const std::string path = random_path(dice);
    const uid_t uid = dice.one_in(3) ? static_cast<uid_t>(-1) : 41000 + dice.below(3);
    const gid_t gid = dice.one_in(3) ? static_cast<gid_t>(-1) : 41000 + dice.below(3);
    if (uid == static_cast<uid_t>(-1) && gid == static_cast<gid_t>(-1)) {
        // It takes set-user-id away, and Linux does not tell a share that takes care of that
        // itself.
        return true;
    }
    return twin.both("chown " + path, [&](Twin::Side& side) {
        return outcome(::fchownat(side.root, path.c_str(), uid, gid, AT_SYMLINK_NOFOLLOW));
    });
}

bool set_times(Twin& twin, Dice& dice) {
    const std::string path = random_path(dice);
    const timespec when{.tv_sec = dice.below(2'000'000'000), .tv_nsec = dice.below(1'000'000'000)};
    const std::array times = {timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, when};
    return twin.both("utimens " + path, [&](Twin::Side& side) {
        Outcome got =
            outcome(::utimensat(side.root, path.c_str(), times.data(), AT_SYMLINK_NOFOLLOW));
        struct stat status {};
        if (got.result == 0 &&
            ::fstatat(side.root, path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
            got.detail = std::to_string(status.st_mtim.tv_sec) + "." +
                         std::to_string(status.st_mtim.tv_nsec);
        }
        return got;
    });
}

bool change_attribute(Twin& twin, Dice& dice) {
    if (twin.open_files() == 0) {
        return true;
    }
    const size_t which = dice.below(static_cast<uint32_t>(twin.open_files()));
    const std::string name = std::string("user.") + static_cast<char>('a' + dice.below(4));
    const std::string value = bytes_for(dice.below(1000), dice.below(60));
    const std::string of = " " + name + " of open file " + std::to_string(which);
    switch (dice.below(3)) {
        case 0:
            return twin.both("setxattr" + of, [&](Twin::Side& side) {
                return outcome(
                    ::fsetxattr(side.files[which], name.c_str(), value.data(), value.size(), 0));
            });
        case 1:
            return twin.both("getxattr" + of, [&](Twin::Side& side) {
                std::string room(100, '\0');
                Outcome got =
                    outcome(::fgetxattr(side.files[which], name.c_str(), room.data(), room.size()));
                got.detail = got.result > 0 ? std::to_string(hash_of(room)) : "";
                return got;
            });
        default:
            return twin.both("removexattr" + of, [&](Twin::Side& side) {
                return outcome(::fremovexattr(side.files[which], name.c_str()));
            });
    }
}

// --- Data --------------------------------------------------------------------------------------

bool close_file(Twin& twin, Dice& dice) {
    if (twin.open_files() == 0) {
        return true;
    }
    const size_t which = dice.below(static_cast<uint32_t>(twin.open_files()));
    return twin.both("close open file " + std::to_string(which), [&](Twin::Side& side) {
        const Outcome got = outcome(::close(side.files[which]));
        side.files.erase(side.files.begin() + static_cast<std::ptrdiff_t>(which));
        return got;
    });
}

bool transfer(Twin& twin, Dice& dice) {
    if (twin.open_files() == 0) {
        return true;
    }
    const size_t which = dice.below(static_cast<uint32_t>(twin.open_files()));
    const auto offset = static_cast<off_t>(dice.below(kFileBytesMax));
    const size_t length = dice.one_in(20) ? dice.below(kFileBytesMax) : dice.below(9000);
    const std::string where = " open file " + std::to_string(which) + " at " +
                              std::to_string(offset) + " for " + std::to_string(length);
    if (dice.one_in(2)) {
        const std::string bytes = bytes_for(dice.below(1U << 30), length);
        return twin.both("write" + where, [&](Twin::Side& side) {
            return outcome(::pwrite(side.files[which], bytes.data(), bytes.size(), offset));
        });
    }
    return twin.both("read" + where, [&](Twin::Side& side) {
        std::string room(length, '\0');
        Outcome got = outcome(::pread(side.files[which], room.data(), room.size(), offset));
        got.detail = got.result > 0 ? std::to_string(hash_of(room)) : "";
        return got;
    });
}

bool change_extent(Twin& twin, Dice& dice) {
    if (twin.open_files() == 0) {
        return true;
    }
    const size_t which = dice.below(static_cast<uint32_t>(twin.open_files()));
    const auto offset = static_cast<off_t>(dice.below(kFileBytesMax));
    const auto length = static_cast<off_t>(1 + dice.below(40'000));
    const std::string where =
        " open file " + std::to_string(which) + " at " + std::to_string(offset);
    constexpr std::array kModes = {
        0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
    const int mode = kModes[dice.below(kModes.size())];
    switch (dice.below(4)) {
        case 0:
            return twin.both("ftruncate" + where, [&](Twin::Side& side) {
                return outcome(::ftruncate(side.files[which], offset));
            });
        case 1:
            return twin.both("fallocate " + std::to_string(mode) + where, [&](Twin::Side& side) {
                return outcome(::fallocate(side.files[which], mode, offset, length));
            });
        case 2:
            return twin.both("fsync" + where,
                             [&](Twin::Side& side) { return outcome(::fsync(side.files[which])); });
        default:
            return twin.both("fstat" + where, [&](Twin::Side& side) {
                struct stat status {};
                Outcome got = outcome(::fstat(side.files[which], &status));
                got.detail = got.result == 0 ? status_text(status) : "";
                return got;
            });
    }
}

bool copy_range(Twin& twin, Dice& dice) {
    if (twin.open_files() < 2) {
        return true;
    }
    const size_t from = dice.below(static_cast<uint32_t>(twin.open_files()));
    const size_t to = dice.below(static_cast<uint32_t>(twin.open_files()));
    const loff_t from_offset = dice.below(kFileBytesMax);
    const loff_t to_offset = dice.below(kFileBytesMax);
    const size_t length = 1 + dice.below(50'000);
    return twin.both(
        "copy " + std::to_string(from) + " to " + std::to_string(to), [&](Twin::Side& side) {
            loff_t source = from_offset;
            loff_t target = to_offset;
            return outcome(
                ::copy_file_range(side.files[from], &source, side.files[to], &target, length, 0));
        });
}

bool list_directory(Twin& twin, Dice& dice) {
    const std::string path = dice.one_in(3) ? "." : random_path(dice);
    return twin.both("list " + path, [&](Twin::Side& side) {
        const int fd = ::openat(side.root, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR* const directory = fd < 0 ? nullptr : ::fdopendir(fd);
        if (directory == nullptr) {
            return outcome(-1);
        }
        std::vector<std::string> names;
        while (const dirent* const entry = ::readdir(directory)) {
            names.push_back(std::string(entry->d_name) + "/" + std::to_string(entry->d_type));
        }
        ::closedir(directory);
        std::ranges::sort(names);
        Outcome got;
        for (const std::string& name : names) {
            got.detail += name + " ";
        }
        return got;
    });
}

}  // namespace

bool step(Twin& twin, Dice& dice) {
    using Operation = bool (*)(Twin&, Dice&);
    // As often as it stands here.
    constexpr std::array<Operation, 24> kOperations = {
        open_file,  open_file,   open_file,    make_nameless, make_name,        make_name,
        make_name,  remove_name, remove_name,  rename_name,   rename_name,      look_at,
        look_at,    change_mode, change_owner, set_times,     change_attribute, close_file,
        close_file, transfer,    transfer,     transfer,      change_extent,    copy_range};
    if (dice.one_in(20)) {
        return list_directory(twin, dice);
    }
    return kOperations[dice.below(kOperations.size())](twin, dice);
}

}  // namespace outrigger::randomops
