// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/posix/trial.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dirent.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

namespace outrigger::posix {
namespace {

std::vector<const Case*>& cases() {
    static std::vector<const Case*> list;
    return list;
}

std::string name_of_type(mode_t mode) {
    switch (mode & S_IFMT) {
        case S_IFREG:
            return "file";
        case S_IFDIR:
            return "directory";
        case S_IFLNK:
            return "symlink";
        case S_IFIFO:
            return "fifo";
        case S_IFSOCK:
            return "socket";
        case S_IFCHR:
            return "character device";
        case S_IFBLK:
            return "block device";
        default:
            return "nothing known";
    }
}

std::string octal(mode_t mode) {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "%04o", mode & 07777);
    return text.data();
}

}  // namespace

std::string name_of_result(long result, int error) {
    if (result >= 0) {
        return std::to_string(result);
    }
    const char* const name = ::strerrorname_np(error);
    return name != nullptr ? name : "errno " + std::to_string(error);
}

int File::close() {
    const int fd = std::exchange(fd_, -1);
    return fd >= 0 ? ::close(fd) : 0;
}

void Trial::say(const std::string& line) const {
    const std::string whole = line + "\n";
    // One write, because children write to the same end.
    if (::write(log_fd_, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) {
        std::abort();
    }
}

void Trial::say(std::string_view what, const std::string& value) const {
    say(std::string(what) + ": " + value);
}

long Trial::did(std::string_view what, long result) const {
    const int error = errno;
    say(what, name_of_result(result, error));
    errno = error;
    return result;
}

File Trial::open(const std::string& path, int flags, mode_t mode) const {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    const int error = errno;
    say("open " + path, fd >= 0 ? "good" : name_of_result(fd, error));
    errno = error;
    return File(fd);
}

bool Trial::make(const std::string& path, std::string_view content, mode_t mode) const {
    const File file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (file.fd() < 0) {
        did("make " + path, -1);
        return false;
    }
    while (!content.empty()) {
        const ssize_t count = ::write(file.fd(), content.data(), content.size());
        if (count <= 0) {
            did("fill " + path, count);
            return false;
        }
        content.remove_prefix(static_cast<size_t>(count));
    }
    return true;
}

bool Trial::make_directory(const std::string& path, mode_t mode) const {
    if (::mkdir(path.c_str(), mode) != 0) {
        did("make directory " + path, -1);
        return false;
    }
    return true;
}

void Trial::look(const std::string& path) const {
    struct stat status {};

    if (::lstat(path.c_str(), &status) != 0) {
        did("look " + path, -1);
        return;
    }
    std::string line = "look " + path + ": " + name_of_type(status.st_mode) + " " +
                       octal(status.st_mode) + " links " + std::to_string(status.st_nlink) +
                       " owner " + std::to_string(status.st_uid) + ":" +
                       std::to_string(status.st_gid);
    if (S_ISREG(status.st_mode) || S_ISLNK(status.st_mode)) {
        line += " size " + std::to_string(status.st_size);
    }
    if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
        line += " number " + std::to_string(major(status.st_rdev)) + ":" +
                std::to_string(minor(status.st_rdev));
    }
    say(line);
}

void Trial::list(const std::string& path) const {
    DIR* const directory = ::opendir(path.c_str());
    if (directory == nullptr) {
        did("list " + path, -1);
        return;
    }
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* const entry = ::readdir(directory)) {
        names.push_back(std::string(entry->d_name) + "/" + std::to_string(entry->d_type));
    }
    if (errno != 0) {
        did("readdir " + path, -1);
    }
    ::closedir(directory);
    std::ranges::sort(names);
    std::string line;
    for (const std::string& name : names) {
        line += (line.empty() ? "" : " ") + name;
    }
    say("list " + path,
        line.size() > 400 ? std::to_string(names.size()) + " names, " + checksum(line) : line);
}

void Trial::content(const std::string& path) const {
    const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.fd() < 0) {
        did("content of " + path, -1);
        return;
    }
    const std::string bytes = read_all(file.fd());
    const bool printable = std::ranges::all_of(bytes, [](char c) { return c >= ' ' && c <= '~'; });
    say("content of " + path,
        printable && bytes.size() <= 80
            ? "'" + bytes + "'"
            : std::to_string(bytes.size()) + " bytes, " + checksum(bytes));
}

void Trial::in_child(const std::function<void()>& what) const {
    const pid_t child = ::fork();
    if (child == 0) {
        what();
        ::_exit(0);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) {
        did("child", -1);
    } else if (WIFSIGNALED(status)) {
        say("child", "signal " + std::to_string(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0) {
        say("child", WEXITSTATUS(status));
    }
}

void Trial::as(const Identity& who, const std::function<void()>& what) const {
    need_root();
    in_child([&] {
        if (::setgroups(who.groups.size(), who.groups.data()) != 0 || ::setgid(who.gid) != 0 ||
            ::setuid(who.uid) != 0) {
            did("becoming " + std::to_string(who.uid), -1);
            return;
        }
        what();
    });
}

void Trial::skip(const std::string& reason) const {
    say("skipped", reason);
    ::_exit(kSkippedStatus);
}

void Trial::need_root() const {
    if (::geteuid() != 0) {
        skip("this needs root");
    }
}

Case::Case(std::string name, std::function<void(Trial&)> run)
    : name_(std::move(name)), run_(std::move(run)) {
    cases().push_back(this);
}

const std::vector<const Case*>& Case::all() {
    return cases();
}

std::string pattern(size_t bytes, unsigned seed) {
    std::string out(bytes, '\0');
    uint32_t state = seed * 2654435761U + 12345U;
    for (char& c : out) {
        state = state * 1664525U + 1013904223U;
        c = static_cast<char>(state >> 24);
    }
    return out;
}

std::string with_number(std::string_view name, long long number) {
    std::string out(name);
    out += std::to_string(number);
    return out;
}

std::string checksum(std::string_view bytes) {
    uint64_t hash = 0xcbf29ce484222325U;
    for (const char c : bytes) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    }
    std::array<char, 24> text{};
    std::snprintf(text.data(), text.size(), "#%016lx", static_cast<unsigned long>(hash));
    return text.data();
}

std::string read_all(int fd, off_t offset) {
    std::string out;
    std::string piece(1 << 17, '\0');
    while (true) {
        const ssize_t count = ::pread(fd, piece.data(), piece.size(), offset);
        if (count <= 0) {
            return count == 0 ? out : out + "[" + name_of_result(count, errno) + "]";
        }
        out.append(piece, 0, static_cast<size_t>(count));
        offset += count;
    }
}

}  // namespace outrigger::posix
