// SPDX-License-Identifier: Apache-2.0
/// A front end's side of a device state transfer.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"

#include "tools/driver/frontend.h"

namespace outrigger::testing {

inline constexpr wire::DeviceStateTransfer kSaveState{.direction = 0, .phase = 0};
inline constexpr wire::DeviceStateTransfer kLoadState{.direction = 1, .phase = 0};

/// All there is until the end.
[[nodiscard]] inline std::string read_to_end(int fd) {
    std::string out;
    char piece[4096];
    ssize_t count = 0;
    while ((count = ::read(fd, piece, sizeof piece)) > 0) {
        out.append(piece, static_cast<size_t>(count));
    }
    EXPECT_EQ(count, 0);
    return out;
}

/// False when the reader went away before the end.
inline bool write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(fd, bytes.data(), bytes.size());
        if (count <= 0) {
            return false;
        }
        bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
}

/// SET_DEVICE_STATE_FD: 0 when the back end takes it, and gave no descriptor of its own.
[[nodiscard]] inline uint64_t begin_transfer(driver::Frontend& frontend,
                                             const wire::DeviceStateTransfer& transfer,
                                             int fd) {
    const auto answer = frontend.set_device_state_fd(transfer, fd);
    if (!answer) {
        ADD_FAILURE() << driver::describe(answer.error());
        return ~uint64_t{0};
    }
    EXPECT_FALSE(answer->fd.valid());
    return answer->error;
}

/// Our end of a pipe, whose other end the back end has; empty when it refused.
[[nodiscard]] inline UniqueFd begin_pipe(driver::Frontend& frontend,
                                         const wire::DeviceStateTransfer& transfer) {
    auto pipe = platform::open_pipe().value();
    const bool saves = transfer.direction == 0;
    const int theirs = saves ? pipe.write_end.get() : pipe.read_end.get();
    if (begin_transfer(frontend, transfer, theirs) != 0) {
        return {};
    }
    return saves ? std::move(pipe.read_end) : std::move(pipe.write_end);
}

/// CHECK_DEVICE_STATE says that it went well.
[[nodiscard]] inline bool transfer_is_good(driver::Frontend& frontend) {
    const auto answer = frontend.check_device_state();
    EXPECT_TRUE(answer);
    return answer.value_or(1) == 0;
}

/// As a front end does it, from begin to CHECK; empty when that failed.
[[nodiscard]] inline std::string save_state(driver::Frontend& frontend) {
    const UniqueFd pipe = begin_pipe(frontend, kSaveState);
    if (!pipe.valid()) {
        return {};
    }
    std::string state = read_to_end(pipe.get());
    return transfer_is_good(frontend) ? state : std::string();
}

[[nodiscard]] inline bool load_state(driver::Frontend& frontend, std::string_view state) {
    UniqueFd pipe = begin_pipe(frontend, kLoadState);
    if (!pipe.valid()) {
        return false;
    }
    (void)write_all(pipe.get(), state);
    pipe.reset();
    return transfer_is_good(frontend);
}

}  // namespace outrigger::testing
