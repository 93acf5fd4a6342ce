// SPDX-License-Identifier: Apache-2.0
/// Which user of the host one of the guest's is, and the other way round: the rules of virtiofsd's
/// --translate-uid and --translate-gid. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {

class IdMap final {
  public:
    /// Without rules everybody is who he is.
    IdMap() = default;

    /// Each rule is "guest:FIRST:HOST:COUNT", "host:FIRST:GUEST:COUNT", "map:GUEST:HOST:COUNT"
    /// (both ways), "squash-guest:FIRST:HOST:COUNT", "squash-host:FIRST:GUEST:COUNT" (all become
    /// one), or "forbid-guest:FIRST:COUNT". Who is in no rule stays who he is. `option` is for the
    /// message.
    [[nodiscard]] static Result<IdMap> parse(std::string_view option,
                                             std::span<const std::string> rules);

    [[nodiscard]] bool is_empty() const { return to_host_.empty() && to_guest_.empty(); }

    /// The lines of a user namespace's map, by which a mount of the host does the same: each has
    /// the first number of the host, that of the guest, and how many. Without rules everybody is
    /// who he is; with them who is in none is nobody. An error: a rule that is not of the type map.
    [[nodiscard]] Result<std::string> namespace_lines(std::string_view option) const;

    /// EPERM: the guest may not be that one.
    [[nodiscard]] Result<uint32_t, Errno> to_host(uint32_t id) const;

    [[nodiscard]] uint32_t to_guest(uint32_t id) const;

  private:
    enum class Kind : uint8_t { kShift, kSquash, kForbid };

    struct Range {
        Kind kind = Kind::kShift;
        uint32_t first = 0;
        uint32_t count = 0;
        uint32_t target = 0;

        [[nodiscard]] bool has(uint32_t id) const { return id >= first && id - first < count; }
    };

    [[nodiscard]] Result<void> add(std::string_view rule);
    [[nodiscard]] static bool add_range(std::vector<Range>& ranges, const Range& range);

    bool has_only_pairs_ = true;  ///< rules of the type map
    std::vector<Range> to_host_;
    std::vector<Range> to_guest_;
};

}  // namespace outrigger::fs
