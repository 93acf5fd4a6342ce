// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/state/section.h"

#include <algorithm>

#include <fmt/core.h>

#include "vhost-user-backend/state/state_schema.h"

namespace outrigger {

StateSection make_section(const StateSectionKind& kind, std::span<const std::byte> bytes) {
    return {.id = kind.id,
            .name = std::string(kind.name),
            .version = kind.version,
            .critical = kind.critical,
            .bytes = {bytes.begin(), bytes.end()}};
}

bool are_section_kinds(std::span<const StateSectionKind> kinds) {
    for (size_t i = 0; i < kinds.size(); ++i) {
        const StateSectionKind& kind = kinds[i];
        const auto before = kinds.first(i);
        const bool is_twice =
            std::ranges::find(before, kind.id, &StateSectionKind::id) != before.end();
        if (kind.id == 0 || kind.version == 0 || is_twice || !state::is_section_name(kind.name)) {
            return false;
        }
    }
    return kinds.size() <= kStateSectionsMax;
}

const StateSection* find_section(std::span<const StateSection> sections, uint32_t id) {
    const auto found = std::ranges::find(sections, id, &StateSection::id);
    return found != sections.end() ? &*found : nullptr;
}

std::string describe(const StateSection& section) {
    return fmt::format("section {} \"{}\", version {}", section.id, section.name, section.version);
}

Result<KnownSections, StateError> select_sections(std::span<const StateSection> sections,
                                                  std::span<const StateSectionKind> known) {
    KnownSections out;
    for (const StateSection& section : sections) {
        const auto kind = std::ranges::find(known, section.id, &StateSectionKind::id);
        if (kind != known.end() && section.version <= kind->version) {
            out.sections.push_back(section);
            continue;
        }
        if (section.critical) {
            return failure(StateError{
                .fault = StateFault::kSection,
                .message = kind == known.end()
                               ? describe(section) + ", is critical, and this device has none such"
                               : fmt::format("{}, is critical, and this device reads it up to "
                                             "version {}",
                                             describe(section),
                                             kind->version)});
        }
        out.skipped.push_back(describe(section));
    }
    return out;
}

}  // namespace outrigger
