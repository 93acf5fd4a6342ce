// SPDX-License-Identifier: Apache-2.0
// The messages of a postcopy migration in orders that are none, against a kernel that is made up.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include <fcntl.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/userfault.h"

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

class FakeUserfaults final : public UserfaultSource {
  public:
    struct Counts {
        std::atomic<int> open = 0;  // not closed yet
        std::atomic<int> armed = 0;
        std::atomic<int> disarmed = 0;
        std::atomic<int> given_up = 0;
        std::atomic<bool> refuses_memory = false;
        std::atomic<bool> refuses_all = false;
    };

    [[nodiscard]] Result<std::unique_ptr<Userfault>> open() const override {
        if (counts_->refuses_all) {
            return failure(Error{.message = "no more userfaultfds"});
        }
        return std::make_unique<One>(counts_);
    }

    /// Any thread.
    [[nodiscard]] Counts& counts() { return *counts_; }

  private:
    class One final : public Userfault {
      public:
        explicit One(std::shared_ptr<Counts> counts) : counts_(std::move(counts)) {
            ++counts_->open;
        }

        One(const One&) = delete;
        One& operator=(const One&) = delete;

        ~One() override { --counts_->open; }

        [[nodiscard]] Result<UniqueFd> share() const override {
            return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
        }

        [[nodiscard]] Result<void> arm(std::span<std::byte> /*pages*/) override {
            if (counts_->refuses_memory) {
                return failure(Error{.message = "no such memory"});
            }
            ++counts_->armed;
            return {};
        }

        void disarm(std::span<std::byte> /*pages*/) override { ++counts_->disarmed; }

        void give_up(std::span<std::byte> /*pages*/) override { ++counts_->given_up; }

      private:
        std::shared_ptr<Counts> counts_;
    };

    std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
};

class PostcopyOrder : public SessionTest {
  protected:
    PostcopyOrder() : PostcopyOrder(std::make_shared<FakeUserfaults>()) {}

    explicit PostcopyOrder(const std::shared_ptr<FakeUserfaults>& userfaults)
        : SessionTest(EchoDeviceOptions{},
                      SessionHostOptions{.session = {.message_timeout = kPatience,
                                                     .userfaults = userfaults.get()}}),
          userfaults_(userfaults) {
        negotiate({.protocol_features = driver::kUsualProtocolFeatures |
                                        FeatureSet::of({bit(wire::ProtocolFeature::kPagefault)})});
    }

    ~PostcopyOrder() override { host_.reset(); }  // before what it borrows

    [[nodiscard]] Answer advise() {
        const auto reply = frontend().query(number(FrontendRequest::kPostcopyAdvise));
        if (!reply) {
            return reply.error();
        }
        return reply->fds.size() == 1 && reply->payload.empty() ? Answer::kAccepted
                                                                : Answer::kMalformed;
    }

    [[nodiscard]] Answer listen() {
        return frontend().call(number(FrontendRequest::kPostcopyListen));
    }

    [[nodiscard]] uint64_t end() {
        const auto reply = frontend().query(number(FrontendRequest::kPostcopyEnd));
        uint64_t value = UINT64_MAX;
        if (reply && reply->payload.size() == sizeof value) {
            std::memcpy(&value, reply->payload.data(), sizeof value);
        }
        return value;
    }

    /// kAccepted: answered with addresses.
    [[nodiscard]] Answer add_region(driver::RegionId id) {
        return add_region(memory_.description(id), memory_.fd(id));
    }

    [[nodiscard]] Answer add_region(const wire::MemoryRegion& description, int fd) {
        const wire::SingleMemoryRegion region = {.padding = 0, .region = description};
        const auto reply =
            frontend().query(number(FrontendRequest::kAddMemReg), bytes_of(region), {&fd, 1});
        if (!reply) {
            return reply.error();
        }
        return reply->payload.size() == sizeof region ? Answer::kAccepted : Answer::kMalformed;
    }

    [[nodiscard]] Answer add_region() { return add_region(memory_.regions()[0]); }

    [[nodiscard]] Answer set_table() {
        struct [[gnu::packed]] Table {
            wire::MemoryTableHeader header{.region_count = 1, .padding = 0};
            wire::MemoryRegion region;
        };

        const driver::RegionId id = memory_.regions()[0];
        Table table;
        table.region = memory_.description(id);
        const int fd = memory_.fd(id);
        const auto reply =
            frontend().query(number(FrontendRequest::kSetMemTable), bytes_of(table), {&fd, 1});
        if (!reply) {
            return reply.error();
        }
        return reply->payload.size() == sizeof table ? Answer::kAccepted : Answer::kMalformed;
    }

    [[nodiscard]] Answer acknowledge(FrontendRequest request, uint64_t value = 0) {
        return frontend().call(number(request), bytes_of(value));
    }

    void listen_well() {
        ASSERT_EQ(advise(), Answer::kAccepted);
        ASSERT_EQ(listen(), Answer::kAccepted);
    }

    /// The refusal ends the session, and nothing is left of its postcopy.
    void expect_closed_for(Refusal refusal) {
        EXPECT_EQ(host_->wait_closed(), CloseReason::kRefused);
        EXPECT_EQ(counters().refused.value(refusal), 1U);
        EXPECT_EQ(userfaults_->counts().open, 0);
    }

    std::shared_ptr<FakeUserfaults> userfaults_;
};

TEST_F(PostcopyOrder, ListenBehindNoAdviceIsRefused) {
    expect_refusal(Refusal::kState, [&] { return listen(); });
    expect_echo();
}

TEST_F(PostcopyOrder, ListenWithMemoryIsRefused) {
    ASSERT_EQ(advise(), Answer::kAccepted);
    ASSERT_EQ(frontend().set_mem_table(memory_), Answer::kAccepted);
    expect_refusal(Refusal::kState, [&] { return listen(); });
    EXPECT_EQ(end(), 0U);
    EXPECT_EQ(userfaults_->counts().open, 0);
}

TEST_F(PostcopyOrder, SecondListenIsRefused) {
    listen_well();
    expect_refusal(Refusal::kState, [&] { return listen(); });
    EXPECT_EQ(add_region(), Answer::kAccepted);
}

TEST_F(PostcopyOrder, ARegionThatIsAddedAgainIsArmedOnceAndAnsweredWithItsAddress) {
    listen_well();
    EXPECT_EQ(add_region(), Answer::kAccepted);
    EXPECT_EQ(add_region(), Answer::kAccepted);
    EXPECT_EQ(userfaults_->counts().armed, 1);
    EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
    // The second pair's, after what the first one had acknowledged.
    EXPECT_EQ(add_region(), Answer::kAccepted);
    EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
    EXPECT_EQ(userfaults_->counts().armed, 1);
    EXPECT_EQ(end(), 0U);
}

TEST_F(PostcopyOrder, SecondAdviceEndsTheSession) {
    ASSERT_EQ(advise(), Answer::kAccepted);
    EXPECT_EQ(advise(), Answer::kClosed);
    expect_closed_for(Refusal::kState);
}

TEST_F(PostcopyOrder, AdviceThatTheHostCannotFollowEndsTheSession) {
    userfaults_->counts().refuses_all = true;
    EXPECT_EQ(advise(), Answer::kClosed);
    expect_closed_for(Refusal::kUserfault);
}

TEST_F(PostcopyOrder, EndBehindNoAdviceFails) {
    EXPECT_EQ(end(), 1U);
    expect_echo();
}

TEST_F(PostcopyOrder, EndBehindAdviceIsTheEndOfIt) {
    ASSERT_EQ(advise(), Answer::kAccepted);
    EXPECT_EQ(end(), 0U);
    EXPECT_EQ(end(), 1U);
    EXPECT_EQ(userfaults_->counts().open, 0);
    expect_echo();
}

TEST_F(PostcopyOrder, EndWhileAnAcknowledgementIsOwedFails) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    EXPECT_EQ(end(), 1U);
    EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
    EXPECT_EQ(end(), 0U);
    EXPECT_EQ(userfaults_->counts().armed, 1);
    EXPECT_EQ(userfaults_->counts().disarmed, 1);
    EXPECT_EQ(userfaults_->counts().given_up, 0);
}

TEST_F(PostcopyOrder, AnotherMigrationMayFollow) {
    for (int round = 0; round < 2; ++round) {
        listen_well();
        ASSERT_EQ(add_region(), Answer::kAccepted);
        ASSERT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
        EXPECT_EQ(end(), 0U);
        EXPECT_EQ(frontend().rem_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    }
    EXPECT_EQ(userfaults_->counts().armed, 2);
    EXPECT_EQ(userfaults_->counts().open, 0);
}

TEST_F(PostcopyOrder, AcknowledgementOfNothingIsRefused) {
    listen_well();
    expect_refusal(Refusal::kState, [&] { return acknowledge(FrontendRequest::kAddMemReg); });
    expect_refusal(Refusal::kState, [&] { return acknowledge(FrontendRequest::kSetMemTable); });
    // This one QEMU sends when a region only went.
    EXPECT_EQ(acknowledge(FrontendRequest::kRemMemReg), Answer::kAccepted);
}

TEST_F(PostcopyOrder, AcknowledgementOfAnotherNumberIsRefused) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    expect_refusal(Refusal::kState, [&] { return acknowledge(FrontendRequest::kSetMemTable); });
    expect_refusal(Refusal::kState, [&] { return acknowledge(FrontendRequest::kRemMemReg); });
    EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
}

TEST_F(PostcopyOrder, AcknowledgementThatSaysItFailedDropsTheMemory) {
    listen_well();
    ASSERT_EQ(set_table(), Answer::kAccepted);
    expect_refusal(Refusal::kUserfault,
                   [&] { return acknowledge(FrontendRequest::kSetMemTable, 1); });
    // It can begin anew.
    ASSERT_EQ(set_table(), Answer::kAccepted);
    EXPECT_EQ(acknowledge(FrontendRequest::kSetMemTable), Answer::kAccepted);
}

TEST_F(PostcopyOrder, TableWhileAnotherIsNotAcknowledgedEndsTheSession) {
    listen_well();
    ASSERT_EQ(set_table(), Answer::kAccepted);
    EXPECT_EQ(set_table(), Answer::kClosed);
    expect_closed_for(Refusal::kState);
    EXPECT_EQ(userfaults_->counts().given_up, 1);
}

TEST_F(PostcopyOrder, RegionWhileATableIsNotAcknowledgedEndsTheSession) {
    listen_well();
    ASSERT_EQ(set_table(), Answer::kAccepted);
    EXPECT_EQ(add_region(), Answer::kClosed);
    expect_closed_for(Refusal::kState);
}

TEST_F(PostcopyOrder, RemovalWhileAnAcknowledgementIsOwedIsRefused) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    expect_refusal(Refusal::kState,
                   [&] { return frontend().rem_mem_reg(memory_, memory_.regions()[0]); });
}

TEST_F(PostcopyOrder, RegionOverAnotherEndsTheSession) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    auto smaller = memory_.description(memory_.regions()[0]);
    smaller.size -= 0x1000;
    EXPECT_EQ(add_region(smaller, memory_.fd(memory_.regions()[0])), Answer::kClosed);
    expect_closed_for(Refusal::kMemoryTable);
}

TEST_F(PostcopyOrder, MemoryThatCannotWaitEndsTheSession) {
    listen_well();
    userfaults_->counts().refuses_memory = true;
    EXPECT_EQ(add_region(), Answer::kClosed);
    expect_closed_for(Refusal::kUserfault);
}

TEST_F(PostcopyOrder, MemoryWithoutPostcopyIsAcknowledgedAsEver) {
    ASSERT_EQ(advise(), Answer::kAccepted);
    EXPECT_EQ(frontend().add_mem_reg(memory_, memory_.regions()[0]), Answer::kAccepted);
    EXPECT_EQ(userfaults_->counts().armed, 0);
    // An acknowledgement by the front end has no meaning then: it is a message cut short.
    EXPECT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kClosed);
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPayloadSize);
}

TEST_F(PostcopyOrder, AcknowledgementWithADescriptorIsMalformed) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    const uint64_t value = 0;
    const int fd = memory_.fd(memory_.regions()[0]);
    EXPECT_EQ(frontend().call(number(FrontendRequest::kAddMemReg), bytes_of(value), {&fd, 1}),
              Answer::kClosed);
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPayloadSize);
}

TEST_F(PostcopyOrder, SessionThatEndsGivesUpWhatWasArmed) {
    listen_well();
    ASSERT_EQ(add_region(), Answer::kAccepted);
    ASSERT_EQ(acknowledge(FrontendRequest::kAddMemReg), Answer::kAccepted);
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    EXPECT_EQ(userfaults_->counts().given_up, 1);
    EXPECT_EQ(userfaults_->counts().disarmed, 0);
    EXPECT_EQ(userfaults_->counts().open, 0);
}

TEST_F(PostcopyOrder, NoVirtualIommuIsOffered) {
    EXPECT_FALSE(frontend().get_features().value().has(33));
    EXPECT_TRUE(
        frontend().get_protocol_features().value().has(bit(wire::ProtocolFeature::kPagefault)));
}

using WithoutPostcopy = SessionTest;

TEST_F(WithoutPostcopy, IsNotOffered) {
    EXPECT_TRUE(frontend().get_features().value().has(33));
    EXPECT_FALSE(
        frontend().get_protocol_features().value().has(bit(wire::ProtocolFeature::kPagefault)));
}

}  // namespace
}  // namespace outrigger::testing
