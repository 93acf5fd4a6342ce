// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/entropy_limit.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <sys/mman.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::rng {
namespace {

using namespace std::chrono_literals;

constexpr EntropyLimit kGiven = {.bytes_max = 100, .period = 1000ms};
constexpr EntropyLimit kSaid = {.bytes_max = 7, .period = 5ms};

class KeptLimitTest : public ::testing::Test {
  protected:
    KeptLimitTest() : memory_(::memfd_create("limit", MFD_CLOEXEC)) {
        EXPECT_EQ(::ftruncate(memory_.get(), KeptLimit::kKeptBytes), 0);
    }

    /// As another process has it.
    [[nodiscard]] Mapping map() const {
        return Mapping::map_file(memory_.get(), 0, KeptLimit::kKeptBytes).value();
    }

    UniqueFd memory_;
};

TEST_F(KeptLimitTest, TheNextProcessGoesOnWithWhatAnOperatorSaid) {
    KeptLimit first(kGiven, map());
    EXPECT_EQ(first.value(), kGiven);
    first.change(kSaid);
    EXPECT_EQ(first.value(), kSaid);
    EXPECT_EQ(KeptLimit(kGiven, map()).value(), kSaid);
}

TEST_F(KeptLimitTest, AnotherCommandLineCounts) {
    KeptLimit(kGiven, map()).change(kSaid);
    EntropyLimit other = kGiven;
    other.period = 1001ms;
    EXPECT_EQ(KeptLimit(other, map()).value(), other);
    other = kGiven;
    other.bytes_max = 0;
    EXPECT_EQ(KeptLimit(other, map()).value(), other);
}

TEST_F(KeptLimitTest, NoLimitIsALimitThatIsKept) {
    KeptLimit(kGiven, map()).change({.bytes_max = 0, .period = 1000ms});
    EXPECT_EQ(KeptLimit(kGiven, map()).value().bytes_max, 0U);
}

TEST_F(KeptLimitTest, WithoutMemoryItIsOfThisProcessAlone) {
    KeptLimit limit(kGiven, Mapping());
    limit.change(kSaid);
    EXPECT_EQ(limit.value(), kSaid);
}

// Who was killed may have been another's by then.
TEST_F(KeptLimitTest, WhateverStandsInTheMemoryThePeriodIsPossible) {
    const Mapping memory = map();
    for (const int fill : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
        for (size_t at = 64; at < KeptLimit::kKeptBytes; at += 8) {
            KeptLimit(kGiven, map()).change(kSaid);
            std::memset(memory.data() + at, fill, 8);
            const EntropyLimit found = KeptLimit(kGiven, map()).value();
            EXPECT_TRUE(found.is_possible()) << at;
        }
        std::memset(memory.data(), fill, KeptLimit::kKeptBytes);
        EXPECT_TRUE(KeptLimit(kGiven, map()).value().is_possible());
        std::memset(memory.data(), 0, KeptLimit::kKeptBytes);
    }
}

}  // namespace
}  // namespace outrigger::rng
