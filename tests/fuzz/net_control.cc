// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: the commands of a network device's control queue, and what they set. A command is
/// of a feature that was agreed on and of exactly its length, what it sets is within the device's
/// limits, and is the same when it was written down and read.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/feature_set.h"

#include "devices/net/control_command.h"
#include "devices/net/guest_settings.h"
#include "tests/fuzz/net_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using net::ControlCommand;
using net::ControlLimits;
using net::GuestSettings;

using Bytes = std::span<const std::byte>;

/// A copy of its own size, so that a sanitizer sees every byte beyond.
class Copy final {
  public:
    Copy(std::span<const uint8_t> bytes, size_t more)
        : bytes_(std::make_unique<std::byte[]>(bytes.size() + more)), size_(bytes.size() + more) {
        if (!bytes.empty()) {
            std::memcpy(bytes_.get(), bytes.data(), bytes.size());
        }
    }

    [[nodiscard]] Bytes view() const { return {bytes_.get(), size_}; }

  private:
    std::unique_ptr<std::byte[]> bytes_;
    size_t size_;
};

struct ExpectWithinLimits {
    const ControlLimits& limits;

    void operator()(const net::SetReceiveMode& set) const {
        OUTRIGGER_ASSERT(set.mode <= net::ReceiveMode::kNoBroadcast);
    }

    void operator()(const net::SetStations& set) const {
        OUTRIGGER_ASSERT(!set.unicast || set.unicast->size() <= net::kStationsMax);
        OUTRIGGER_ASSERT(!set.multicast || set.multicast->size() <= net::kStationsMax);
    }

    void operator()(const net::SetOwnStation& set) const {
        OUTRIGGER_ASSERT(set.station != 0 && set.station >> 48 == 0);
    }

    void operator()(const net::ChangeVlan& set) const {
        OUTRIGGER_ASSERT(set.vlan < net::kVlanCount);
    }

    void operator()(const net::AcknowledgeAnnouncement& /*set*/) const {}

    void operator()(const net::SetQueuePairs& set) const {
        OUTRIGGER_ASSERT(set.pairs > 0 && set.pairs <= limits.queue_pairs);
    }

    void operator()(const net::SetGuestOffloads& set) const {
        OUTRIGGER_ASSERT(limits.agreed.contains(set.wanted) &&
                         net::switchable_offloads().contains(set.wanted));
    }
};

void expect_kept(const GuestSettings& settings, const ControlLimits& limits) {
    const auto written = settings.encode();
    OUTRIGGER_ASSERT(written.size() <= GuestSettings::kBytesMax);
    const auto read = GuestSettings::decode(written);
    OUTRIGGER_ASSERT(read.has_value() && *read == settings);
    OUTRIGGER_ASSERT(settings.pairs() > 0 && settings.pairs() <= limits.queue_pairs);
    OUTRIGGER_ASSERT(limits.agreed.contains(settings.in_use(limits.agreed)));
}

void ask_for_frames(const GuestSettings& settings, Bytes front) {
    for (size_t bytes = 0; bytes <= std::min(front.size(), net::kFilterBytes); ++bytes) {
        const bool by_anybody = settings.wants(front.first(bytes), std::nullopt, bytes % 2 == 0);
        const bool by_one = settings.wants(front.first(bytes), kNetStation, bytes % 2 == 0);
        OUTRIGGER_ASSERT(by_anybody || !by_one);
    }
}

void run(ScriptReader script) {
    const ControlLimits limits{.agreed = FeatureSet(script.u64()),
                               .queue_pairs = static_cast<uint16_t>(1 + script.u8())};
    GuestSettings settings;
    for (unsigned count = 0; count < kNetCommandsMax && !script.at_end(); ++count) {
        const auto raw = script.bytes(script.u16());
        const Copy exact(raw, 0);
        // What a state of another process says is any bytes, too.
        if (const auto read = GuestSettings::decode(exact.view())) {
            OUTRIGGER_ASSERT(std::ranges::equal(read->encode(), exact.view()));
        }
        ask_for_frames(settings, exact.view());
        const auto command = net::parse_control_command(exact.view(), limits);
        if (!command) {
            continue;
        }
        std::visit(ExpectWithinLimits{limits}, *command);
        const Copy cut(raw.first(raw.size() - 1), 0);
        const Copy longer(raw, 1);
        OUTRIGGER_ASSERT(!net::parse_control_command(cut.view(), limits));
        OUTRIGGER_ASSERT(!net::parse_control_command(longer.view(), limits));
        settings.apply(*command);
        expect_kept(settings, limits);
    }
}

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    outrigger::fuzz::run(outrigger::fuzz::ScriptReader(std::span(data, size)));
    return 0;
}
