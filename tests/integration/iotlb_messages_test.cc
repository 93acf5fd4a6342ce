// SPDX-License-Identifier: Apache-2.0
/// IOTLB_MSG as a message, and GPA_ADDRESSES without an IOMMU.
#include "tests/support/iommu_test.h"

namespace outrigger::testing {
namespace {

using wire::ProtocolFeature;

constexpr uint64_t kPage = driver::Iommu::kPage;

// --- Messages ----------------------------------------------------------------------------------

class IotlbMessageTest : public IommuTest {
  protected:
    void SetUp() override {
        guest_.emplace(frontend(), IommuTestOptions{});
        guest().set_up();
    }

    [[nodiscard]] wire::Iotlb good() {
        return {.iova = 0x5000,
                .size = kPage,
                .user_address = iommu().target_of(kIommuMemoryStart),
                .permissions = 3,
                .type = wire::kIotlbUpdate,
                .padding = {}};
    }

    [[nodiscard]] uint64_t send(const wire::Iotlb& message) {
        return iommu()
            .with_frontend([&](driver::Frontend& f) { return f.iotlb(message); })
            .value_or(UINT64_MAX);
    }

    void expect_refused(const wire::Iotlb& message) {
        const uint64_t before = counters().refused.value(Refusal::kTranslation);
        EXPECT_EQ(send(message), 1U);
        EXPECT_EQ(counters().refused.value(Refusal::kTranslation), before + 1);
        EXPECT_EQ(send(good()), 0U);
    }
};

TEST_F(IotlbMessageTest, UpdateIsAnsweredWithZero) {
    EXPECT_EQ(send(good()), 0U);
    EXPECT_EQ(counters().iotlb_updates.value(), 1U);
}

TEST_F(IotlbMessageTest, InvalidateOfWhatIsNotThereIsAnsweredWithZero) {
    EXPECT_EQ(send({.iova = 0x5000,
                    .size = kPage,
                    .user_address = 0,
                    .permissions = 0,
                    .type = wire::kIotlbInvalidate,
                    .padding = {}}),
              0U);
}

TEST_F(IotlbMessageTest, TargetBehindTheEndOfMemoryIsRefused) {
    auto message = good();
    message.user_address += kIommuMemoryBytes - kPage + 1;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, TargetInFrontOfMemoryIsRefused) {
    auto message = good();
    message.user_address -= 1;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, SizeBeyondMemoryIsRefused) {
    auto message = good();
    message.size = kIommuMemoryBytes + 1;
    expect_refused(message);
    message.size = UINT64_MAX;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, EmptyUpdateIsRefused) {
    auto message = good();
    message.size = 0;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, WrappingAddressIsRefused) {
    auto message = good();
    message.iova = UINT64_MAX - kPage + 2;
    expect_refused(message);
    message.type = wire::kIotlbInvalidate;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, ImpossiblePermissionsAreRefused) {
    auto message = good();
    message.permissions = 0;
    expect_refused(message);
    message.permissions = 4;
    expect_refused(message);
}

TEST_F(IotlbMessageTest, OtherTypesAreRefused) {
    for (const uint8_t type : std::initializer_list<uint8_t>{0, 1, 4, 5, 255}) {
        auto message = good();
        message.type = type;
        expect_refused(message);
    }
}

TEST_F(IotlbMessageTest, RunningRingsKeepTheirAddressMode) {
    guest().start_queues();
    ASSERT_EQ(guest().echo_problem(), "");
    const auto answer = iommu().with_frontend([](driver::Frontend& f) {
        return f.set_features(
            f.get_features().value_or(FeatureSet()).without(driver::kAccessPlatformBit));
    });
    EXPECT_EQ(answer, Answer::kRefused);
    EXPECT_EQ(guest().echo_problem(), "");
}

TEST_F(IotlbMessageTest, ResetForgetsTranslations) {
    guest().start_queues();
    ASSERT_EQ(guest().echo_problem(), "");
    iommu().with_frontend(
        [&](driver::Frontend& f) { ASSERT_EQ(f.set_status(0), Answer::kAccepted); });
    const uint64_t before = iommu().misses();
    guest().queue().reset();
    iommu().with_frontend([&](driver::Frontend& f) {
        ASSERT_EQ(guest().queue().start(f, guest().memory(), driver::RingAddressKind::kGuest),
                  Answer::kAccepted);
        ASSERT_EQ(f.set_vring_enable(0, 1), Answer::kAccepted);
    });
    EXPECT_EQ(guest().echo_problem(), "");
    EXPECT_GT(iommu().misses(), before);
}

class IotlbGateTest : public SessionTest {};

TEST_F(IotlbGateTest, WithoutAccessPlatformIotlbMessagesAreRefused) {
    run();
    const auto reply = frontend().iotlb({.iova = 0,
                                         .size = kPage,
                                         .user_address = 0,
                                         .permissions = 3,
                                         .type = wire::kIotlbUpdate,
                                         .padding = {}});
    EXPECT_EQ(reply.value_or(9), 1U);
    EXPECT_EQ(counters().refused.value(Refusal::kNotNegotiated), 1U);
    expect_echo();
}

// --- GPA_ADDRESSES without an IOMMU ------------------------------------------------------------

class GuestAddressesTest : public SessionTest {
  protected:
    static constexpr FeatureSet kProtocol =
        driver::kUsualProtocolFeatures.with(bit(ProtocolFeature::kGpaAddresses));
};

TEST_F(GuestAddressesTest, RingsAreNamedByGuestAddresses) {
    run({.protocol_features = kProtocol});
    expect_echo();
}

TEST_F(GuestAddressesTest, UserAddressesOfRingsAreRefused) {
    negotiate({.protocol_features = kProtocol});
    const auto region = memory_.regions()[0];
    ASSERT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
    auto queue = driver::create_queue(memory_, running_.agreement, {}, 0);
    ASSERT_TRUE(queue);
    expect_refusal(Refusal::kRingAddress,
                   [&] { return frontend().set_vring_addr(queue->vring_address(memory_)); });
}

TEST_F(GuestAddressesTest, RegionIsRemovedWhateverItsUserAddress) {
    negotiate({.protocol_features = kProtocol});
    const auto region = memory_.regions()[0];
    ASSERT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
    auto description = memory_.description(region);
    description.user_address = description.guest_address;
    EXPECT_EQ(frontend().rem_mem_reg(description), Answer::kAccepted);
}

}  // namespace
}  // namespace outrigger::testing
