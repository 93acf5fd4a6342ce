// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/hand_over.h"

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

struct Item {
    Item* next = nullptr;
    int number = 0;
    std::vector<int>* taken = nullptr;
    std::atomic<int>* count = nullptr;
    std::promise<void>* all_taken = nullptr;
    std::optional<HandOver<Item>>* ended = nullptr;
};

void take_up(Item& item) {
    EXPECT_EQ(item.next, nullptr);
    item.taken->push_back(item.number);
    if (item.ended != nullptr) {
        item.ended->reset();
    }
    if (item.count == nullptr || item.count->fetch_sub(1) == 1) {
        item.all_taken->set_value();
    }
}

TEST(HandOver, ItemsAreTakenUpInTheirOrderOnTheWorker) {
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    HandOver<Item> hand_over(*worker, take_up);
    std::vector<int> taken;
    std::promise<void> all_taken;
    std::atomic<int> count = 3;
    Item items[3];
    std::promise<void> given;
    worker->post([&] { given.get_future().wait(); });  // so that all three gather
    for (int i = 0; i < 3; ++i) {
        items[i].number = i;
        items[i].taken = &taken;
        items[i].count = &count;
        items[i].all_taken = &all_taken;
        hand_over.give(items[i]);
    }
    EXPECT_TRUE(taken.empty());
    given.set_value();
    all_taken.get_future().wait();
    EXPECT_EQ(taken, (std::vector<int>{0, 1, 2}));
}

/// What is taken up last may end the hand-over while the giving thread has not left give() yet.
TEST(HandOver, LastItemMayEndIt) {
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    for (int round = 0; round < 2000; ++round) {
        std::optional<HandOver<Item>> hand_over(std::in_place, *worker, take_up);
        std::vector<int> taken;
        std::promise<void> all_taken;
        Item item;
        item.taken = &taken;
        item.all_taken = &all_taken;
        item.ended = &hand_over;
        std::thread giver([&hand_over, &item] { hand_over->give(item); });
        all_taken.get_future().wait();
        giver.join();
        EXPECT_FALSE(hand_over);
    }
}

TEST(HandOver, NothingIsLostThatManyThreadsGive) {
    constexpr int kThreads = 4;
    constexpr int kItems = 5000;
    const auto worker = Worker::start({.loop = LoopKind::kAsio}).value();
    HandOver<Item> hand_over(*worker, take_up);
    std::vector<int> taken;
    std::promise<void> all_taken;
    std::atomic<int> count = kThreads * kItems;
    std::vector<Item> items(size_t{kThreads} * kItems);
    std::vector<std::thread> givers;
    for (int thread = 0; thread < kThreads; ++thread) {
        givers.emplace_back([&, thread] {
            for (int i = 0; i < kItems; ++i) {
                Item& item = items[static_cast<size_t>(thread * kItems + i)];
                item.number = thread * kItems + i;
                item.taken = &taken;
                item.count = &count;
                item.all_taken = &all_taken;
                hand_over.give(item);
            }
        });
    }
    all_taken.get_future().wait();
    for (std::thread& giver : givers) {
        giver.join();
    }
    std::vector<int> next(kThreads);
    for (const int number : taken) {
        const auto thread = static_cast<size_t>(number / kItems);
        EXPECT_EQ(number % kItems, next[thread]++);
    }
    EXPECT_EQ(taken.size(), items.size());
}

}  // namespace
}  // namespace outrigger
