// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/saved_nodes.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <limits.h>
#include <sys/stat.h>

namespace outrigger::fs {
namespace {

/// In the order of their numbers in a state.
constexpr std::array<uint32_t, 7> kTypes = {
    S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};

uint32_t slot_of(uint64_t id) {
    return static_cast<uint32_t>(id);
}

/// `path`, of which the first `known` bytes are also those of one that is beneath.
bool is_beneath_behind(std::string_view path, size_t known) {
    if (path.empty() || path.size() >= PATH_MAX) {
        return false;
    }
    // From the beginning of the component that the two may not have in common.
    const size_t slash = path.substr(0, known).rfind('/');
    path.remove_prefix(slash == std::string_view::npos ? 0 : slash + 1);
    if (path.find('\0') != std::string_view::npos) {
        return false;
    }
    while (true) {
        const size_t end = std::min(path.find('/'), path.size());
        if (!check_name(path.substr(0, end))) {
            return false;
        }
        if (end == path.size()) {
            return true;
        }
        path.remove_prefix(end + 1);
    }
}

}  // namespace

bool is_file_type(uint32_t type) {
    return std::ranges::find(kTypes, type) != kTypes.end();
}

bool is_beneath(std::string_view path) {
    return is_beneath_behind(path, 0);
}

SavedNodes::SavedNodes(std::initializer_list<SavedNode> nodes, Kind kind) : kind_(kind) {
    for (const SavedNode& node : nodes) {
        add(node);
    }
}

/// Seven bits a byte, the lowest first; the upper bit says that another one follows.
void SavedNodes::add_number(uint64_t number) {
    while (number >= 0x80) {
        bytes_.push_back(static_cast<std::byte>(number | 0x80));
        number >>= 7;
    }
    bytes_.push_back(static_cast<std::byte>(number));
}

std::optional<uint64_t> SavedNodes::Reader::take_number() {
    uint64_t number = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
        const auto byte = std::to_integer<uint64_t>(rest_.front());
        rest_ = rest_.subspan(1);
        const uint64_t bits = byte & 0x7f;
        if (bits << shift >> shift != bits) {
            return std::nullopt;
        }
        number |= bits << shift;
        if (byte < 0x80) {
            return number;
        }
    }
    return std::nullopt;
}

void SavedNodes::add(const SavedNode& node) {
    const auto differs = std::ranges::mismatch(node.path, last_path_);
    const auto shared = static_cast<size_t>(differs.in1 - node.path.begin());
    // Slots come in their order, but for a few.
    add_number(slot_of(node.id) - last_slot_);
    add_number(node.id >> 32);
    add_number(kind_ == Kind::kKnown ? node.lookups : node.handle.size());
    add_number(static_cast<uint64_t>(std::ranges::find(kTypes, node.type) - kTypes.begin()));
    add_number(shared);
    add_number(node.path.size() - shared);
    const auto rest = std::as_bytes(std::span(node.path)).subspan(shared);
    bytes_.insert(bytes_.end(), rest.begin(), rest.end());
    if (kind_ == Kind::kForgotten) {
        bytes_.insert(bytes_.end(), node.handle.begin(), node.handle.end());
    }
    last_slot_ = slot_of(node.id);
    last_path_ = node.path;
    ++count_;
}

bool SavedNodes::Reader::next() {
    const auto slot = take_number();
    const auto generation = take_number();
    const auto own = take_number();  // look-ups, or the length of the handle
    const auto type = take_number();
    const auto shared = take_number();
    const auto bytes = take_number();
    if (!bytes || !slot || *slot > UINT32_MAX || !generation || *generation > UINT32_MAX || !own ||
        !type || *type >= kTypes.size() || !shared || *shared > node_.path.size() ||
        *bytes > rest_.size() || *bytes >= PATH_MAX) {
        return false;
    }
    node_.id = *generation << 32 | static_cast<uint32_t>(slot_of(node_.id) + *slot);
    node_.lookups = kind_ == Kind::kKnown ? *own : 0;
    node_.type = kTypes[*type];
    node_.path.resize(*shared);
    for (const std::byte letter : rest_.first(*bytes)) {
        node_.path.push_back(std::to_integer<char>(letter));
    }
    rest_ = rest_.subspan(*bytes);
    if (kind_ == Kind::kForgotten) {
        if (*own > rest_.size()) {
            return false;
        }
        const Bytes handle = rest_.first(*own);
        node_.handle.assign(handle.begin(), handle.end());
        rest_ = rest_.subspan(*own);
    }
    return is_beneath_behind(node_.path, *shared);
}

std::optional<SavedNodes> SavedNodes::parse(Bytes bytes, Kind kind) {
    SavedNodes nodes(kind);
    Reader reader(bytes, kind);
    while (!reader.at_end()) {
        if (!reader.next()) {
            return std::nullopt;
        }
        ++nodes.count_;
    }
    nodes.bytes_.assign(bytes.begin(), bytes.end());
    nodes.last_slot_ = slot_of(reader.node().id);
    nodes.last_path_ = reader.node().path;
    return nodes;
}

std::vector<SavedNode> SavedNodes::all() const {
    std::vector<SavedNode> nodes;
    for_each([&](const SavedNode& node) {
        nodes.push_back(node);
        return true;
    });
    return nodes;
}

}  // namespace outrigger::fs
