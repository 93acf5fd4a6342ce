// SPDX-License-Identifier: Apache-2.0
/// A failure of the host or of the user's input, in words for the person who started the program.
/// What a guest or a front end does wrong is never an Error: each room has a small enum for that.
#pragma once

#include <string>
#include <string_view>

namespace outrigger {

struct Error {
    /// One sentence without a full stop: what failed, on what, and where it helps what to do.
    std::string message;
    /// errno of the failed call, 0 where no call failed.
    int os_error = 0;
};

/// Builds "<what>: <strerror(os_error)>". Call it right behind the failed call: it takes errno.
[[nodiscard]] Error error_from_errno(std::string_view what);
/// The same with an explicit errno value (positive).
[[nodiscard]] Error error_from_code(std::string_view what, int os_error);

/// A broken promise inside our own code: prints where and aborts, also in release builds. Never
/// reachable by what a guest, a front end or the host does.
[[noreturn]] void abort_on_bug(const char* condition, const char* file, int line);

}  // namespace outrigger

#define OUTRIGGER_ASSERT(condition)                                    \
    do {                                                               \
        if (!(condition)) [[unlikely]]                                 \
            ::outrigger::abort_on_bug(#condition, __FILE__, __LINE__); \
    } while (false)
