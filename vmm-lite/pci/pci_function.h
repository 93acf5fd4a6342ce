// SPDX-License-Identifier: Apache-2.0
/// One function on the PCI bus: its configuration space, its BARs, and what answers behind them.
///
/// The bus calls everything with its lock held but read_bar() and write_bar(), which come without:
/// a function locks itself there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm-lite/pci/config_space.h"

namespace outrigger::vmm {

class PciFunction {
  public:
    struct Bar {
        unsigned index = 0;                   ///< 0, 2 or 4: each takes two registers
        uint64_t bytes = 0;                   ///< a power of two, 4096 or more
        std::optional<uint64_t> mapped_at{};  ///< where it answers; nothing when it does not
    };

    explicit PciFunction(const PciIdentity& identity) : config_(identity) {}

    PciFunction(const PciFunction&) = delete;
    PciFunction& operator=(const PciFunction&) = delete;
    virtual ~PciFunction() = default;

    /// `at` and `size` are 1, 2 or 4 aligned bytes of the configuration space.
    virtual void read_config(uint16_t at, std::span<std::byte> out) { config_.read(at, out); }

    virtual void write_config(uint16_t at, std::span<const std::byte> in) { config_.write(at, in); }

    /// Inside of the BAR; 1 to 8 bytes.
    virtual void read_bar(unsigned bar, uint64_t offset, std::span<std::byte> out) = 0;
    virtual void write_bar(unsigned bar, uint64_t offset, std::span<const std::byte> in) = 0;
    /// The guest moved a BAR, or switched it on or off: `bars()` says where it is now.
    virtual void on_bar_moved(const Bar& bar) = 0;

    [[nodiscard]] ConfigSpace& config() { return config_; }

    [[nodiscard]] std::vector<Bar>& bars() { return bars_; }

  protected:
    /// Its address comes when the function is put on a bus.
    void add_bar(unsigned index, uint64_t bytes) {
        bars_.push_back({.index = index, .bytes = bytes});
    }

  private:
    ConfigSpace config_;
    std::vector<Bar> bars_;
};

}  // namespace outrigger::vmm
