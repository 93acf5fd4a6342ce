// SPDX-License-Identifier: Apache-2.0
/// What the file of --config says: devices as sections, whose keys are those of --device. Before
/// the first section stand keys for all of them, and options of the process.
///
///     log-level = debug
///     # for all that follow
///     max-window = 2M
///
///     [vm1]
///     socket-path = /run/vm1/vsock.sock
///     guest-cid = 3
///
/// A line is empty, a comment (# or ;), a section or one key with its value, which may stand in
/// double quotes. Nothing else: whatever is wrong is refused with its line.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

struct ConfigItem {
    size_t line = 0;  ///< from 1
    std::string key{};
    std::string value{};
};

struct ConfigSection {
    size_t line = 0;
    std::string name{};  ///< letters, digits and '-', at most kSectionNameMax
    std::vector<ConfigItem> items{};
};

struct ConfigText {
    std::vector<ConfigItem> defaults{};     ///< before the first section
    std::vector<ConfigSection> sections{};  ///< each with its own name
};

inline constexpr size_t kConfigBytesMax = size_t{1} << 20;
/// It is part of names of at most 64 bytes in a keeper.
inline constexpr size_t kSectionNameMax = 24;

/// An error begins with "line N: ". Pure.
[[nodiscard]] Result<ConfigText> parse_config(std::string_view text);

}  // namespace outrigger
