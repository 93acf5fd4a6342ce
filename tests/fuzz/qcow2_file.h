// SPDX-License-Identifier: Apache-2.0
/// A qcow2 file that a script makes, and a reader of it that is as simple as can be: sector by
/// sector, out of the file's bytes, with nothing kept but one expanded cluster. What the reader
/// under test returns is compared with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/fuzz/script.h"

namespace outrigger::fuzz {

class Qcow2File final {
  public:
    static constexpr size_t kSectorBytes = 512;

    /// Reads the image's part of the script.
    Qcow2File(ScriptReader& script, bool zstd, bool huge_disk);

    [[nodiscard]] std::string path() const;

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// Writes bytes in the script's next place.
    void change(ScriptReader& script);
    void shrink(ScriptReader& script);

    enum class Sector : uint8_t { kFilled, kBelow, kDamaged };

    /// A sector of the disk, inside of it.
    [[nodiscard]] Sector read_sector(uint64_t sector, std::span<std::byte, kSectorBytes> out);

  private:
    [[nodiscard]] uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits_; }

    void put_header(uint32_t version, uint64_t disk_bytes, bool zstd);
    [[nodiscard]] uint64_t read_place(ScriptReader& script, uint64_t unit) const;
    void put(uint64_t offset, std::span<const std::byte> bytes) const;
    void put_number(uint64_t offset, uint64_t value, size_t bytes) const;
    void put_entries(ScriptReader& script) const;
    void put_compressed(ScriptReader& script) const;
    void put_garbage(ScriptReader& script) const;
    [[nodiscard]] std::vector<std::byte> get(uint64_t offset, size_t bytes) const;
    [[nodiscard]] uint64_t get_number(uint64_t offset, size_t bytes) const;
    [[nodiscard]] Sector read_compressed(uint64_t entry,
                                         uint64_t offset_in_cluster,
                                         std::span<std::byte, kSectorBytes> out);

    UniqueFd fd_;
    uint32_t cluster_bits_;
    uint64_t file_bytes_;
    uint64_t expanded_entry_ = 0;
    std::vector<std::byte> expanded_;  // the cluster of that entry
};

}  // namespace outrigger::fuzz
