// SPDX-License-Identifier: Apache-2.0
/// A keeper of descriptors inside the test program, which notices names that are given twice or
/// forgotten without having been given.
#pragma once

#include <map>
#include <string>

#include <fcntl.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/session/session_journal.h"

namespace outrigger::testing {

/// Thread-bound: that of the journals that use it.
class FakeKeeper final : public DescriptorKeeper {
  public:
    std::string keep(const std::string& name, int fd) override {
        EXPECT_FALSE(kept.contains(name)) << name;
        kept[name] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
        return name;
    }

    void forget(const std::string& name) override { EXPECT_EQ(kept.erase(name), 1U) << name; }

    std::map<std::string, UniqueFd> kept;
};

}  // namespace outrigger::testing
