// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: what a client of the control socket sends, cut into messages in two ways, which
/// must come to the same; and each message that is one, there and back.
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <google/protobuf/stubs/logging.h>
#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/control/printable_text.h"

#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using control::FrameReader;

constexpr size_t kMessageBytesMax = 1024;

struct Outcome {
    std::vector<std::string> messages;
    std::optional<control::FrameError> error;

    friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// What comes out when the stream comes in pieces of that many bytes.
Outcome cut(std::span<const uint8_t> stream, size_t piece_bytes) {
    FrameReader reader(kMessageBytesMax);
    Outcome outcome;
    while (!stream.empty()) {
        const auto piece = stream.first(std::min(piece_bytes, stream.size()));
        stream = stream.subspan(piece.size());
        reader.add(std::as_bytes(piece));
        while (true) {
            auto message = reader.take();
            if (!message) {
                outcome.error = message.error();
                return outcome;
            }
            if (!*message) {
                break;
            }
            OUTRIGGER_ASSERT((*message)->size() <= kMessageBytesMax);
            outcome.messages.push_back(**std::move(message));
        }
    }
    return outcome;
}

void check_message(const std::string& bytes) {
    control::v1::Request request;
    if (!request.ParseFromString(bytes)) {
        return;
    }
    const std::string framed = control::frame(request);
    FrameReader reader(framed.size());
    reader.add(std::as_bytes(std::span(framed)));
    const auto body = reader.take();
    OUTRIGGER_ASSERT(body && *body && !reader.inside_message());
    control::v1::Request back;
    OUTRIGGER_ASSERT(back.ParseFromString(**body));
    OUTRIGGER_ASSERT(back.command_case() == request.command_case());
    OUTRIGGER_ASSERT(back.SerializeAsString() == request.SerializeAsString());
    // Only what was printable already comes through unchanged, and nothing changes twice.
    const std::string device = control::printable(request.device());
    OUTRIGGER_ASSERT(control::printable(device) == device);
}

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    // It writes a line for each text that is no UTF-8.
    static const google::protobuf::LogSilencer silence;
    ScriptReader script({data, size});
    const size_t piece_bytes = size_t{1} + script.u8();
    const auto stream = script.bytes(size);
    const Outcome outcome = cut(stream, piece_bytes);
    OUTRIGGER_ASSERT(outcome == cut(stream, size + 1));
    for (const std::string& message : outcome.messages) {
        check_message(message);
    }
    return 0;
}
