// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/io_end.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/io/uring_witness.h"

namespace outrigger {
namespace {

/// Mostly all has ended long before.
constexpr int kSilentMs = 200;

std::string name_prefix() {
    return std::string(kStorePrefix) + "io.";
}

bool is_pipe(int fd) {
    struct stat status = {};
    return ::fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

void wait_for_hang_up(int fd) {
    pollfd end{.fd = fd, .events = 0, .revents = 0};
    int timeout_ms = kSilentMs;
    while (end.revents == 0) {
        if (::poll(&end, 1, timeout_ms) == 0) {
            log(LogLevel::kWarning,
                "the host has not ended what the process before began: waiting, because its writes "
                "may still reach the image");
            timeout_ms = -1;
        }
    }
}

}  // namespace

Result<IoWitness> follow_io(DescriptorStore& store) {
    const std::vector<std::string> before = store.names(name_prefix());
    for (const std::string& name : before) {
        const UniqueFd end = store.open(name);
        // Nobody may have put anything else there, but then there is nothing to wait for.
        if (is_pipe(end.get())) {
            wait_for_hang_up(end.get());
        }
    }
    platform::PipeEnds pipe = OUTRIGGER_TRY(platform::open_pipe());
    // Another name than those that are there, which release() forgets: who dies before leaves both.
    uint32_t number = 0;
    while (std::ranges::find(before, name_prefix() + std::to_string(number)) != before.end()) {
        ++number;
    }
    const std::string name =
        store.keep(name_prefix() + std::to_string(number), pipe.read_end.get());
    if (name.empty()) {
        log(LogLevel::kWarning,
            "the keeper does not take a descriptor: the next process would not know when the I/O "
            "of this one has ended");
    }
    set_uring_witness(pipe.write_end.get());
    return IoWitness{.writing_end = std::move(pipe.write_end), .name = name};
}

}  // namespace outrigger
