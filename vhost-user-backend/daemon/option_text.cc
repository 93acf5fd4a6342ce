// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/option_text.h"

#include <algorithm>

#include <fmt/core.h>

namespace outrigger {
namespace {

constexpr size_t kColumns = 79;
constexpr size_t kIndent = 6;

std::string option_usage(const OptionSpec& spec) {
    std::string usage = "--";
    usage += spec.name;
    if (!spec.value_name.empty()) {
        usage.append("=").append(spec.value_name);
    }
    return usage;
}

/// "Look for requests for up to N microseconds [default: 0]."
std::string option_sentence(const OptionSpec& spec) {
    if (spec.default_value.empty()) {
        return fmt::format("{}.", spec.help);
    }
    return fmt::format("{} [default: {}].", spec.help, spec.default_value);
}

}  // namespace

void append_wrapped(std::string& out, std::string_view text, size_t indent) {
    size_t column = 0;
    while (!text.empty()) {
        const size_t length = std::min(text.find(' '), text.size());
        if (column == 0 || column + 1 + length > kColumns) {
            out.append(column == 0 ? "" : "\n").append(indent, ' ');
            column = indent;
        } else {
            out += ' ';
            ++column;
        }
        out += text.substr(0, length);
        column += length;
        text.remove_prefix(std::min(length + 1, text.size()));
    }
    out += '\n';
}

void append_option_help(std::string& out, std::span<const OptionSpec> options) {
    for (const OptionSpec& spec : options) {
        if (!spec.hidden) {
            append_wrapped(out, option_usage(spec), 2);
            append_wrapped(out, option_sentence(spec), kIndent);
        }
    }
}

std::string roff(std::string_view text) {
    std::string out;
    for (const char next : text) {
        if (next == '-') {
            out += "\\-";
        } else if (next == '\\') {
            out += "\\e";
        } else {
            if (out.empty() && (next == '.' || next == '\'')) {
                out += "\\&";
            }
            out += next;
        }
    }
    return out;
}

void append_roff_options(std::string& out, std::span<const OptionSpec> options) {
    for (const OptionSpec& spec : options) {
        if (spec.hidden) {
            continue;
        }
        out += fmt::format(".TP\n\\fB\\-\\-{}\\fR", roff(spec.name));
        if (!spec.value_name.empty()) {
            out += fmt::format("=\\fI{}\\fR", roff(spec.value_name));
        }
        out += fmt::format("\n{}\n", roff(option_sentence(spec)));
    }
}

Result<std::string> fill_man_page(std::string_view page,
                                  std::span<const std::pair<std::string_view, std::string>> parts) {
    std::string out(page);
    for (const auto& [line, text] : parts) {
        const size_t at = out.find(line);
        if (at == std::string::npos) {
            return failure(Error{.message = "the man page has no line " +
                                            std::string(line, 0, line.size() - 1)});
        }
        // The line's own end stays, and an empty line would show as space.
        out.replace(at, line.size(), text, 0, text.size() - 1);
    }
    return out;
}

}  // namespace outrigger
