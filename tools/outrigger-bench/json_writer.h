// SPDX-License-Identifier: Apache-2.0
/// Writes one JSON value (RFC 8259), indented, as its parts are named.
///
/// Thread-bound.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace outrigger::bench {

class JsonWriter final {
  public:
    void begin_object(std::string_view name = {}) { begin(name, '{'); }

    void end_object() { end('}'); }

    void begin_array(std::string_view name) { begin(name, '['); }

    void end_array() { end(']'); }

    /// A member of the open object; in an array the name is empty.
    void text(std::string_view name, std::string_view value);
    /// What is not finite, which JSON does not have, becomes null.
    void number(std::string_view name, double value);
    void integer(std::string_view name, uint64_t value);
    void boolean(std::string_view name, bool value);
    void null(std::string_view name);

    /// The value, with a line end. All that was begun has ended.
    [[nodiscard]] std::string take();

  private:
    void begin(std::string_view name, char bracket);
    void end(char bracket);
    void name_value(std::string_view name);

    std::string out_;
    unsigned depth_ = 0;
    bool first_ = true;  // in the open object or array
};

/// `text` between quotation marks. What is not UTF-8 passes as it is.
[[nodiscard]] std::string json_string(std::string_view text);

}  // namespace outrigger::bench
