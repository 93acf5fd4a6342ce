// SPDX-License-Identifier: Apache-2.0
/// Command-line options as data: one table gives the parser, --help, the man page's option list
/// and the keys of --device. A style test compares them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

enum class OptionKind : uint8_t {
    kFlag,    ///< no value: --read-only, or read-only=on|off as a device key
    kText,    ///< any text
    kNumber,  ///< decimal, or hexadecimal with 0x
    kSize,    ///< bytes, with an optional suffix K, M, G or T of 1024
    kChoice,  ///< one of `choices`
};

struct OptionSpec {
    std::string_view name{};  ///< without dashes: "blk-file"
    OptionKind kind = OptionKind::kText;
    std::string_view value_name{};     ///< "PATH", "N"; empty for flags
    std::string_view help{};           ///< a sentence without a full stop or the default
    std::string_view default_value{};  ///< empty: none; shown behind the help
    std::span<const std::string_view> choices{};
    uint64_t number_min = 0;  ///< kNumber and kSize
    uint64_t number_max = UINT64_MAX;
    bool hidden = false;              ///< accepted, but neither in --help nor in the man page
    bool repeatable = false;          ///< may be given again and again: texts() has them all
    bool is_of_command_line = false;  ///< no key of a file (--config)
};

/// The values that one device was given. Every value was checked against its OptionSpec.
class OptionValues final {
  public:
    /// Parses and checks `text`; an error names the option and what it takes. Flags take on or off.
    [[nodiscard]] Result<void> set(const OptionSpec& spec, std::string_view text);

    /// Gives every option of `specs` that has a default and no value its default.
    void set_defaults(std::span<const OptionSpec> specs);

    /// Given or defaulted.
    [[nodiscard]] bool has(std::string_view name) const { return values_.contains(name); }

    /// False when not given.
    [[nodiscard]] bool flag(std::string_view name) const;
    /// The value, or nullopt when neither given nor defaulted.
    [[nodiscard]] std::optional<std::string> text(std::string_view name) const;
    [[nodiscard]] std::optional<uint64_t> number(std::string_view name) const;
    /// What was given, in that order; a default counts for repeatable options only.
    [[nodiscard]] std::vector<std::string> texts(std::string_view name) const;
    /// The same, of kNumber and kSize.
    [[nodiscard]] std::vector<uint64_t> numbers(std::string_view name) const;

  private:
    struct Value {
        std::string text;  // the last one
        uint64_t number = 0;
        std::vector<std::string> texts{};  // see texts()
        std::vector<uint64_t> numbers{};   // of those
    };

    std::map<std::string, Value, std::less<>> values_;
};

}  // namespace outrigger
