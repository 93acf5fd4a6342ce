// SPDX-License-Identifier: Apache-2.0
#include "devices/net/frame_queue.h"

#include <array>
#include <deque>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/net_frames.h"

namespace outrigger::net {
namespace {

bool push(FrameQueue& queue, std::string text) {
    const iovec pieces[] = {
        {.iov_base = text.data(), .iov_len = text.size() / 2},
        {.iov_base = text.data() + text.size() / 2, .iov_len = text.size() - text.size() / 2}};
    return queue.push({.pieces = pieces, .bytes = text.size()});
}

std::string front(FrameQueue& queue) {
    const auto frame = queue.front();
    if (!frame) {
        return "";
    }
    std::string text(frame->bytes, '\0');
    EXPECT_EQ(copy_front(*frame, std::as_writable_bytes(std::span(text))), frame->bytes);
    return text;
}

bool extend(FrameQueue& queue, const std::string& text) {
    return !queue.newest().empty() &&
           !queue.extend_newest(std::as_bytes(std::span(text)), {}).empty();
}

TEST(FrameQueue, GivesBackWhatCameInItsOrder) {
    FrameQueue queue(1000);
    EXPECT_FALSE(queue.front());
    ASSERT_TRUE(push(queue, "first"));
    ASSERT_TRUE(push(queue, "second"));
    EXPECT_EQ(front(queue), "first");
    queue.pop();
    EXPECT_EQ(front(queue), "second");
    queue.pop();
    EXPECT_TRUE(queue.empty());
}

TEST(FrameQueue, RefusesWhatDoesNotFit) {
    FrameQueue queue(100);
    EXPECT_FALSE(push(queue, std::string(101, 'a')));
    EXPECT_TRUE(push(queue, std::string(100, 'a')));
    EXPECT_FALSE(push(queue, "b"));
    queue.pop();
    EXPECT_TRUE(push(queue, "b"));
}

TEST(FrameQueue, NoFrameIsOverwrittenByAnyOrderOfSizes) {
    FrameQueue queue(1000);
    std::deque<std::string> model;
    uint32_t random = 1;
    for (int step = 0; step < 20'000; ++step) {
        random = random * 1664525 + 1013904223;
        if ((random >> 28) % 5 == 4) {
            const std::string text = testing::make_payload(1 + (random >> 16) % 200, random);
            if (extend(queue, text)) {
                model.back() += text;
            }
        } else if ((random >> 28) % 3 != 0) {
            const std::string text = testing::make_payload(1 + (random >> 16) % 400, random);
            if (push(queue, text)) {
                model.push_back(text);
            } else {
                EXPECT_FALSE(model.empty());
            }
        } else if (!model.empty()) {
            ASSERT_EQ(front(queue), model.front()) << step;
            queue.pop();
            model.pop_front();
        }
        ASSERT_EQ(queue.size(), model.size());
    }
}

TEST(FrameQueue, NewestFrameGrowsUntilItIsGiven) {
    FrameQueue queue(1000);
    EXPECT_TRUE(queue.newest().empty());
    ASSERT_TRUE(push(queue, "first"));
    EXPECT_TRUE(extend(queue, " and more"));
    EXPECT_EQ(front(queue), "first and more");
    EXPECT_FALSE(extend(queue, "."));
    ASSERT_TRUE(push(queue, "second"));
    EXPECT_TRUE(extend(queue, "..."));
    std::array<FrameQueue::Stored, 2> seen;
    ASSERT_EQ(queue.peek(seen, 1000), 2U);
    EXPECT_FALSE(extend(queue, "."));
    queue.pop();
    EXPECT_FALSE(extend(queue, "."));
    EXPECT_EQ(front(queue), "second...");
    queue.pop();
    EXPECT_TRUE(queue.newest().empty());
    ASSERT_TRUE(push(queue, "third"));
    EXPECT_EQ(queue.newest().size(), 5U);
    queue.clear();
    EXPECT_TRUE(queue.newest().empty());
}

TEST(FrameQueue, FrameGrowsIntoNoOther) {
    FrameQueue queue(1000);
    ASSERT_TRUE(push(queue, std::string(600, 'a')));
    EXPECT_TRUE(extend(queue, std::string(400, 'a')));
    EXPECT_FALSE(extend(queue, "a"));
    queue.clear();
    ASSERT_TRUE(push(queue, std::string(500, 'a')));
    ASSERT_TRUE(push(queue, std::string(500, 'b')));
    queue.pop();
    ASSERT_TRUE(push(queue, std::string(100, 'c')));
    // Below the other, one byte stays free.
    EXPECT_FALSE(extend(queue, std::string(400, 'c')));
    EXPECT_TRUE(extend(queue, std::string(399, 'c')));
    EXPECT_EQ(front(queue), std::string(500, 'b'));
    queue.pop();
    EXPECT_EQ(front(queue), std::string(499, 'c'));
}

TEST(FrameQueue, ShowsSeveralUntilTheyArePopped) {
    FrameQueue queue(1000);
    std::array<FrameQueue::Stored, 3> seen;
    EXPECT_EQ(queue.peek(seen, 1000), 0U);
    for (const char* const text : {"one", "three", "seven", "eight"}) {
        ASSERT_TRUE(push(queue, text));
    }
    EXPECT_EQ(queue.peek(seen, 1000), 3U);
    EXPECT_EQ(queue.peek(seen, 8), 2U);
    EXPECT_EQ(queue.peek(seen, 7), 1U);
    // The first one always.
    EXPECT_EQ(queue.peek(seen, 1), 1U);
    ASSERT_EQ(queue.peek(seen, 1000), 3U);
    // What comes behind them leaves their bytes alone.
    while (push(queue, std::string(100, 'x'))) {
    }
    std::string text;
    for (const FrameQueue::Stored& each : seen) {
        std::string bytes(each.frame().bytes, '\0');
        (void)copy_front(each.frame(), std::as_writable_bytes(std::span(bytes)));
        text += bytes + ' ';
    }
    EXPECT_EQ(text, "one three seven ");
    const size_t before = queue.size();
    queue.pop(3);
    EXPECT_EQ(queue.size(), before - 3);
    EXPECT_EQ(front(queue), "eight");
    queue.pop(0);
    EXPECT_EQ(front(queue), "eight");
}

/// Its places grow while they are in use, from the middle.
TEST(FrameQueue, KeepsTheOrderOfManySmallOnes) {
    FrameQueue queue(1 << 16);
    for (size_t i = 0; i < 200; ++i) {
        ASSERT_TRUE(push(queue, "old " + std::to_string(i)));
    }
    queue.pop(150);
    for (size_t i = 200; i < 3000; ++i) {
        ASSERT_TRUE(push(queue, "old " + std::to_string(i)));
    }
    for (size_t i = 150; i < 3000; ++i) {
        ASSERT_EQ(front(queue), "old " + std::to_string(i));
        queue.pop();
    }
    EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace outrigger::net
