// SPDX-License-Identifier: Apache-2.0
/// What READDIR and READDIRPLUS answered, taken apart.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fs/fuse_asks.h"

namespace outrigger::testing {

struct ListedEntry {
    std::string name;
    uint64_t inode = 0;
    uint64_t offset = 0;
    uint32_t type = 0;
    fuse_entry_out entry{};  ///< of READDIRPLUS
};

/// The entries of one answer. Stops at what does not fit into it.
[[nodiscard]] std::vector<ListedEntry> entries_of(const FuseAnswer& answer, bool plus);

struct Listing {
    int error = 0;
    bool ended = false;  ///< by an empty answer, and not by the limit of requests
    std::vector<ListedEntry> entries;

    [[nodiscard]] std::vector<std::string> sorted_names() const;

    [[nodiscard]] const ListedEntry* find(std::string_view name) const;
};

/// Lists a whole directory by requests of `size` bytes, at most `requests_max`.
[[nodiscard]] Listing list_directory(FuseGuest& guest,
                                     uint64_t node,
                                     uint64_t fh,
                                     bool plus,
                                     uint32_t size,
                                     size_t requests_max = 20'000);

}  // namespace outrigger::testing
