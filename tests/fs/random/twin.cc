// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/random/twin.h"

#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace outrigger::randomops {

std::string Outcome::text() const {
    const char* const name = result < 0 ? ::strerrorname_np(error) : nullptr;
    return (name != nullptr ? std::string(name) : std::to_string(result)) +
           (detail.empty() ? "" : " " + detail);
}

Twin::Twin(const std::string& subject, const std::string& oracle) {
    sides_[0].root = ::open(subject.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    sides_[1].root = ::open(oracle.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

Twin::~Twin() {
    for (const Side& side : sides_) {
        for (const int file : side.files) {
            ::close(file);
        }
        ::close(side.root);
    }
}

void Twin::note(const std::string& line) {
    history_.push_back(line);
    if (history_.size() > kHistoryMax) {
        history_.pop_front();
    }
}

bool Twin::both(const std::string& what, const Call& call) {
    const Outcome share = call(sides_[0]);
    const Outcome host = call(sides_[1]);
    note(what + ": " + host.text());
    if (share == host) {
        return true;
    }
    mismatch_ = what + ": the share says " + share.text() + ", the host " + host.text();
    return false;
}

}  // namespace outrigger::randomops
