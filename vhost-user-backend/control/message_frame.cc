// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/message_frame.h"

#include <algorithm>

#include <google/protobuf/message_lite.h>

namespace outrigger::control {
namespace {

/// A varint has seven bits in each byte, the lowest first; the highest bit says that more follow.
constexpr size_t kLengthBytesMax = 5;

struct Length {
    uint64_t value = 0;
    size_t bytes = 0;  ///< that the varint takes; 0: it is not whole
};

Result<Length, FrameError> read_length(std::string_view bytes) {
    Length length;
    for (size_t i = 0; i < std::min(bytes.size(), kLengthBytesMax); ++i) {
        const auto byte = static_cast<uint8_t>(bytes[i]);
        length.value |= uint64_t{byte & 0x7fU} << (7 * i);
        if ((byte & 0x80U) == 0) {
            length.bytes = i + 1;
            return length;
        }
    }
    if (bytes.size() >= kLengthBytesMax) {
        return failure(FrameError::kLength);
    }
    return Length{};
}

}  // namespace

void FrameReader::add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
        bytes_ += static_cast<char>(byte);
    }
}

Result<std::optional<std::string>, FrameError> FrameReader::take() {
    const Length length = OUTRIGGER_TRY(read_length(bytes_));
    if (length.bytes == 0) {
        return std::nullopt;
    }
    if (length.value > message_bytes_max_) {
        return failure(FrameError::kTooLong);
    }
    const auto count = static_cast<size_t>(length.value);
    if (bytes_.size() - length.bytes < count) {
        return std::nullopt;
    }
    std::string message = bytes_.substr(length.bytes, count);
    bytes_.erase(0, length.bytes + count);
    return message;
}

std::string frame(const google::protobuf::MessageLite& message) {
    const std::string body = message.SerializeAsString();
    std::string out;
    size_t rest = body.size();
    while (rest >= 0x80) {
        out += static_cast<char>((rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out += static_cast<char>(rest);
    return out + body;
}

}  // namespace outrigger::control
