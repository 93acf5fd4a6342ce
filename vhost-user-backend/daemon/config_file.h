// SPDX-License-Identifier: Apache-2.0
/// The file of --config: devices as sections, whose keys are those of --device.
///
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
#include "vhost-user-backend/base/unique_fd.h"

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

/// What the file at `path` has now; in a process that a keeper has started, what the keeper read
/// there for it (kConfigVariable), so that a process that is started again finds what the one
/// before was started with.
[[nodiscard]] Result<std::string> read_config(const std::string& path);

/// The environment's name for the descriptor of what a keeper has read.
inline constexpr const char* kConfigVariable = "OUTRIGGER_CONFIG";

/// Memory with what the file at `path` has now, for the environment of others.
[[nodiscard]] Result<UniqueFd> copy_config(const std::string& path);
/// What copy_config() gave.
[[nodiscard]] Result<std::string> read_config_copy(int fd);

}  // namespace outrigger
