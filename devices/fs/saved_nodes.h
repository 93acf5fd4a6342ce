// SPDX-License-Identifier: Apache-2.0
/// The node ids that a guest knows, and where their files are, on their way to another process. Of
/// each path only what differs from the one before is written, so that millions fit a state, and
/// paths are put together one at a time, so that they take no more memory than they did on the way.
/// Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {

struct SavedNode {
    uint64_t id = 0;
    uint64_t lookups = 0;
    uint32_t type = 0;  ///< S_IFMT of its mode
    /// From the root of the share, without a slash in front, of any bytes but NUL.
    std::string path{};
    std::vector<std::byte> handle{};  ///< of a forgotten one: which file it was

    friend bool operator==(const SavedNode&, const SavedNode&) = default;
};

/// S_IFMT of a file, and nothing else.
[[nodiscard]] bool is_file_type(uint32_t type);

/// Components with one slash between them, each one that a guest could have looked up.
[[nodiscard]] bool is_beneath(std::string_view path);

class SavedNodes final {
  public:
    enum class Kind : uint8_t {
        kKnown,
        kForgotten,  ///< without look-ups, and with handles
    };

    SavedNodes() = default;

    explicit SavedNodes(Kind kind) : kind_(kind) {}

    SavedNodes(std::initializer_list<SavedNode> nodes, Kind kind = Kind::kKnown);

    /// What somebody wrote: nothing where a node is none, or its path leads out.
    [[nodiscard]] static std::optional<SavedNodes> parse(Bytes bytes, Kind kind = Kind::kKnown);

    void add(const SavedNode& node);

    [[nodiscard]] Bytes bytes() const { return bytes_; }

    [[nodiscard]] size_t size() const { return count_; }

    [[nodiscard]] bool is_empty() const { return count_ == 0; }

    /// Calls `each(const SavedNode&)`, which returns whether to go on, in the order of add().
    template <class Each>
    void for_each(Each each) const {
        Reader reader(bytes_, kind_);
        while (reader.next() && each(reader.node())) {
        }
    }

    /// For tests: all at once.
    [[nodiscard]] std::vector<SavedNode> all() const;

    friend bool operator==(const SavedNodes& one, const SavedNodes& other) {
        return one.bytes_ == other.bytes_;
    }

  private:
    class Reader final {
      public:
        Reader(Bytes bytes, Kind kind) : rest_(bytes), kind_(kind) {}

        /// False at the end, or where what follows is no node.
        [[nodiscard]] bool next();

        [[nodiscard]] bool at_end() const { return rest_.empty(); }

        [[nodiscard]] const SavedNode& node() const { return node_; }

      private:
        [[nodiscard]] std::optional<uint64_t> take_number();

        Bytes rest_;
        Kind kind_;
        SavedNode node_;
    };

    void add_number(uint64_t number);

    Kind kind_ = Kind::kKnown;
    std::vector<std::byte> bytes_;
    size_t count_ = 0;
    uint32_t last_slot_ = 0;
    std::string last_path_;
};

}  // namespace outrigger::fs
