// SPDX-License-Identifier: Apache-2.0
/// The fixture of the tests of the dirty log: two workers, a log that covers the memory, and a
/// request and a response on pages of their own.
#pragma once

#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <string>

#include "tests/integration/catalogue.h"
#include "tests/support/dirty_log_file.h"

namespace outrigger::testing {

using Pages = std::set<uint64_t>;

class DirtyLogTest : public Catalogue {
  protected:
    static constexpr uint64_t kMemoryPages =
        (static_cast<uint64_t>(kMemoryStart) + kMemoryBytes) / kLogPage;
    static constexpr GuestAddr kSecondRegion{0x1000'0000};
    static constexpr uint64_t kSecondRegionPage = static_cast<uint64_t>(kSecondRegion) / kLogPage;
    static constexpr uint64_t kSecondRegionBytes = 1 << 20;

    DirtyLogTest() : Catalogue(EchoDeviceOptions{}, SessionHostOptions{.worker_count = 2}) {}

    [[nodiscard]] static driver::BringUpOptions log_options(driver::BringUpOptions options) {
        options.protocol_features =
            options.protocol_features.with(bit(wire::ProtocolFeature::kLogShmfd));
        return options;
    }

    /// run(), with LOG_SHMFD negotiated and LOG_ALL not.
    void run_with_log(const driver::BringUpOptions& options = {}) {
        take_pages_for_buffers();
        run(log_options(options));
    }

    void take_pages_for_buffers() {
        request_ = memory_.allocate(kLogPage, kLogPage).value();
        response_ = memory_.allocate(kLogPage, kLogPage).value();
        // Rings begin on a page that nothing else is on.
        (void)memory_.allocate(kLogPage, kLogPage).value();
    }

    [[nodiscard]] Answer set_log_base(const DirtyLogFile& log) {
        return frontend().set_log_base({.size = log.bytes(), .offset = log.offset()}, log.fd());
    }

    [[nodiscard]] Answer set_logging(bool on) {
        const FeatureSet features = running_.agreement.features;
        return frontend().set_features(on ? features.with(wire::kLogAllBit)
                                          : features.without(wire::kLogAllBit));
    }

    /// SET_VRING_ADDR with the same place and another log address, or none.
    [[nodiscard]] Answer set_used_log(std::optional<GuestAddr> address, size_t index = 0) {
        auto message = queue(index).vring_address(memory_);
        message.flags = address ? wire::kVringAddressFlagLog : 0;
        message.log = address ? static_cast<uint64_t>(*address) : 0;
        return frontend().set_vring_addr(message);
    }

    [[nodiscard]] GuestAddr request() const { return request_; }

    [[nodiscard]] GuestAddr response() const { return response_; }

    [[nodiscard]] static uint64_t page_of(GuestAddr address) {
        return static_cast<uint64_t>(address) / kLogPage;
    }

    /// One request whose answer is written to `response`; empty when the right answer came.
    [[nodiscard]] std::string exchange(std::optional<GuestAddr> response = std::nullopt,
                                       size_t index = 0) {
        const GuestAddr to = response.value_or(response_);
        std::array<std::byte, 16> sent{};
        std::memset(sent.data(), ++serial_, sent.size());
        memory_.write(request_, sent);
        memory_.write(to, std::array<std::byte, 16>{});
        const auto done = queue(index).transact(chain(to), driver::after(kPatience));
        if (!done) {
            return "the request did not complete";
        }
        std::array<std::byte, 16> came{};
        memory_.read(to, came);
        return came == sent ? "" : "other bytes came back";
    }

    /// One request whose answer is not waited for: the ring may break before or behind it.
    void send_one(std::optional<GuestAddr> response = std::nullopt) {
        ASSERT_TRUE(queue().try_add(chain(response.value_or(response_)), 5));
        queue().publish_and_kick();
    }

    /// One request that the device has and keeps.
    void hold_one() {
        device_.hold(true);
        send_one();
        ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    }

    /// SET_FEATURES, whose answer is not waited for.
    void send_features(FeatureSet features) {
        const uint64_t bits = features.bits();
        ASSERT_EQ(frontend().send({.request = number(FrontendRequest::kSetFeatures),
                                   .flags = wire::kVersion | wire::kFlagNeedReply,
                                   .size = sizeof bits},
                                  bytes_of(bits)),
                  Answer::kUnasked);
    }

    [[nodiscard]] bool acknowledged(FrontendRequest request) {
        const auto reply = frontend().receive();
        uint64_t value = 1;
        if (!reply || reply->header.request != number(request) ||
            reply->payload.size() != sizeof value) {
            return false;
        }
        std::memcpy(&value, reply->payload.data(), sizeof value);
        return value == 0;
    }

    /// Is a part of the ring marked where a used request shows: the split ring's used index, or
    /// any descriptor of a packed one?
    [[nodiscard]] bool marks_ring(const Pages& pages, size_t index = 0) {
        const auto address = queue(index).vring_address(memory_);
        const bool packed = queue(index).packed() != nullptr;
        const auto region = first_region();
        const uint64_t start = (packed ? address.descriptor : address.used) - region.user_address +
                               region.guest_address;
        const uint64_t last = packed ? start + uint64_t{16} * queue(index).size() - 1 : start;
        const auto found = pages.lower_bound(start / kLogPage);
        return found != pages.end() && *found <= last / kLogPage;
    }

    [[nodiscard]] Answer add_second_region() {
        const auto region =
            memory_.add_region({.guest_address = kSecondRegion, .size = kSecondRegionBytes})
                .value();
        return frontend().add_mem_reg(memory_, region);
    }

    DirtyLogFile log_{kMemoryPages, 512};
    GuestAddr request_{};
    GuestAddr response_{};

  private:
    [[nodiscard]] std::array<driver::Segment, 2> chain(GuestAddr response) const {
        return {{{.address = request_, .length = 16, .device_writable = false},
                 {.address = response, .length = 16, .device_writable = true}}};
    }

    uint8_t serial_ = 0;
};

}  // namespace outrigger::testing
