// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/virtiofsd_options.h"

#include <algorithm>
#include <string_view>

namespace outrigger::fs {
namespace {

struct Translation {
    std::string_view option;  ///< with its value
    std::string_view ours;    ///< empty: it is what we do anyway
};

constexpr Translation kTranslations[] = {
    {"--sandbox=namespace", "--sandbox=on"},
    {"--sandbox=chroot", "--sandbox=on"},
    {"--seccomp=kill", ""},
    {"--seccomp=log", "--sandbox=log"},
    {"--announce-submounts", ""},
    {"--migration-mode=find-paths", ""},
    {"--migration-confirm-paths", ""},
    {"--posix-acl", "--posix-acl=always"},
    {"--security-label", "--security-label=always"},
    {"--log-level=warn", "--log-level=warning"},
    {"-d", "--log-level=debug"},
    {"-f", ""},
};

/// Options of the table whose value may be the next argument.
constexpr std::string_view kWithValue[] = {
    "--sandbox", "--seccomp", "--migration-mode", "--log-level"};

}  // namespace

std::vector<std::string> translate_virtiofsd_options(std::span<const char* const> arguments) {
    std::vector<std::string> translated;
    for (size_t i = 0; i < arguments.size(); ++i) {
        std::string text = arguments[i];
        if (std::ranges::find(kWithValue, text) != std::end(kWithValue) &&
            i + 1 < arguments.size()) {
            text += "=";
            text += arguments[++i];
        }
        const auto* const found = std::ranges::find(kTranslations, text, &Translation::option);
        if (i == 0 || found == std::end(kTranslations)) {
            translated.push_back(std::move(text));
        } else if (!found->ours.empty()) {
            translated.emplace_back(found->ours);
        }
    }
    return translated;
}

}  // namespace outrigger::fs
