// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/json_writer.h"

#include <cmath>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::bench {

std::string json_string(std::string_view text) {
    std::string out = "\"";
    for (const char character : text) {
        const auto code = static_cast<unsigned char>(character);
        if (character == '"' || character == '\\') {
            out += '\\';
            out += character;
        } else if (code < 0x20 || code == 0x7f) {
            out += fmt::format("\\u{:04x}", code);
        } else {
            out += character;
        }
    }
    return out + '"';
}

void JsonWriter::name_value(std::string_view name) {
    if (depth_ > 0) {
        out_ += first_ ? "\n" : ",\n";
        out_.append(2 * size_t{depth_}, ' ');
    }
    first_ = false;
    if (!name.empty()) {
        out_ += json_string(name) + ": ";
    }
}

void JsonWriter::begin(std::string_view name, char bracket) {
    name_value(name);
    out_ += bracket;
    ++depth_;
    first_ = true;
}

void JsonWriter::end(char bracket) {
    OUTRIGGER_ASSERT(depth_ > 0);
    --depth_;
    if (!first_) {
        out_ += '\n';
        out_.append(2 * size_t{depth_}, ' ');
    }
    out_ += bracket;
    first_ = false;
}

void JsonWriter::text(std::string_view name, std::string_view value) {
    name_value(name);
    out_ += json_string(value);
}

void JsonWriter::number(std::string_view name, double value) {
    if (!std::isfinite(value)) {
        null(name);
        return;
    }
    name_value(name);
    out_ += fmt::format("{:.9g}", value);
}

void JsonWriter::integer(std::string_view name, uint64_t value) {
    name_value(name);
    out_ += fmt::format("{}", value);
}

void JsonWriter::boolean(std::string_view name, bool value) {
    name_value(name);
    out_ += value ? "true" : "false";
}

void JsonWriter::null(std::string_view name) {
    name_value(name);
    out_ += "null";
}

std::string JsonWriter::take() {
    OUTRIGGER_ASSERT(depth_ == 0);
    return std::exchange(out_, {}) + '\n';
}

}  // namespace outrigger::bench
