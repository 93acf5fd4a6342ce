// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/limit_groups.h"

#include <algorithm>
#include <map>

namespace outrigger::blk {

std::shared_ptr<RateLimiter> join_limit_group(const std::string& name) {
    static std::map<std::string, std::weak_ptr<RateLimiter>> groups;
    std::erase_if(groups, [](const auto& each) { return each.second.expired(); });
    std::weak_ptr<RateLimiter>& place = groups[name];
    std::shared_ptr<RateLimiter> group = place.lock();
    if (group == nullptr) {
        group = std::make_shared<RateLimiter>(name);
        place = group;
    }
    return group;
}

bool is_group_name(const std::string& name) {
    constexpr size_t kNameMax = 64;
    return !name.empty() && name.size() <= kNameMax && std::ranges::all_of(name, [](char each) {
        return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
               (each >= '0' && each <= '9') || each == '-' || each == '_' || each == '.';
    });
}

}  // namespace outrigger::blk
