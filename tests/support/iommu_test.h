// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests with a virtual IOMMU: the device is served, its rings and buffers lie at
/// I/O virtual addresses, and the front end answers what is missed.
#pragma once

#include <memory>

#include "tests/support/session_test.h"
#include "tools/driver/feature_bits.h"
#include "tools/driver/iommu.h"

namespace outrigger::testing {

using driver::Iommu;
using driver::MissAnswer;

/// 128 pages: less than there are memory slots, so that each can be a region.
inline constexpr uint64_t kIommuMemoryBytes = 128 * Iommu::kPage;
inline constexpr GuestAddr kIommuMemoryStart{0x7'1000'0000};

struct IommuTestOptions {
    bool packed = false;
    bool scattered = false;
    bool guest_addresses = false;
    bool has_channel = true;
    uint16_t queue_count = 1;
    uint16_t queue_size = 256;
    uint64_t memory_bytes = kIommuMemoryBytes;
    FeatureSet protocol_features{};  ///< beside the usual ones
    bool ready_iommu = true;         ///< misses are answered when the rings start
};

/// What both sides have once the rings run.
class IommuGuest final {
  public:
    IommuGuest(driver::Frontend& frontend, const IommuTestOptions& options)
        : options_(options),
          memory_(driver::GuestMemory::create(options.memory_bytes, kIommuMemoryStart).value()),
          iommu_(frontend,
                 memory_,
                 {.scattered = options.scattered, .guest_addresses = options.guest_addresses}) {}

    /// Features, memory, channel; no ring yet.
    void set_up() {
        using wire::ProtocolFeature;
        FeatureSet protocol = driver::kUsualProtocolFeatures | options_.protocol_features;
        if (options_.has_channel) {
            protocol = protocol.with(bit(ProtocolFeature::kBackendReq));
        }
        if (options_.guest_addresses) {
            protocol = protocol.with(bit(ProtocolFeature::kGpaAddresses));
        }
        iommu_.with_frontend([&](driver::Frontend& frontend) {
            const auto agreement = driver::negotiate(
                frontend,
                {.features = driver::kUsualFeatures.with(driver::kAccessPlatformBit),
                 .protocol_features = protocol,
                 .packed = options_.packed});
            ASSERT_TRUE(agreement);
            agreement_ = *agreement;
        });
        ASSERT_TRUE(agreement_.features.has(driver::kAccessPlatformBit));
        ASSERT_EQ(iommu_.share_memory(), driver::Answer::kAccepted);
        if (options_.has_channel) {
            ASSERT_EQ(iommu_.serve(), driver::Answer::kAccepted);
        }
    }

    void start_queues() {
        for (uint16_t index = 0; index < options_.queue_count; ++index) {
            auto queue = driver::create_queue(memory_,
                                              agreement_,
                                              {.packed = options_.packed,
                                               .queue_count = options_.queue_count,
                                               .queue_size = options_.queue_size},
                                              index);
            ASSERT_TRUE(queue);
            queues_.push_back(*std::move(queue));
            iommu_.with_frontend([&](driver::Frontend& frontend) {
                ASSERT_EQ(queues_.back().start(frontend, memory_, driver::RingAddressKind::kGuest),
                          driver::Answer::kAccepted);
                ASSERT_EQ(frontend.set_vring_enable(index, 1), driver::Answer::kAccepted);
            });
        }
    }

    /// ENABLE 0 and GET_VRING_BASE.
    [[nodiscard]] driver::Frontend::Reply<uint32_t> stop(size_t index = 0) {
        return iommu_.with_frontend(
            [&](driver::Frontend& frontend) { return queues_[index].stop(frontend); });
    }

    [[nodiscard]] const driver::Agreement& agreement() const { return agreement_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] Iommu& iommu() { return iommu_; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index = 0) { return queues_.at(index); }

    /// The buffers of one ring's requests, on a page of their own.
    [[nodiscard]] EchoBuffers& buffers(size_t index = 0) {
        const auto found = buffers_.find(index);
        if (found != buffers_.end()) {
            return found->second;
        }
        (void)memory_.allocate(1, Iommu::kPage).value();
        EchoBuffers& made = buffers_.try_emplace(index, memory_).first->second;
        (void)memory_.allocate(1, Iommu::kPage).value();
        return made;
    }

    /// That page.
    [[nodiscard]] GuestAddr buffer_page(size_t index = 0) {
        return GuestAddr{static_cast<uint64_t>(buffers(index).request()) & ~(Iommu::kPage - 1)};
    }

    [[nodiscard]] std::string echo_problem(
        size_t index = 0, driver::ChainLayout layout = driver::ChainLayout::kDirect) {
        return testing::echo_problem(queue(index), buffers(index), layout);
    }

  private:
    IommuTestOptions options_;
    driver::GuestMemory memory_;
    Iommu iommu_;
    driver::Agreement agreement_;
    std::vector<driver::DriverQueue> queues_;
    std::map<size_t, EchoBuffers> buffers_;
};

class IommuTest : public SessionTest {
  protected:
    explicit IommuTest(const IommuTestOptions& options = {}) : IommuTest(options, {}) {}

    IommuTest(const IommuTestOptions& options,
              const EchoDeviceOptions& device,
              const SessionHostOptions& host = {})
        : SessionTest(device, host), options_(options) {}

    ~IommuTest() override { guest_.reset(); }

    /// Everything; rings may still wait for their memory afterwards.
    void start(const IommuTestOptions& options) {
        guest_.emplace(frontend(), options);
        guest_->set_up();
        ASSERT_FALSE(HasFatalFailure());
        guest_->start_queues();
    }

    void start() { start(options_); }

    [[nodiscard]] IommuGuest& guest() { return *guest_; }

    [[nodiscard]] Iommu& iommu() { return guest_->iommu(); }

    [[nodiscard]] uint64_t broken(RingError error) const {
        return counters().rings_broken.value(error);
    }

    IommuTestOptions options_;
    std::optional<IommuGuest> guest_;
};

}  // namespace outrigger::testing
