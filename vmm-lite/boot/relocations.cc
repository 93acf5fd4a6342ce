// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/relocations.h"

#include <cstring>
#include <optional>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

/// Entries are the low halves of addresses in the kernel's own mapping, which begins here.
constexpr uint64_t kKernelMap = 0xFFFFFFFF80000000;

/// Reads a list from its end to its zero; `at` is behind the list, and at the zero afterwards.
bool read_list(std::span<const std::byte> table, size_t& at, std::vector<uint32_t>& out) {
    while (at >= 4) {
        at -= 4;
        uint32_t entry = 0;
        std::memcpy(&entry, table.data() + at, sizeof(entry));
        if (entry == 0) {
            return true;
        }
        out.push_back(entry);
    }
    return false;
}

/// Where an entry's field begins in the image; nullopt when `bytes` from there are not in it.
std::optional<size_t> place_of(uint32_t entry, uint64_t linked_at, size_t size, size_t bytes) {
    const auto address = static_cast<uint64_t>(int64_t{static_cast<int32_t>(entry)});
    const uint64_t offset = address - kKernelMap - linked_at;  // wraps when it is below
    if (!range_fits<uint64_t>(offset, bytes, size)) {
        return std::nullopt;
    }
    return static_cast<size_t>(offset);
}

template <class T>
bool add_to_all(const std::vector<uint32_t>& entries,
                std::span<std::byte> image,
                uint64_t linked_at,
                T distance) {
    for (const uint32_t entry : entries) {
        const auto at = place_of(entry, linked_at, image.size(), sizeof(T));
        if (!at) {
            return false;
        }
        T value{};
        std::memcpy(&value, image.data() + *at, sizeof(value));
        value += distance;
        std::memcpy(image.data() + *at, &value, sizeof(value));
    }
    return true;
}

}  // namespace

Result<Relocations> parse_relocations(std::span<const std::byte> table) {
    Relocations relocations;
    // The linker aligns nothing here: the table ends where the payload ends.
    size_t at = table.size();
    if (!read_list(table, at, relocations.narrow) || !read_list(table, at, relocations.inverse) ||
        !read_list(table, at, relocations.wide) || relocations.narrow.empty()) {
        return failure(Error{.message = "has no table of relocations"});
    }
    return relocations;
}

bool apply_relocations(const Relocations& relocations,
                       std::span<std::byte> image,
                       uint64_t linked_at,
                       uint64_t distance) {
    const auto narrow = static_cast<uint32_t>(distance);
    return add_to_all<uint32_t>(relocations.narrow, image, linked_at, narrow) &&
           add_to_all<uint32_t>(relocations.inverse, image, linked_at, 0U - narrow) &&
           add_to_all<uint64_t>(relocations.wide, image, linked_at, distance);
}

}  // namespace outrigger::vmm
