// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/random/tree_snapshot.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace outrigger::randomops {
namespace {

constexpr int kDepthMax = 40;

std::string hash_of_file(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return ::strerrorname_np(errno);
    }
    uint64_t hash = 0xcbf29ce484222325U;
    std::array<char, 65536> piece{};
    ssize_t count = 0;
    while ((count = ::read(fd, piece.data(), piece.size())) > 0) {
        for (ssize_t i = 0; i < count; ++i) {
            hash =
                (hash ^ static_cast<unsigned char>(piece[static_cast<size_t>(i)])) * 0x100000001b3U;
        }
    }
    const std::string trouble = count < 0 ? ::strerrorname_np(errno) : "";
    ::close(fd);
    return std::to_string(hash) + trouble;
}

std::string attributes_of(const std::string& path) {
    std::string names(65536, '\0');
    const ssize_t count = ::llistxattr(path.c_str(), names.data(), names.size());
    std::vector<std::string> found;
    for (ssize_t at = 0; at < count;) {
        const std::string name = names.c_str() + at;
        at += static_cast<ssize_t>(name.size()) + 1;
        if (name.starts_with("user.")) {
            std::string value(65536, '\0');
            const ssize_t size =
                ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
            found.push_back(name + "=" + value.substr(0, size > 0 ? static_cast<size_t>(size) : 0));
        }
    }
    std::ranges::sort(found);
    std::string out;
    for (const std::string& one : found) {
        out += " " + one;
    }
    return out;
}

std::string line_of(const std::string& path, const std::string& name) {
    struct stat status {};

    if (::lstat(path.c_str(), &status) != 0) {
        return name + ": " + ::strerrorname_np(errno);
    }
    std::array<char, 96> text{};
    std::snprintf(text.data(),
                  text.size(),
                  ": %06o %u:%u links %lu",
                  status.st_mode,
                  status.st_uid,
                  status.st_gid,
                  static_cast<unsigned long>(status.st_nlink));
    std::string line = name + text.data();
    if (S_ISREG(status.st_mode)) {
        line += " size " + std::to_string(status.st_size) + " " + hash_of_file(path);
    } else if (S_ISLNK(status.st_mode)) {
        std::array<char, 4096> target{};
        const ssize_t count = ::readlink(path.c_str(), target.data(), target.size());
        line += " to " + std::string(target.data(), count > 0 ? static_cast<size_t>(count) : 0);
    }
    return line + attributes_of(path);
}

void collect(const std::string& root,
             const std::string& below,
             int depth,
             std::vector<std::string>& lines) {
    DIR* const directory = ::opendir((root + below).c_str());
    if (directory == nullptr || depth > kDepthMax) {
        lines.push_back(below + ": cannot be listed");
        return;
    }
    std::vector<std::string> children;
    while (const dirent* const entry = ::readdir(directory)) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") {
            continue;
        }
        lines.push_back(line_of(root + below + "/" + name, below + "/" + name));

        struct stat status {};

        if (::lstat((root + below + "/" + name).c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
            children.push_back(below + "/" + name);
        }
    }
    ::closedir(directory);
    for (const std::string& child : children) {
        collect(root, child, depth + 1, lines);
    }
}

}  // namespace

std::vector<std::string> snapshot_of(const std::string& root) {
    std::vector<std::string> lines;
    collect(root, "", 0, lines);
    std::ranges::sort(lines);
    return lines;
}

std::string first_difference(const std::vector<std::string>& here,
                             const std::vector<std::string>& there) {
    for (size_t i = 0; i < std::max(here.size(), there.size()); ++i) {
        const std::string left = i < here.size() ? here[i] : "(nothing)";
        const std::string right = i < there.size() ? there[i] : "(nothing)";
        if (left != right) {
            return left + " | " + right;
        }
    }
    return {};
}

}  // namespace outrigger::randomops
