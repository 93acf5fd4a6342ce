// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/late_closer.h"

#include <array>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"

namespace outrigger::fs {
namespace {

using testing::eventually;

struct Pipe {
    Pipe() {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        read = UniqueFd(ends[0]);
        write = UniqueFd(ends[1]);
    }

    /// Nobody has the other end any more.
    [[nodiscard]] bool is_hung_up() const {
        pollfd one{.fd = read.get(), .events = POLLIN, .revents = 0};
        return ::poll(&one, 1, 0) == 1 && (one.revents & POLLHUP) != 0;
    }

    UniqueFd read;
    UniqueFd write;
};

TEST(LateCloser, ItsThreadCloses) {
    LateCloser closer;
    ASSERT_TRUE(closer.start().has_value());
    ASSERT_TRUE(closer.start().has_value()) << "by another queue";
    Pipe one;
    closer.close(std::move(one.write));
    EXPECT_TRUE(eventually([&] { return one.is_hung_up(); }));
    EXPECT_TRUE(eventually([&] { return closer.count() == 0; }));
}

TEST(LateCloser, BeforeThereIsAThreadItClosesAtOnce) {
    LateCloser closer;
    Pipe one;
    closer.close(std::move(one.write));
    EXPECT_TRUE(one.is_hung_up());
    EXPECT_EQ(closer.count(), 0U);
}

TEST(LateCloser, WhatIsNotOpenIsNotGiven) {
    LateCloser closer;
    ASSERT_TRUE(closer.start().has_value());
    closer.close(UniqueFd());
    EXPECT_EQ(closer.count(), 0U);
}

TEST(LateCloser, ItGoesWhenAllIsClosed) {
    std::vector<Pipe> pipes(100);
    {
        LateCloser closer;
        ASSERT_TRUE(closer.start().has_value());
        for (Pipe& one : pipes) {
            closer.close(std::move(one.write));
        }
    }
    for (const Pipe& one : pipes) {
        EXPECT_TRUE(one.is_hung_up());
    }
}

}  // namespace
}  // namespace outrigger::fs
