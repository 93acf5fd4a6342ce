// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/kernel_locks.h"

#include <array>
#include <charconv>
#include <optional>
#include <string>

#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {
namespace {

/// Beyond what a description with all its locks can have.
constexpr size_t kTextBytesMax = size_t{1} << 20;

/// Up to the next blank, and takes it away.
std::string_view take_word(std::string_view& rest) {
    const size_t begin = rest.find_first_not_of(" \t");
    if (begin == std::string_view::npos) {
        rest = {};
        return {};
    }
    rest.remove_prefix(begin);
    const std::string_view word = rest.substr(0, rest.find_first_of(" \t"));
    rest.remove_prefix(word.size());
    return word;
}

std::optional<uint64_t> number(std::string_view word) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return error == std::errc() && end == word.data() + word.size() ? std::optional(value)
                                                                    : std::nullopt;
}

/// "1: OFDLCK ADVISORY  WRITE -1 fd:00:1234 0 EOF", behind "lock:".
void take_lock(std::string_view rest, KernelLocks& locks) {
    (void)take_word(rest);
    const std::string_view kind = take_word(rest);
    (void)take_word(rest);
    const std::string_view access = take_word(rest);
    (void)take_word(rest);
    (void)take_word(rest);
    const auto start = number(take_word(rest));
    const std::string_view last = take_word(rest);
    const auto end = last == "EOF" ? std::optional<uint64_t>(INT64_MAX) : number(last);
    if (!start || !end || *start > *end || (access != "READ" && access != "WRITE")) {
        return;
    }
    const uint32_t type = access == "READ" ? F_RDLCK : F_WRLCK;
    if (kind == "FLOCK") {
        locks.flock = type;
    } else if (kind == "OFDLCK" && locks.ranges.all().size() < HeldRanges::kRangesMax) {
        locks.ranges.set({.start = *start, .end = *end, .type = type});
    }
}

}  // namespace

KernelLocks parse_kernel_locks(std::string_view fdinfo) {
    constexpr std::string_view kLock = "lock:";
    KernelLocks locks;
    while (!fdinfo.empty()) {
        const size_t end = fdinfo.find('\n');
        const std::string_view line = fdinfo.substr(0, end);
        fdinfo.remove_prefix(end == std::string_view::npos ? fdinfo.size() : end + 1);
        if (line.starts_with(kLock)) {
            take_lock(line.substr(kLock.size()), locks);
        }
    }
    return locks;
}

KernelLocks kernel_locks_of(int fd) {
    const UniqueFd file(
        ::open(fmt::format("/proc/self/fdinfo/{}", fd).c_str(), O_RDONLY | O_CLOEXEC));
    std::string text;
    std::array<char, 4096> piece;
    while (text.size() < kTextBytesMax) {
        const ssize_t count = ::read(file.get(), piece.data(), piece.size());
        if (count <= 0) {
            break;
        }
        text.append(piece.data(), static_cast<size_t>(count));
    }
    return parse_kernel_locks(text);
}

}  // namespace outrigger::fs
