// SPDX-License-Identifier: Apache-2.0
/// Prints docs/protocol.md from the request table, so that the page cannot say anything else than
/// the code does. A test compares the two: `tools/protocol-page > docs/protocol.md` mends it.
#include <cstdio>
#include <string>
#include <string_view>

#include "vhost-user-backend/wire/request_table.h"

namespace outrigger::wire {
namespace {

std::string_view describe(PayloadRule rule) {
    switch (rule) {
        case PayloadRule::kNone:
            return "none";
        case PayloadRule::kU64:
            return "u64";
        case PayloadRule::kVringState:
            return "vring state (8 bytes)";
        case PayloadRule::kVringAddress:
            return "vring address (40)";
        case PayloadRule::kMemoryTable:
            return "8 + 32 for each region, at most 8";
        case PayloadRule::kSingleRegion:
            return "one region (40)";
        case PayloadRule::kLog:
            return "log (16)";
        case PayloadRule::kIotlb:
            return "IOTLB message (32)";
        case PayloadRule::kConfig:
            return "12 + up to 256 of configuration";
        case PayloadRule::kCryptoSession:
            return "crypto session";
        case PayloadRule::kVringArea:
            return "vring area (24)";
        case PayloadRule::kInflight:
            return "inflight (24)";
        case PayloadRule::kDeviceState:
            return "transfer parameters (8)";
        case PayloadRule::kSharedObject:
            return "UUID (16)";
        case PayloadRule::kShmemMap:
            return "mapping (40)";
    }
    return {};
}

std::string_view describe(FdRule rule) {
    switch (rule) {
        case FdRule::kNone:
            return "0";
        case FdRule::kOne:
            return "1";
        case FdRule::kOptional:
            return "0 or 1";
        case FdRule::kPerRegion:
            return "1 a region";
        case FdRule::kUnlessBit8:
            return "1, or 0 with bit 8";
    }
    return {};
}

std::string_view describe(StateRule rule) {
    switch (rule) {
        case StateRule::kAny:
            return "any";
        case StateRule::kRingStopped:
            return "its ring stopped";
        case StateRule::kAllRingsStopped:
            return "all rings stopped";
        case StateRule::kNoMemory:
            return "no memory mapped";
    }
    return {};
}

std::string_view describe(ReplyRule rule) {
    switch (rule) {
        case ReplyRule::kAck:
            return "only with NEED_REPLY";
        case ReplyRule::kAckOrBases:
            return "only with NEED_REPLY; in postcopy the same with our addresses";
        case ReplyRule::kU64:
            return "u64";
        case ReplyRule::kU64Status:
            return "u64, not 0 on failure";
        case ReplyRule::kU64WithFd:
            return "u64, perhaps a descriptor; u64 on failure";
        case ReplyRule::kVringState:
            return "vring state";
        case ReplyRule::kConfig:
            return "the same; empty on failure";
        case ReplyRule::kLogIfShmfd:
            return "the same, with LOG_SHMFD";
        case ReplyRule::kFd:
            return "a descriptor";
        case ReplyRule::kSameWithFd:
            return "the same, a descriptor; without it on failure";
        case ReplyRule::kU64AndFd:
            return "u64, a descriptor; u64 on failure";
        case ReplyRule::kInflight:
            return "inflight, a descriptor";
        case ReplyRule::kCryptoSession:
            return "crypto session";
        case ReplyRule::kShmemConfig:
            return "shared memory regions";
    }
    return {};
}

std::string_view describe(Served served) {
    switch (served) {
        case Served::kYes:
            return "yes";
        case Served::kNotYet:
            return "not yet";
        case Served::kNever:
            return "no";
    }
    return {};
}

std::string describe(const Gate& gate) {
    switch (gate.kind) {
        case Gate::Kind::kAlways:
            return "nothing";
        case Gate::Kind::kProtocol:
            return std::string(protocol_feature_name(gate.bit));
        case Gate::Kind::kVirtio:
            return "virtio feature " + std::to_string(gate.bit);
        case Gate::Kind::kProtocolNegotiation:
            return "the offer of virtio feature " + std::to_string(kProtocolFeaturesBit);
    }
    return {};
}

void print_row(const RequestDescription& request, std::string& why_never) {
    std::printf("| %u | %s | %s | %s | %s | %s | %s | %s |\n",
                request.number,
                std::string(request.name).c_str(),
                std::string(describe(request.payload)).c_str(),
                std::string(describe(request.fds)).c_str(),
                describe(request.gate).c_str(),
                std::string(describe(request.state)).c_str(),
                std::string(describe(request.reply)).c_str(),
                std::string(describe(request.served)).c_str());
    if (request.served == Served::kNever) {
        why_never +=
            "- " + std::string(request.name) + ": " + std::string(request.why_never) + ".\n";
    }
}

void print_page() {
    constexpr std::string_view kColumns =
        "| # | request | payload | descriptors | needs | state | reply | served |\n"
        "|---|---|---|---|---|---|---|---|\n";
    std::fputs(
        "# The vhost-user protocol, as Outrigger checks it\n\n"
        "Printed by `tools/protocol_page.cc` from the table that decodes and validates every "
        "message. A message whose size or descriptors are not as its row says ends the session. "
        "One that needs what was not negotiated, comes in another state, or is not served is "
        "refused, and the session goes on: answered non-zero when NEED_REPLY asks for it, or with "
        "the reply that stands for a failure; but a request whose reply has no form for that "
        "cannot be refused, so it ends the session.\n\n"
        "## Requests of the front end\n\n",
        stdout);
    std::string why_never;
    std::fputs(kColumns.data(), stdout);
    for (const RequestDescription& request : frontend_requests()) {
        print_row(request, why_never);
    }
    std::fputs(
        "\n## Requests of the back end\n\n"
        "They go to the socket that SET_BACKEND_REQ_FD brings, with NEED_REPLY where REPLY_ACK was "
        "negotiated, and only while a ring is started. What comes on that socket and answers none "
        "of them ends the session; its end does not.\n\n",
        stdout);
    std::fputs(kColumns.data(), stdout);
    for (const RequestDescription& request : backend_requests()) {
        print_row(request, why_never);
    }
    std::fputs("\n## What is never served, and why\n\n", stdout);
    std::fputs(why_never.c_str(), stdout);
}

}  // namespace
}  // namespace outrigger::wire

int main() {
    outrigger::wire::print_page();
    return 0;
}
