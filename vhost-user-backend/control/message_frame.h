// SPDX-License-Identifier: Apache-2.0
/// Messages of the control socket on the wire: each behind its length, a varint of protobuf. Both
/// ends use this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace google::protobuf {
class MessageLite;
}  // namespace google::protobuf

namespace outrigger::control {

inline constexpr size_t kRequestBytesMax = size_t{64} << 10;
inline constexpr size_t kReplyBytesMax = size_t{1} << 20;

enum class FrameError : uint8_t {
    kLength,   ///< the length is no varint of at most 32 bits
    kTooLong,  ///< the length is above the limit
};

/// Cuts a stream of bytes into messages. Keeps at most one message and what came behind it.
class FrameReader final {
  public:
    explicit FrameReader(size_t message_bytes_max) : message_bytes_max_(message_bytes_max) {}

    void add(std::span<const std::byte> bytes);

    /// The next message, or nothing as long as it has not come whole. An error stays: nothing that
    /// comes behind it means anything.
    [[nodiscard]] Result<std::optional<std::string>, FrameError> take();

    /// Has a message begun that is not whole?
    [[nodiscard]] bool inside_message() const { return !bytes_.empty(); }

  private:
    const size_t message_bytes_max_;
    std::string bytes_;
};

/// `message` behind its length.
[[nodiscard]] std::string frame(const google::protobuf::MessageLite& message);

}  // namespace outrigger::control
