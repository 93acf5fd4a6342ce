// SPDX-License-Identifier: Apache-2.0
/// A device's state, as the device sees it: sections, each with bytes that only the device
/// understands. docs/state.md has the rules by which they may change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

/// Why a state cannot be used.
enum class StateFault : uint8_t {
    kTooLarge,  ///< more than kStateBytesMax
    kNoState,   ///< it does not begin as one
    kDamaged,   ///< cut short, or not what was written
    kTooNew,    ///< made for readers that come after this one
    kSection,   ///< a section that this device must know, and does not
    kContent,   ///< the device cannot take what a section says
    kOther,     ///< of another device, or of one with other features or queues
    kTransfer,  ///< it did not come, or did not go out
};

struct StateError {
    StateFault fault = StateFault::kDamaged;
    std::string message{};  ///< one sentence without a full stop, fit for a terminal
};

/// The largest state there is, written or read.
inline constexpr size_t kStateBytesMax = size_t{64} << 20;
inline constexpr size_t kStateSectionsMax = 256;
/// Of a section's name, which is printable ASCII.
inline constexpr size_t kSectionNameBytesMax = 32;

/// One kind of section that a device writes and reads.
struct StateSectionKind {
    uint32_t id = 0;        ///< from 1; never used again for anything else
    std::string_view name;  ///< for people: it may change
    uint32_t version = 1;   ///< that is written; the same and all before are read
    bool critical = true;   ///< a device that does not know it must refuse the state
};

struct StateSection {
    uint32_t id = 0;
    std::string name{};
    uint32_t version = 0;
    bool critical = true;
    std::vector<std::byte> bytes{};

    friend bool operator==(const StateSection&, const StateSection&) = default;
};

[[nodiscard]] StateSection make_section(const StateSectionKind& kind,
                                        std::span<const std::byte> bytes);

/// Can a device have these kinds: an id and a version from 1 each, no id twice, names as above?
[[nodiscard]] bool are_section_kinds(std::span<const StateSectionKind> kinds);

/// The section with this id, or null.
[[nodiscard]] const StateSection* find_section(std::span<const StateSection> sections, uint32_t id);

/// `section 7 "name", version 3`: how every message names one.
[[nodiscard]] std::string describe(const StateSection& section);

struct KnownSections {
    std::vector<StateSection> sections{};  ///< in their order
    std::vector<std::string> skipped{};    ///< as describe() names them
};

/// What `known` can read of `sections`. The rest is skipped, unless a section of it is critical:
/// then all is refused (StateFault::kSection), and the message names it.
[[nodiscard]] Result<KnownSections, StateError> select_sections(
    std::span<const StateSection> sections, std::span<const StateSectionKind> known);

}  // namespace outrigger
