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
    {"--cache=none", "--cache=never"},
    {"-d", "--log-level=debug"},
    {"-f", ""},
};

/// Options of the table whose value may be the next argument.
constexpr std::string_view kWithValue[] = {
    "--sandbox", "--seccomp", "--migration-mode", "--log-level"};

/// The list of -o, as the C virtiofsd of QEMU 7 had it and others still take it; up to its '='
/// where it has a value.
constexpr Translation kListTranslations[] = {
    {"source=", "--shared-dir="},
    {"cache=", "--cache="},
    {"modcaps=", "--modcaps="},
    {"xattrmap=", "--xattrmap="},
    {"sandbox=", "--sandbox="},
    {"log_level=", "--log-level="},
    {"xattr", "--xattr"},
    {"no_xattr", ""},
    {"writeback", "--writeback"},
    {"no_writeback", ""},
    {"readdirplus", ""},
    {"no_readdirplus", "--no-readdirplus"},
    {"posix_lock", "--posix-lock"},
    {"no_posix_lock", ""},
    {"flock", "--flock"},
    {"no_flock", ""},
    {"killpriv_v2", "--killpriv-v2"},
    {"no_killpriv_v2", ""},
    {"posix_acl", "--posix-acl=always"},
    {"no_posix_acl", ""},
    {"security_label", "--security-label=always"},
    {"no_security_label", ""},
    {"allow_direct_io", "--allow-direct-io"},
    {"no_allow_direct_io", ""},
    {"announce_submounts", ""},
    {"debug", "--log-level=debug"},
};

/// The options that a list stands for. A comma ends each, so a value that has one needs an option
/// of its own.
void append_list(std::string_view list, std::vector<std::string>& to) {
    while (!list.empty()) {
        const size_t comma = list.find(',');
        const std::string_view one = list.substr(0, comma);
        list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
        const size_t equals = one.find('=');
        const std::string_view key =
            equals == std::string_view::npos ? one : one.substr(0, equals + 1);
        const auto* const found = std::ranges::find(kListTranslations, key, &Translation::option);
        if (found == std::end(kListTranslations)) {
            to.push_back("-o " + std::string(one));  // refused by that name
        } else if (!found->ours.empty()) {
            to.push_back(std::string(found->ours) + std::string(one.substr(key.size())));
        }
    }
}

/// With `-o LIST`, `-oLIST` and `-o=LIST` taken apart.
std::vector<std::string> expand_lists(std::span<const char* const> arguments) {
    std::vector<std::string> expanded;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string_view text = arguments[i];
        if (i == 0 || !text.starts_with("-o")) {
            expanded.emplace_back(text);
        } else if (text.size() > 2) {
            append_list(text.substr(text[2] == '=' ? 3 : 2), expanded);
        } else if (i + 1 < arguments.size()) {
            append_list(arguments[++i], expanded);
        } else {
            expanded.emplace_back(text);
        }
    }
    return expanded;
}

}  // namespace

std::vector<std::string> translate_virtiofsd_options(std::span<const char* const> given) {
    const std::vector<std::string> arguments = expand_lists(given);
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
