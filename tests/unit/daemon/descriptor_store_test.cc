// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/descriptor_store.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/keeper_message.h"

namespace outrigger {
namespace {

/// A store whose keeper is the test: it reads when it is told to.
class DescriptorStoreTest : public ::testing::Test {
  protected:
    void SetUp() override { begin({}); }

    /// A process that is given a descriptor under each of these names.
    void begin(const std::vector<std::string>& names) {
        std::array<int, 2> ends{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        keeper_.reset(ends[1]);
        for (const std::string& name : names) {
            const int fd = keeper_.get();
            ASSERT_TRUE(send_keeper_message(keeper_.get(), "FDNAMES=" + name, std::span(&fd, 1)));
        }
        ASSERT_TRUE(send_keeper_message(keeper_.get(), names.empty() ? "GO=first" : "GO=again"));
        ::setenv(DescriptorStore::kChannelVariable, std::to_string(ends[0]).c_str(), 1);
        auto store = DescriptorStore::from_parent();
        ASSERT_TRUE(store.has_value()) << store.error().message;
        store_ = *std::move(store);
        read_all();
    }

    size_t read_all() { return read_words().size(); }

    /// What it says of descriptors: "+NAME", "-NAME".
    std::vector<std::string> read_words() {
        std::vector<std::string> words;
        for (KeeperMessage message;
             receive_keeper_message(keeper_.get(), message, KeeperWait::kNever);
             message = {}) {
            const bool is_stored = message.field("FDSTORE") == "1";
            words.push_back((is_stored ? "+" : "-") + std::string(message.field("FDNAME")));
        }
        return words;
    }

    UniqueFd keeper_;
    std::unique_ptr<DescriptorStore> store_;
};

TEST_F(DescriptorStoreTest, DevicesThatKeepAtTheSameMomentAllDo) {
    constexpr int kRounds = 50;
    constexpr int kTimes = 30;  // which the channel has room for
    std::atomic<int> arrived = 0;
    // Without sleep, after which both would be on one processor.
    const auto await_both = [&arrived](int round) {
        ++arrived;
        while (arrived < 2 * round) {
        }
    };
    std::array<int, 2> refused{};
    const auto keep = [&](size_t device) {
        const std::string name = "device" + std::to_string(device);
        for (int round = 0; round < kRounds; ++round) {
            await_both(2 * round + 1);
            for (int times = 0; times < kTimes; ++times) {
                const Kept kept = store_->try_keep_open(name, keeper_.get());
                refused[device] += kept == Kept::kYes ? 0 : 1;
                refused[device] += store_->try_forget_open(name) ? 0 : 1;
            }
            await_both(2 * round + 2);
            if (device == 0) {
                read_all();
            }
        }
    };
    std::thread other(keep, 1);
    keep(0);
    other.join();
    EXPECT_EQ(refused, (std::array{0, 0}));
}

TEST_F(DescriptorStoreTest, NobodyWaitsBehindWhoWaitsForTheKeeper) {
    while (store_->try_keep_open("filler", keeper_.get()) == Kept::kYes) {
    }
    // It waits for a second, and then gives up.
    std::atomic<bool> has_given_up = false;
    std::thread other([&] {
        EXPECT_FALSE(store_->keep_open("waits", keeper_.get()));
        has_given_up = true;
    });
    // Each try is answered before that, and one that came behind it would be the last.
    int answers = 0;
    while (!has_given_up) {
        EXPECT_EQ(store_->try_keep_open("other", keeper_.get()), Kept::kNotNow);
        ++answers;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_GT(answers, 20);
    other.join();
    EXPECT_GT(read_all(), 0U);
    EXPECT_EQ(store_->try_keep_open("other", keeper_.get()), Kept::kYes);
}

using Words = std::vector<std::string>;

TEST_F(DescriptorStoreTest, WhatNobodyTakesIsForgotten) {
    begin({"a", "b"});
    EXPECT_TRUE(store_->take("a").valid());
    store_->release();
    EXPECT_EQ(read_words(), Words{"-b"});
}

TEST_F(DescriptorStoreTest, WhatWasNotTakenCanBeForgotten) {
    begin({"a", "b"});
    store_->forget_open("a");
    EXPECT_TRUE(store_->try_forget_open("b"));
    EXPECT_EQ(read_words(), (Words{"-a", "-b"}));
    EXPECT_FALSE(store_->take("a").valid());
    store_->forget_open("a");
    store_->release();
    EXPECT_EQ(read_words(), Words{});
}

// Systemd would have the name twice, and drop both.
TEST_F(DescriptorStoreTest, WhatIsNewTakesTheNameOfWhatWasNotTaken) {
    begin({"a", "b"});
    EXPECT_TRUE(store_->keep_open("a", keeper_.get()));
    EXPECT_EQ(store_->try_keep_open("b", keeper_.get()), Kept::kYes);
    EXPECT_EQ(read_words(), (Words{"-a", "+a", "-b", "+b"}));
    store_->release();
    EXPECT_EQ(read_words(), Words{});
    store_->forget_open("a");
    EXPECT_EQ(read_words(), Words{"-a"});
}

}  // namespace
}  // namespace outrigger
