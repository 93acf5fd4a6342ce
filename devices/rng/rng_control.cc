// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/rng_control.h"

#include <algorithm>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/printable_text.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/rng/rng_device.h"

namespace outrigger::rng {
namespace {

namespace v1 = control::v1;

control::CommandResult refusal_of(control::Refusal refusal, std::string why) {
    return failure(control::CommandError{.refusal = refusal, .message = std::move(why)});
}

}  // namespace

void RngControl::attach(EventLoop& control_loop, std::span<Worker* const> /*workers*/) {
    control_loop_ = &control_loop;
}

void RngControl::describe(v1::Device& out) const {
    v1::EntropyDevice& entropy = *out.mutable_entropy();
    const RngCounters& counters = device_.counters();
    entropy.set_source(control::printable(device_.source_name()));
    entropy.set_bytes_from_source(counters.source_bytes.value());
    entropy.set_bytes_from_kernel(counters.kernel_bytes.value());
    entropy.set_empty_requests(counters.empty_requests.value());
    entropy.set_source_waits(counters.source_waits.value());
    entropy.set_source_failures(counters.source_failures.value());
    entropy.set_limit_waits(counters.quota_waits.value());
    entropy.set_limit_wait_nanoseconds(counters.quota_wait_ns.value());
    const EntropyLimit& limit = device_.limit();
    entropy.mutable_limit()->set_bytes_max(limit.bytes_max);
    entropy.mutable_limit()->set_period_milliseconds(static_cast<uint64_t>(limit.period.count()));
}

void RngControl::handle(const v1::Request& request, std::vector<UniqueFd> /*fds*/, Answer answer) {
    if (!request.has_set_entropy_limit()) {
        answer(refusal_of(control::Refusal::kUnknown, "an entropy device has no such command"));
        return;
    }
    set_limit(request.set_entropy_limit(), std::move(answer));
}

void RngControl::set_limit(const v1::SetEntropyLimit& wish, Answer answer) {
    EntropyLimit limit = device_.limit();
    if (wish.has_bytes_max()) {
        limit.bytes_max = wish.bytes_max();
    }
    if (wish.has_period_milliseconds()) {
        constexpr auto kMax = static_cast<uint64_t>(EntropyLimit::kPeriodMax.count());
        // One more than that is as wrong as any number beyond, and fits.
        limit.period = std::chrono::milliseconds(std::min(wish.period_milliseconds(), kMax + 1));
    }
    if (!limit.is_possible()) {
        answer(refusal_of(control::Refusal::kInvalid, "a period has 1 ms to 24 hours"));
        return;
    }
    device_.change_limit(limit, [loop = control_loop_, answer = std::move(answer)]() mutable {
        loop->post([answer = std::move(answer)]() mutable { answer(std::string()); });
    });
}

}  // namespace outrigger::rng
