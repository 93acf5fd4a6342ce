// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/state_file.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/state/device_state.h"
#include "vhost-user-backend/state/state_text.h"

namespace outrigger::ctl {
namespace {

/// A byte more than a state may have shows that the file is too large.
constexpr size_t kReadMax = kStateBytesMax + 1;
constexpr size_t kPieceBytes = size_t{1} << 20;

Result<std::vector<std::byte>> read_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!fd.valid()) {
        return failure(error_from_errno("cannot open " + path));
    }
    std::vector<std::byte> bytes;
    while (bytes.size() < kReadMax) {
        const size_t before = bytes.size();
        bytes.resize(std::min(kReadMax, before + kPieceBytes));
        const ssize_t count = ::read(fd.get(), bytes.data() + before, bytes.size() - before);
        bytes.resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
        if (count == 0) {
            break;
        }
        if (count < 0 && errno != EINTR) {
            return failure(error_from_errno("cannot read " + path));
        }
    }
    return bytes;
}

}  // namespace

Result<std::string> state_file_text(const std::string& path) {
    const auto bytes = OUTRIGGER_TRY(read_file(path));
    const auto state = parse_state(bytes);
    if (!state) {
        return failure(
            Error{.message = path + " is no state that can be loaded: " + state.error().message});
    }
    return state_text(*state);
}

}  // namespace outrigger::ctl
