// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/limit_options.h"

#include <string>
#include <string_view>

#include "devices/blk/limit_groups.h"

namespace outrigger::blk {
namespace {

/// The rate options, and the limit that each sets.
struct LimitOption {
    std::string_view name;
    Rate RateLimits::*rate;
};

constexpr LimitOption kLimitOptions[] = {
    {"limit-bytes", &RateLimits::bytes},
    {"limit-read-bytes", &RateLimits::read_bytes},
    {"limit-write-bytes", &RateLimits::write_bytes},
    {"limit-ops", &RateLimits::operations},
    {"limit-read-ops", &RateLimits::read_operations},
    {"limit-write-ops", &RateLimits::write_operations},
};

}  // namespace

Result<RateLimits> limits_of(const OptionValues& values) {
    RateLimits limits;
    for (const LimitOption& option : kLimitOptions) {
        const auto text = values.text(option.name);
        const auto rate = text ? parse_rate(*text) : Rate{};
        if (!rate) {
            return failure(Error{.message = "--" + std::string(option.name) +
                                            " takes a rate like 100M, or with a burst like "
                                            "100M:1G, not '" +
                                            *text + "'"});
        }
        limits.*option.rate = *rate;
    }
    return limits;
}

Result<std::shared_ptr<RateLimiter>> limiter_of(const OptionValues& values) {
    const RateLimits limits = OUTRIGGER_TRY(limits_of(values));
    const auto group = values.text("limit-group");
    auto limiter = group ? join_limit_group(*group) : std::make_shared<RateLimiter>();
    if (limits == RateLimits{} || limits == limiter->limits()) {
        return limiter;
    }
    if (limiter->limits() != RateLimits{}) {
        return failure(Error{.message = "the disks of --limit-group=" + *group +
                                        " have different limits: give them to one alone"});
    }
    limiter->set(limits);
    return limiter;
}

}  // namespace outrigger::blk
