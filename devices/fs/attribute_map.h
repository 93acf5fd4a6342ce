// SPDX-License-Identifier: Apache-2.0
/// Under which names the host keeps the extended attributes of a guest: the rules of virtiofsd's
/// --xattrmap. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {

class AttributeMap final {
  public:
    /// Without rules names are on the host what they are in the guest.
    AttributeMap() = default;

    /// `text`: rules of the form ":type:scope:key:prepend:" (or any other character in the place of
    /// the colons), one behind the other, with space between. Types are prefix, ok, bad and
    /// unsupported, scopes client, server and all; ":map:key:prepend:" may be the last one.
    [[nodiscard]] static Result<AttributeMap> parse(std::string_view text);

    [[nodiscard]] bool is_empty() const { return rules_.empty(); }

    /// The host's name for one of the guest's. EPERM or EOPNOTSUPP where the guest may not use it.
    [[nodiscard]] Result<std::string, Errno> to_host(std::string_view name) const;

    /// The guest's name for one of the host's, a part of it; nothing where the guest sees none: it
    /// is hidden, or the guest could not reach it by the name.
    [[nodiscard]] std::optional<std::string_view> to_guest(std::string_view name) const;

  private:
    enum class Type : uint8_t { kPrefix, kOk, kBad, kUnsupported };

    struct Rule {
        Type type = Type::kOk;
        bool of_guest = false;  ///< `key` is looked for at the beginning of what the guest says
        bool of_host = false;   ///< `prepend` at the beginning of what the host has
        std::string key{};
        std::string prepend{};
    };

    [[nodiscard]] static Result<Rule> parse_rule(std::string_view type,
                                                 std::string_view scope,
                                                 std::string_view key,
                                                 std::string_view prepend);
    void add_map(std::string_view key, std::string_view prepend);

    std::vector<Rule> rules_;
};

/// Lists of access rights, which only their own option brings to the guest.
[[nodiscard]] bool is_access_list(std::string_view host_name);

}  // namespace outrigger::fs
