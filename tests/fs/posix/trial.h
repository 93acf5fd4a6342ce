// SPDX-License-Identifier: Apache-2.0
/// What a case of the POSIX suite does and what it writes down. A case runs in a directory of its
/// own, which is the working directory of a process of its own. It does not say what is right: what
/// it saw is a transcript, and that of a share is compared with that of the host's own directory.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/types.h>

namespace outrigger::posix {

/// "0", a number, or the name of an errno.
[[nodiscard]] std::string name_of_result(long result, int error);

/// A descriptor that closes itself.
class File final {
  public:
    explicit File(int fd) : fd_(fd) {}

    File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

    File(const File&) = delete;
    File& operator=(const File&) = delete;
    File& operator=(File&&) = delete;

    ~File() { close(); }

    [[nodiscard]] int fd() const { return fd_; }

    int close();

  private:
    int fd_;
};

/// Who somebody is.
struct Identity {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups{};
};

/// Three people that no host has anything of.
inline const Identity kAnna{.uid = 41001, .gid = 41001};
inline const Identity kBert{.uid = 41002, .gid = 41002};
inline const Identity kCleo{.uid = 41003, .gid = 41003, .groups = {41001, 41500}};

class Trial final {
  public:
    /// Lines go to `log_fd` (borrowed), which is open for appending.
    explicit Trial(int log_fd) : log_fd_(log_fd) {}

    /// Writes a line.
    void say(const std::string& line) const;

    void say(std::string_view what, const std::string& value) const;

    void say(std::string_view what, long value) const { say(what, std::to_string(value)); }

    /// Writes what a call returned: the number, or why it failed. Returns it.
    long did(std::string_view what, long result) const;

    /// Opens; writes whether that went well.
    [[nodiscard]] File open(const std::string& path, int flags, mode_t mode = 0644) const;

    /// Makes a file of that content, silently. False when it could not, which is written down.
    bool make(const std::string& path, std::string_view content = {}, mode_t mode = 0644) const;

    /// Makes a directory, silently but for failures.
    bool make_directory(const std::string& path, mode_t mode = 0755) const;

    /// Type, mode, links, owner, group and, of files and links, size; or why not.
    void look(const std::string& path) const;

    /// The names in a directory, sorted, with their types.
    void list(const std::string& path) const;

    /// The bytes of a file: as text when short, a checksum when long.
    void content(const std::string& path) const;

    /// Runs in a child that is somebody else; waits for its end.
    void as(const Identity& who, const std::function<void()>& what) const;

    /// Runs in a child; waits for its end, and writes down a bad one.
    void in_child(const std::function<void()>& what) const;

    /// Ends the case: what it is about is not to be had here, whatever the share can do.
    [[noreturn]] void skip(const std::string& reason) const;

    /// Ends the case unless this is root.
    void need_root() const;

  private:
    int log_fd_;
};

/// A named case; stands in a list from before main() on.
class Case final {
  public:
    Case(std::string name, std::function<void(Trial&)> run);

    [[nodiscard]] static const std::vector<const Case*>& all();

    [[nodiscard]] const std::string& name() const { return name_; }

    void run(Trial& trial) const { run_(trial); }

  private:
    std::string name_;
    std::function<void(Trial&)> run_;
};

/// Bytes that tell where they stand.
[[nodiscard]] std::string pattern(size_t bytes, unsigned seed = 0);

/// A name and a number behind it.
[[nodiscard]] std::string with_number(std::string_view name, long long number);

template <std::integral Number>
[[nodiscard]] std::string numbered(std::string_view name, Number number) {
    return with_number(name, static_cast<long long>(number));
}

/// A checksum of these bytes to print.
[[nodiscard]] std::string checksum(std::string_view bytes);

/// All that can be read from a descriptor, from `offset` on.
[[nodiscard]] std::string read_all(int fd, off_t offset = 0);

/// The exit status of a case that was skipped.
inline constexpr int kSkippedStatus = 77;

}  // namespace outrigger::posix
