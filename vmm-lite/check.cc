// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/check.h"

#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "vmm-lite/exit_status.h"
#include "vmm-lite/kvm/kvm_host.h"
#include "vmm-lite/kvm/speed_check.h"

namespace outrigger::vmm {
namespace {

void say(const std::string& line) {
    std::fputs((line + "\n").c_str(), stdout);
}

}  // namespace

int check_host() {
    constexpr int kUnusable = exit_status(MachineEnd::kFailure);
    const auto host = KvmHost::open();
    if (!host) {
        say("unusable: " + host.error().message);
        return kUnusable;
    }
    say(fmt::format("/dev/kvm: there, at most {} processors a guest", host->vcpus_max()));
    const auto missing = host->missing_capabilities();
    for (const RequiredCapability& capability : missing) {
        say(fmt::format("missing: {}, for {}", capability.name, capability.purpose));
    }
    if (!missing.empty()) {
        say("unusable: this KVM is too old or is an imitation; use Linux 4.13 or newer");
        return kUnusable;
    }
    const auto speed = measure_guest_speed(*host);
    if (!speed) {
        say("unusable: " + speed.error().message);
        return kUnusable;
    }
    say(fmt::format("speed: {:.1f} million instructions of a guest a second", *speed / 1e6));
    if (*speed < kUsableInstructionsPerSecond) {
        say("unusable: this /dev/kvm interprets its guests, and a kernel would take an hour to "
            "start; use a host with virtualisation in hardware, or one that passes it on "
            "(nesting)");
        return kUnusable;
    }
    if (*speed < kFullSpeedInstructionsPerSecond) {
        say("usable, but not at full speed: this host is emulated itself, or very busy");
    } else {
        say("usable");
    }
    return 0;
}

}  // namespace outrigger::vmm
