// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/entropy_limit.h"

#include <utility>

namespace outrigger::rng {
namespace {

/// Who was killed may have been changed by a guest before: any number may stand there.
std::chrono::milliseconds period_from(uint64_t milliseconds) {
    constexpr auto kMax = static_cast<uint64_t>(EntropyLimit::kPeriodMax.count());
    return std::chrono::milliseconds(milliseconds <= kMax ? milliseconds : 0);
}

}  // namespace

KeptLimit::KeptLimit(EntropyLimit given, Mapping kept)
    : given_(given), kept_(std::move(kept)), value_(given) {
    const auto record = kept_.size() > 0 ? Kept({kept_.data(), kept_.size()}).load() : std::nullopt;
    if (!record) {
        return;
    }
    const EntropyLimit then = {.bytes_max = record->given_bytes,
                               .period = period_from(record->given_period)};
    const EntropyLimit said = {.bytes_max = record->bytes, .period = period_from(record->period)};
    if (then == given_ && said.is_possible()) {
        value_ = said;
    }
}

void KeptLimit::change(const EntropyLimit& limit) {
    value_ = limit;
    if (kept_.size() > 0) {
        Kept({kept_.data(), kept_.size()})
            .store({.given_bytes = given_.bytes_max,
                    .given_period = static_cast<uint64_t>(given_.period.count()),
                    .bytes = limit.bytes_max,
                    .period = static_cast<uint64_t>(limit.period.count())});
    }
}

}  // namespace outrigger::rng
