// SPDX-License-Identifier: Apache-2.0
// Dirty logs that cannot be, or do not last; SET_LOG_FD; and logs behind an IOMMU.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"

#include "tests/integration/dirty_log.h"
#include "tests/support/iommu_test.h"
#include "tests/support/state_pipe.h"
#include "tools/driver/frontend_socket.h"

namespace outrigger::testing {
namespace {

class DirtyLogInput : public DirtyLogTest {};

// QEMU takes any size, libvhost-user sends 8 bytes and DPDK none; rust-vmm's front end waits for
// the same 16 bytes that it sent.
TEST_F(DirtyLogInput, AnswerRepeatsTheRequest) {
    run_with_log();
    const wire::Log log{.size = log_.bytes(), .offset = log_.offset()};
    const std::array<int, 1> fds = {log_.fd()};
    const auto reply = frontend().query(number(FrontendRequest::kSetLogBase), bytes_of(log), fds);
    ASSERT_TRUE(reply);
    ASSERT_EQ(reply->payload.size(), sizeof log);
    EXPECT_EQ(std::memcmp(reply->payload.data(), &log, sizeof log), 0);
    EXPECT_TRUE(reply->fds.empty());
}

TEST_F(DirtyLogInput, IsRefusedWithoutItsProtocolFeature) {
    run();
    expect_refusal(Refusal::kNotNegotiated, [&] { return set_log_base(log_); });
    expect_echo();
}

TEST_F(DirtyLogInput, MessageWithoutADescriptorCloses) {
    run_with_log();
    const wire::Log log{.size = log_.bytes(), .offset = 0};
    EXPECT_FALSE(frontend().query(number(FrontendRequest::kSetLogBase), bytes_of(log)));
    expect_close_and_next_session(CloseReason::kFdCount);
}

TEST_F(DirtyLogInput, LogTooSmallBreaksTheRingThatWroteOutsideOfIt) {
    run_with_log({.queue_count = 2});
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    // The log ends with the first region.
    ASSERT_EQ(add_second_region(), Answer::kAccepted);
    send_one(kSecondRegion);
    expect_broken(RingError::kDirtyLog);
    EXPECT_TRUE(log_.margins_are_untouched());
    const DirtyLogFile large(kSecondRegionPage + kSecondRegionBytes / kLogPage);
    ASSERT_EQ(set_log_base(large), Answer::kAccepted);
    expect_containment_and_recovery();
    EXPECT_EQ(exchange(kSecondRegion), "");
    EXPECT_TRUE(large.pages().contains(kSecondRegionPage));
}

// --- What a front end that saves the state learns of it ------------------------------------------

class DirtyLogState : public DirtyLogTest {
  protected:
    void run_with_state_and_log() {
        take_pages_for_buffers();
        driver::BringUpOptions options = log_options({});
        options.protocol_features =
            options.protocol_features.with(bit(wire::ProtocolFeature::kDeviceState));
        run(options);
        ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
        ASSERT_EQ(set_logging(true), Answer::kAccepted);
    }

    void break_the_ring() {
        ASSERT_EQ(add_second_region(), Answer::kAccepted);
        send_one(kSecondRegion);
        ASSERT_TRUE(
            eventually([&] { return counters().rings_broken.value(RingError::kDirtyLog) == 1; }));
    }

    [[nodiscard]] bool saves_well() { return !save_state(frontend()).empty(); }
};

TEST_F(DirtyLogState, IsGoodWhileTheLogIs) {
    run_with_state_and_log();
    ASSERT_EQ(exchange(), "");
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_TRUE(saves_well());
}

TEST_F(DirtyLogState, IsNoGoodBehindAWriteThatTheLogLacks) {
    run_with_state_and_log();
    break_the_ring();
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_FALSE(saves_well());
}

TEST_F(DirtyLogState, IsGoodAgainWhenLoggingBeginsAnew) {
    run_with_state_and_log();
    break_the_ring();
    ASSERT_TRUE(queue().stop(frontend()));
    ASSERT_EQ(set_logging(false), Answer::kAccepted);
    EXPECT_FALSE(saves_well()) << "the same migration, for all that is known";
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    EXPECT_TRUE(saves_well());
}

TEST_F(DirtyLogInput, LogOfOneByteBreaksTheRingAtOnce) {
    run_with_log({.queue_count = 1});
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    const DirtyLogFile tiny(8);
    ASSERT_EQ(set_log_base(tiny), Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return counters().rings_broken.total() == 1; }));
    EXPECT_EQ(counters().rings_broken.value(RingError::kDirtyLog), 1U);
    EXPECT_TRUE(tiny.margins_are_untouched());
}

TEST_F(DirtyLogInput, UsedLogAddressOutsideOfTheLogBreaksTheRing) {
    run_with_log({.queue_count = 2});
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(set_used_log(GuestAddr{kMemoryPages * kLogPage}), Answer::kAccepted);
    send_one();
    expect_broken(RingError::kDirtyLog);
    ASSERT_EQ(set_used_log(std::nullopt), Answer::kAccepted);
    expect_containment_and_recovery();
}

TEST_F(DirtyLogInput, TruncatedLogBreaksRingsAndNothingElse) {
    DirtyLogFile file(kMemoryPages, 0, DirtyLogFile::Kind::kTruncatable);
    run_with_log({.queue_count = 1});
    ASSERT_EQ(set_log_base(file), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    EXPECT_EQ(exchange(), "");
    file.truncate();
    send_one();
    expect_broken(RingError::kDirtyLog);
    EXPECT_EQ(counters().rings_broken.value(RingError::kMemoryLost), 0U);
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    expect_containment_and_recovery();
    EXPECT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
}

TEST_F(DirtyLogInput, LogThatIsTruncatedAtTheDoorIsRefused) {
    DirtyLogFile file(kMemoryPages, 0, DirtyLogFile::Kind::kTruncatable);
    const uint64_t bytes = file.bytes();
    run_with_log();
    file.truncate();
    EXPECT_EQ(frontend().set_log_base({.size = bytes, .offset = 0}, file.fd()), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kRefused);
}

// --- SET_LOG_FD --------------------------------------------------------------------------------

TEST_F(DirtyLogInput, LogDescriptorIsSignalledWhenTheLogChanges) {
    run_with_log();
    const auto changed = Notifier::create().value();
    ASSERT_EQ(frontend().set_log_fd(changed.write_fd()), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    give_others_a_moment();
    EXPECT_FALSE(driver::wait_readable(changed.read_fd(), driver::after(std::chrono::seconds(0))))
        << "there is no log";
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(driver::wait_readable(changed.read_fd(), driver::after(kPatience)));
}

TEST_F(DirtyLogInput, LogDescriptorThatIsNoneIsRefused) {
    run_with_log();
    expect_refusal(Refusal::kNotificationFd,
                   [&] { return frontend().set_log_fd(first_region_fd()); });
    ASSERT_EQ(exchange(), "");
}

// --- --require-sealed --------------------------------------------------------------------------

class SealedDirtyLog : public SessionTest {
  protected:
    SealedDirtyLog()
        : SessionTest(EchoDeviceOptions{},
                      SessionHostOptions{.session = {.require_sealed = true}}) {}

    [[nodiscard]] Answer set_log_base(DirtyLogFile::Kind kind) {
        const DirtyLogFile log(4096, 0, kind);
        negotiate({.protocol_features =
                       driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kLogShmfd))});
        return frontend().set_log_base({.size = log.bytes(), .offset = 0}, log.fd());
    }
};

TEST_F(SealedDirtyLog, LogThatCanBeTruncatedIsRefused) {
    EXPECT_EQ(set_log_base(DirtyLogFile::Kind::kTruncatable), Answer::kClosed);
    EXPECT_EQ(counters().refused.value(Refusal::kDirtyLog), 1U);
}

TEST_F(SealedDirtyLog, SealedLogIsTaken) {
    if (kPortableBuild) {
        GTEST_SKIP() << "nothing can be sealed";
    }
    EXPECT_EQ(set_log_base(DirtyLogFile::Kind::kSealed), Answer::kAccepted);
}

// --- Behind an IOMMU the log counts guest physical pages ---------------------------------------

class DirtyLogIommu : public IommuTest, public ::testing::WithParamInterface<IommuTestOptions> {
  protected:
    DirtyLogIommu() : IommuTest(GetParam()) {}

    /// Up to the last page of guest physical memory.
    [[nodiscard]] uint64_t log_pages() {
        uint64_t last = 0;
        for (uint64_t at = 0; at < iommu().bytes(); at += kLogPage) {
            last = std::max(last, page_of(driver::offset_by(iommu().start(), at)));
        }
        return (last / 8 + 1) * 8;
    }

    /// The guest physical page behind a virtual address.
    [[nodiscard]] uint64_t page_of(GuestAddr iova) { return iommu().target_of(iova) / kLogPage; }

    [[nodiscard]] Answer set_log_base(const DirtyLogFile& log) {
        return iommu().with_frontend([&](driver::Frontend& frontend) {
            return frontend.set_log_base({.size = log.bytes(), .offset = 0}, log.fd());
        });
    }

    [[nodiscard]] Answer set_logging(bool on) {
        const FeatureSet features = guest().agreement().features;
        return iommu().with_frontend([&](driver::Frontend& frontend) {
            return frontend.set_features(on ? features.with(wire::kLogAllBit) : features);
        });
    }
};

std::vector<IommuTestOptions> iommu_shapes() {
    std::vector<IommuTestOptions> shapes;
    for (const bool packed : {false, true}) {
        for (const bool scattered : {false, true}) {
            if (!scattered || !kPortableBuild) {
                shapes.push_back({.packed = packed,
                                  .scattered = scattered,
                                  .guest_addresses = true,
                                  .queue_size = 512});
            }
        }
    }
    for (IommuTestOptions& shape : shapes) {
        shape.protocol_features = FeatureSet::of({bit(wire::ProtocolFeature::kLogShmfd)});
    }
    return shapes;
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         DirtyLogIommu,
                         ::testing::ValuesIn(iommu_shapes()),
                         [](const auto& shape) {
                             return std::string(shape.param.packed ? "Packed" : "Split") +
                                    (shape.param.scattered ? "Scattered" : "");
                         });

TEST_P(DirtyLogIommu, PhysicalPagesAreMarked) {
    start();
    ASSERT_EQ(guest().echo_problem(), "");
    const DirtyLogFile log(log_pages());
    ASSERT_EQ(set_log_base(log), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    const auto ring =
        guest().queue().vring_address(guest().memory(), driver::RingAddressKind::kGuest);
    // The whole ring when logging begins: 512 entries are two pages.
    const uint64_t written = GetParam().packed ? ring.descriptor : ring.used;
    Pages marked = log.take_pages();
    EXPECT_TRUE(marked.contains(page_of(GuestAddr{written})));
    EXPECT_TRUE(marked.contains(page_of(GuestAddr{written + 4096})));
    EXPECT_FALSE(marked.contains(page_of(guest().buffer_page())));
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(guest().echo_problem(), "");
        ASSERT_TRUE(log.take_pages().contains(page_of(guest().buffer_page()))) << i;
    }
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

// QEMU gives an I/O virtual address there, which says nothing of guest memory.
TEST_P(DirtyLogIommu, LogAddressIsNotTaken) {
    start();
    ASSERT_EQ(guest().echo_problem(), "");
    const DirtyLogFile log(log_pages());
    ASSERT_EQ(set_log_base(log), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    auto ring = guest().queue().vring_address(guest().memory(), driver::RingAddressKind::kGuest);
    ring.flags = wire::kVringAddressFlagLog;
    ring.log = 3 * kLogPage;
    ASSERT_EQ(iommu().with_frontend(
                  [&](driver::Frontend& frontend) { return frontend.set_vring_addr(ring); }),
              Answer::kAccepted);
    ASSERT_EQ(guest().echo_problem(), "");
    EXPECT_FALSE(log.pages().contains(3));
}

}  // namespace
}  // namespace outrigger::testing
