// SPDX-License-Identifier: Apache-2.0
/// The fixture of the catalogue of malicious input: a test's name begins with its row there. After
/// each, the back end still answers a good request, on the same connection or on the next one.
#pragma once

#include <vector>

#include <sys/resource.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {

class Catalogue : public SessionTest {
  protected:
    using SessionTest::SessionTest;

    [[nodiscard]] wire::MemoryRegion first_region() const {
        return memory_.description(memory_.regions()[0]);
    }

    [[nodiscard]] int first_region_fd() const { return memory_.fd(memory_.regions()[0]); }

    /// A ring broke for that reason: the driver is told through the error descriptor and the device
    /// status, and no other ring broke.
    void expect_broken(RingError error, size_t index = 0) {
        EXPECT_TRUE(queue(index).wait_error(driver::after(kPatience)));
        EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 1; }));
        EXPECT_EQ(counters().rings_broken.value(error), 1U) << describe(error);
        constexpr uint64_t kNeedsReset = 64;
        EXPECT_NE(frontend().get_status().value() & kNeedsReset, 0U);
    }

    /// The other ring goes on, and the broken one as well once it was stopped and begun anew.
    void expect_containment_and_recovery() {
        if (queues().size() > 1) {
            expect_echo(1);
        }
        EXPECT_TRUE(queue().stop(frontend()));
        queue().reset();
        EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
        expect_echo();
    }

    void expect_break_and_recovery(RingError error) {
        expect_broken(error);
        expect_containment_and_recovery();
    }
};

/// For its lifetime this process cannot open one descriptor more.
class NoMoreDescriptors final {
  public:
    NoMoreDescriptors();
    ~NoMoreDescriptors();
    NoMoreDescriptors(const NoMoreDescriptors&) = delete;
    NoMoreDescriptors& operator=(const NoMoreDescriptors&) = delete;

  private:
    rlimit before_{};
};

}  // namespace outrigger::testing
