// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/system_call_trap.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <seccomp.h>
#include <signal.h>
#include <unistd.h>

namespace outrigger {
namespace {

constexpr size_t kNameBytes = 32;
/// Numbers in use end well below.
constexpr size_t kNamesMax = 1024;

// By number; written before the handler exists, because asking for a name allocates.
std::array<std::array<char, kNameBytes>, kNamesMax> names{};

std::string_view name_of(int number) {
    if (number < 0 || static_cast<size_t>(number) >= names.size()) {
        return {};
    }
    return names[static_cast<size_t>(number)].data();
}

/// Async-signal-safe.
void on_refused_call(int, siginfo_t* info, void*) {
    std::array<char, 160> line{};
    size_t length = 0;
    const auto append = [&](std::string_view text) {
        const size_t count = std::min(text.size(), line.size() - length);
        std::memcpy(line.data() + length, text.data(), count);
        length += count;
    };
    std::array<char, 16> digits{};
    const auto end =
        std::to_chars(digits.data(), digits.data() + digits.size(), info->si_syscall).ptr;
    append("outrigger: the sandbox does not allow the system call ");
    append(name_of(info->si_syscall));
    append(" (number ");
    append({digits.data(), static_cast<size_t>(end - digits.data())});
    append(")\n");
    (void)!::write(STDERR_FILENO, line.data(), length);
    ::_exit(1);
}

}  // namespace

Result<void> install_system_call_trap() {
    for (size_t number = 0; number < names.size(); ++number) {
        char* const name =
            ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number));
        if (name != nullptr) {
            std::strncpy(names[number].data(), name, kNameBytes - 1);
            ::free(name);
        }
    }

    struct sigaction action {};

    action.sa_sigaction = on_refused_call;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    if (::sigaction(SIGSYS, &action, nullptr) != 0) {
        return failure(error_from_errno("cannot handle SIGSYS"));
    }
    return {};
}

}  // namespace outrigger
