// SPDX-License-Identifier: Apache-2.0
// Postcopy as a front end sees it: rings whose memory comes page by page, and what happens to those
// who wait for a page that never comes. vhost-user "Migration".
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/userfault.h"

#include "tests/support/pager.h"
#include "tests/support/process_counts.h"
#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

/// Null where the system or the build has none, or we may not.
const UserfaultSource* kernel_source() {
    static const auto source = open_userfault_source();
    return source ? source->get() : nullptr;
}

constexpr FeatureSet kPostcopyFeatures =
    driver::kUsualProtocolFeatures | FeatureSet::of({bit(wire::ProtocolFeature::kPagefault)});

class Postcopy : public SessionTest, public ::testing::WithParamInterface<bool> {
  protected:
    Postcopy()
        : SessionTest(EchoDeviceOptions{},
                      SessionHostOptions{.session = {.message_timeout = kPatience,
                                                     .userfaults = kernel_source()}}),
          options_{.protocol_features = kPostcopyFeatures, .packed = GetParam()} {}

    void SetUp() override {
        if (kernel_source() == nullptr) {
            GTEST_SKIP() << open_userfault_source().error().message;
        }
    }

    void negotiate_and_listen() {
        negotiate(options_);
        ASSERT_TRUE(
            running_.agreement.protocol_features.has(bit(wire::ProtocolFeature::kPagefault)));
        auto advice = frontend().query(number(FrontendRequest::kPostcopyAdvise));
        ASSERT_TRUE(advice) << describe(advice.error());
        EXPECT_TRUE(advice->payload.empty());
        ASSERT_EQ(advice->fds.size(), 1U);
        pager_.emplace(std::move(advice->fds[0]), memory_);
        ASSERT_EQ(frontend().call(number(FrontendRequest::kPostcopyListen)), Answer::kAccepted);
    }

    /// The guest on the source: a request is on its way, and nobody has taken it yet.
    void leave_a_request() {
        queues().push_back(driver::create_queue(memory_, running_.agreement, options_, 0).value());
        buffers().fill();
        constexpr uint64_t kToken = 7;
        ASSERT_TRUE(queue().try_add(buffers().chain(), kToken));
        queue().publish();
        queue().kick();
        for (const driver::RegionId region : memory_.regions()) {
            pager_->evict(region);
        }
    }

    /// ADD_MEM_REG, which is answered with the address there.
    void add_region(driver::RegionId id) {
        const wire::SingleMemoryRegion sent = {.padding = 0, .region = memory_.description(id)};
        const int fd = memory_.fd(id);
        const auto reply =
            frontend().query(number(FrontendRequest::kAddMemReg), bytes_of(sent), {&fd, 1});
        ASSERT_TRUE(reply) << describe(reply.error());
        ASSERT_EQ(reply->payload.size(), sizeof sent);
        EXPECT_TRUE(reply->fds.empty());
        wire::SingleMemoryRegion got;
        std::memcpy(&got, reply->payload.data(), sizeof got);
        expect_same_but_base(sent.region, got.region);
        pager_->set_base(id, got.region.user_address);
    }

    void expect_same_but_base(const wire::MemoryRegion& sent, const wire::MemoryRegion& got) {
        EXPECT_EQ(got.guest_address, sent.guest_address);
        EXPECT_EQ(got.size, sent.size);
        EXPECT_EQ(got.mmap_offset, sent.mmap_offset);
        EXPECT_NE(got.user_address, sent.user_address);
    }

    [[nodiscard]] Answer acknowledge(FrontendRequest request, uint64_t value = 0) {
        return frontend().call(number(request), bytes_of(value));
    }

    /// As QEMU does it: nobody waits for an answer.
    void acknowledge_unasked(FrontendRequest request) {
        const uint64_t value = 0;
        ASSERT_EQ(frontend().send(
                      {.request = number(request), .flags = wire::kVersion, .size = sizeof value},
                      bytes_of(value)),
                  Answer::kUnasked);
    }

    void start_queue() {
        ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }

    void expect_answered() {
        ASSERT_TRUE(queue().wait_call(driver::after(kPatience)));
        const auto completion = queue().poll_used();
        ASSERT_TRUE(completion);
        EXPECT_EQ(completion->length, EchoBuffers::kBytes);
        EXPECT_TRUE(buffers().answered());
    }

    void expect_status(FrontendRequest request, uint64_t value) {
        const auto reply = frontend().query(number(request));
        ASSERT_TRUE(reply) << describe(reply.error());
        ASSERT_EQ(reply->payload.size(), sizeof value);
        EXPECT_EQ(std::memcmp(reply->payload.data(), &value, sizeof value), 0);
    }

    /// A ring that waits for its first page: the pager keeps it back.
    void start_and_wait_for_a_page() {
        negotiate_and_listen();
        ASSERT_FALSE(HasFatalFailure());
        leave_a_request();
        pager_->hold(true);
        add_region(memory_.regions()[0]);
        start_queue();
        acknowledge_unasked(FrontendRequest::kAddMemReg);
        ASSERT_TRUE(eventually([&] { return pager_->asked() == 1; }));
    }

    const driver::BringUpOptions options_;
    std::optional<Pager> pager_;
};

INSTANTIATE_TEST_SUITE_P(Rings, Postcopy, ::testing::Bool(), [](const auto& row) -> std::string {
    return row.param ? "Packed" : "Split";
});

TEST_P(Postcopy, RingIsServedWhileItsPagesCome) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    leave_a_request();
    add_region(memory_.regions()[0]);
    start_queue();
    ASSERT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
    expect_answered();
    EXPECT_GE(pager_->brought(), 2U);  // the ring's and the buffers', and none of the rest
    EXPECT_LE(pager_->brought(), 8U);
    EXPECT_EQ(pager_->strays(), 0U);
    EXPECT_FALSE(pager_->has_pages_of_others());
    expect_echo();
    expect_status(FrontendRequest::kPostcopyEnd, 0);
    expect_echo();
}

TEST_P(Postcopy, NothingIsTouchedBeforeTheAcknowledgement) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    leave_a_request();
    add_region(memory_.regions()[0]);
    start_queue();
    give_others_a_moment();
    EXPECT_EQ(counters().rings_started.value(), 0U);
    EXPECT_EQ(pager_->asked(), 0U);
    EXPECT_FALSE(pager_->has_pages_of_others());
    acknowledge_unasked(FrontendRequest::kAddMemReg);
    expect_answered();
}

TEST_P(Postcopy, RegionsOfOneTableComeTogether) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    const auto second =
        memory_.add_region({.guest_address = GuestAddr{0x1000'0000}, .size = 0x10000}).value();
    leave_a_request();

    struct [[gnu::packed]] Table {
        wire::MemoryTableHeader header{.region_count = 2, .padding = 0};
        std::array<wire::MemoryRegion, 2> regions;
    };

    const std::array ids = {second, memory_.regions()[0]};  // not sorted
    Table sent;
    sent.regions = {memory_.description(ids[0]), memory_.description(ids[1])};
    const std::array fds = {memory_.fd(ids[0]), memory_.fd(ids[1])};
    const auto reply = frontend().query(number(FrontendRequest::kSetMemTable), bytes_of(sent), fds);
    ASSERT_TRUE(reply) << describe(reply.error());
    ASSERT_EQ(reply->payload.size(), sizeof sent);
    Table got;
    std::memcpy(&got, reply->payload.data(), sizeof got);
    for (size_t i = 0; i < ids.size(); ++i) {
        const wire::MemoryRegion region = got.regions[i];
        expect_same_but_base(sent.regions[i], region);
        pager_->set_base(ids[i], region.user_address);
    }
    start_queue();
    acknowledge_unasked(FrontendRequest::kSetMemTable);
    expect_answered();
    EXPECT_EQ(pager_->strays(), 0U);
}

TEST_P(Postcopy, RegionsThatAreAddedOneByOneAreAcknowledgedOnce) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    (void)memory_.add_region({.guest_address = GuestAddr{0x1000'0000}, .size = 0x10000}).value();
    leave_a_request();
    for (const driver::RegionId region : memory_.regions()) {
        add_region(region);
    }
    start_queue();
    acknowledge_unasked(FrontendRequest::kAddMemReg);
    expect_answered();
    // QEMU's table changes once more, by a region that goes.
    EXPECT_EQ(frontend().rem_mem_reg(memory_, memory_.regions()[1]), Answer::kAccepted);
    EXPECT_EQ(acknowledge(FrontendRequest::kRemMemReg), Answer::kAccepted);
    expect_echo();
    expect_status(FrontendRequest::kPostcopyEnd, 0);
}

TEST_P(Postcopy, PageThatIsLateKeepsOnlyItsRingWaiting) {
    start_and_wait_for_a_page();
    ASSERT_FALSE(HasFatalFailure());
    bool ran = false;
    host_->on_control([&] { ran = true; });
    EXPECT_TRUE(ran);
    pager_->hold(false);
    expect_answered();
}

TEST_P(Postcopy, WhoWaitsForAPageGoesOnWhenTheFrontEndLeaves) {
    start_and_wait_for_a_page();
    ASSERT_FALSE(HasFatalFailure());
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    // Nobody wrote zeroes where the guest's data will be.
    EXPECT_FALSE(pager_->has_pages_of_others());
    reconnect();
    expect_echo();
}

TEST_P(Postcopy, WhoWaitsForAPageGoesOnWhenTheSessionEnds) {
    start_and_wait_for_a_page();
    ASSERT_FALSE(HasFatalFailure());
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
    EXPECT_FALSE(pager_->has_pages_of_others());
}

TEST_P(Postcopy, PagesThatGoWhileRingsRunComeAgain) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    leave_a_request();
    add_region(memory_.regions()[0]);
    start_queue();
    acknowledge_unasked(FrontendRequest::kAddMemReg);
    expect_answered();
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 8));
    queue().publish();
    pager_->hold(true);
    const size_t before = pager_->asked();
    pager_->evict(memory_.regions()[0]);
    queue().kick();
    ASSERT_TRUE(eventually([&] { return pager_->asked() > before; }));
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
}

TEST_P(Postcopy, BehindTheEndMissingPagesAreZeroes) {
    negotiate_and_listen();
    ASSERT_FALSE(HasFatalFailure());
    leave_a_request();
    add_region(memory_.regions()[0]);
    start_queue();
    acknowledge_unasked(FrontendRequest::kAddMemReg);
    expect_answered();
    const size_t asked = pager_->asked();
    expect_status(FrontendRequest::kPostcopyEnd, 0);
    queue().reset();
    pager_->evict(memory_.regions()[0]);  // all of a fresh ring is zeroes
    queue().kick();
    give_others_a_moment();
    EXPECT_EQ(pager_->asked(), asked);
    EXPECT_EQ(acknowledge(FrontendRequest::kRemMemReg), Answer::kClosed);  // means nothing any more
}

TEST_P(Postcopy, DescriptorsOfASessionGoWithItAtEveryStep) {
    std::optional<ProcessCounts> before;
    for (int steps = 0; steps <= 5; ++steps) {
        if (steps > 0) {
            negotiate(options_);
        }
        if (steps > 1) {
            auto advice = frontend().query(number(FrontendRequest::kPostcopyAdvise));
            ASSERT_TRUE(advice && advice->fds.size() == 1);
            pager_.emplace(std::move(advice->fds[0]), memory_);
        }
        if (steps > 2) {
            EXPECT_EQ(frontend().call(number(FrontendRequest::kPostcopyListen)), Answer::kAccepted);
        }
        if (steps > 3) {
            add_region(memory_.regions()[0]);
        }
        if (steps > 4) {
            EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
        }
        frontend().close();
        EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
        pager_.reset();
        reconnect();
        before = before.value_or(ProcessCounts::now());
        EXPECT_TRUE(comes_down_to(*before)) << "step " << steps;
    }
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
