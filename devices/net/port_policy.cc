// SPDX-License-Identifier: Apache-2.0
#include "devices/net/port_policy.h"

#include <string>
#include <utility>
#include <vector>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/net/sender_rules.h"

namespace outrigger::net {
namespace {

namespace v1 = control::v1;

/// FNV-1a: the same in every build.
uint64_t fingerprint(const PolicyValues& values) {
    v1::NetworkPolicy message;
    PortPolicy::to_message(values, message);
    uint64_t hash = 0xcbf2'9ce4'8422'2325;
    for (const char each : message.SerializeAsString()) {
        hash = (hash ^ static_cast<unsigned char>(each)) * 0x100'0000'01b3;
    }
    return hash;
}

Result<PolicyValues> from_message(const v1::NetworkPolicy& message) {
    const std::vector<std::string> macs(message.macs().begin(), message.macs().end());
    const std::vector<std::string> addresses(message.addresses().begin(),
                                             message.addresses().end());
    return PolicyValues{
        .limits = {.send = {.bytes = message.send_bytes(), .frames = message.send_frames()},
                   .receive = {.bytes = message.receive_bytes(),
                               .frames = message.receive_frames()}},
        .rules = {.stations = OUTRIGGER_TRY(parse_stations(macs)),
                  .addresses = OUTRIGGER_TRY(parse_ip_ranges(addresses))}};
}

bool are_possible(const PortLimits& limits) {
    return limits.send.bytes <= kPerSecondMax && limits.send.frames <= kPerSecondMax &&
           limits.receive.bytes <= kPerSecondMax && limits.receive.frames <= kPerSecondMax;
}

}  // namespace

PortPolicy::PortPolicy(PolicyValues given, Mapping kept)
    : command_line_(fingerprint(given)), kept_(std::move(kept)) {
    auto recalled = recall();
    values_ = recalled ? *std::move(recalled) : std::move(given);
}

std::unique_ptr<Port> PortPolicy::govern(std::unique_ptr<Port> port) {
    auto limited = std::make_unique<LimitedPort>(std::move(port), values_.limits);
    limited_ = limited.get();
    auto guarded = std::make_unique<GuardedPort>(std::move(limited), values_.rules);
    guarded_ = guarded.get();
    return guarded;
}

Result<void> PortPolicy::change(PolicyValues values,
                                Worker& worker,
                                std::move_only_function<void()> done) {
    v1::KeptNetworkPolicy record;
    record.set_command_line(command_line_);
    to_message(values, *record.mutable_policy());
    const std::string bytes = record.SerializeAsString();
    if (!are_possible(values.limits)) {
        return failure(Error{.message = "a limit is at most 2^40 a second"});
    }
    if (bytes.size() > kRecordBytesMax) {
        return failure(Error{.message = "these are more addresses than can be kept"});
    }
    if (kept_.size() > 0) {
        KeptRecord({kept_.data(), kept_.size()}).store(std::as_bytes(std::span(bytes)));
    }
    values_ = std::move(values);
    guarded_->set_loaded_stations(values_.rules.stations);
    worker.post([this, values = values_, done = std::move(done)]() mutable {
        limited_->set_limits(values.limits);
        guarded_->set_rules(std::move(values.rules));
        done();
    });
    return {};
}

void PortPolicy::to_message(const PolicyValues& values, v1::NetworkPolicy& out) {
    out.set_send_bytes(values.limits.send.bytes);
    out.set_send_frames(values.limits.send.frames);
    out.set_receive_bytes(values.limits.receive.bytes);
    out.set_receive_frames(values.limits.receive.frames);
    for (const StationAddress station : values.rules.stations) {
        out.add_macs(to_text(station));
    }
    for (const IpRange& range : values.rules.addresses) {
        out.add_addresses(to_text(range));
    }
}

std::optional<PolicyValues> PortPolicy::recall() const {
    if (kept_.size() == 0) {
        return std::nullopt;
    }
    const auto bytes = KeptRecord({kept_.data(), kept_.size()}).load();
    v1::KeptNetworkPolicy record;
    if (bytes.empty() || !record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
        record.command_line() != command_line_) {
        return std::nullopt;
    }
    auto values = from_message(record.policy());
    if (!values || !are_possible(values->limits)) {
        log(LogLevel::kWarning, "net: what an operator had said of limits and addresses is lost");
        return std::nullopt;
    }
    return *std::move(values);
}

}  // namespace outrigger::net
