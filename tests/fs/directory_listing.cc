// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/directory_listing.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace outrigger::testing {

std::vector<ListedEntry> entries_of(const FuseAnswer& answer, bool plus) {
    std::vector<ListedEntry> out;
    const auto body = answer.body();
    const size_t before = plus ? sizeof(fuse_entry_out) : 0;
    for (size_t at = 0; at + before + offsetof(fuse_dirent, name) <= body.size();) {
        ListedEntry entry;
        if (plus) {
            std::memcpy(&entry.entry, body.data() + at, sizeof entry.entry);
        }
        const size_t head_at = at + before;
        uint64_t words[2] = {};
        uint32_t halves[2] = {};
        std::memcpy(words, body.data() + head_at, sizeof words);
        std::memcpy(halves, body.data() + head_at + sizeof words, sizeof halves);
        const size_t name_at = head_at + offsetof(fuse_dirent, name);
        if (halves[0] > body.size() - name_at) {
            break;
        }
        entry.inode = words[0];
        entry.offset = words[1];
        entry.type = halves[1];
        for (size_t i = 0; i < halves[0]; ++i) {
            entry.name.push_back(std::to_integer<char>(body[name_at + i]));
        }
        out.push_back(entry);
        at = FUSE_DIRENT_ALIGN(name_at + halves[0]);
    }
    return out;
}

std::vector<std::string> Listing::sorted_names() const {
    std::vector<std::string> names;
    for (const ListedEntry& entry : entries) {
        names.push_back(entry.name);
    }
    std::ranges::sort(names);
    return names;
}

const ListedEntry* Listing::find(std::string_view name) const {
    const auto found = std::ranges::find(entries, name, &ListedEntry::name);
    return found != entries.end() ? &*found : nullptr;
}

Listing list_directory(
    FuseGuest& guest, uint64_t node, uint64_t fh, bool plus, uint32_t size, size_t requests_max) {
    Listing listing;
    uint64_t offset = 0;
    for (size_t i = 0; i < requests_max; ++i) {
        const FuseAnswer answer = guest.call(plus ? ask::readdirplus(node, fh, offset, size)
                                                  : ask::readdir(node, fh, offset, size));
        listing.error = answer.error();
        if (listing.error != 0) {
            return listing;
        }
        const auto entries = entries_of(answer, plus);
        if (entries.empty()) {
            listing.ended = true;
            return listing;
        }
        offset = entries.back().offset;
        listing.entries.insert(listing.entries.end(), entries.begin(), entries.end());
    }
    return listing;
}

}  // namespace outrigger::testing
