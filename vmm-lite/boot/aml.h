// SPDX-License-Identifier: Apache-2.0
/// Writes the byte code of ACPI: as much of it as the DSDT of this machine has. ACPI 6.5, 20.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace outrigger::vmm::aml {

using Bytes = std::vector<uint8_t>;

/// The parts one behind the other.
[[nodiscard]] Bytes join(std::span<const Bytes> parts);

/// `path`: names of four characters, behind a backslash or not: "\_SB_", "COM1".
[[nodiscard]] Bytes name_string(std::string_view path);
[[nodiscard]] Bytes integer(uint64_t value);
/// "PNP0A08" as the 32-bit number that stands for it.
[[nodiscard]] Bytes eisa_id(std::string_view id);
[[nodiscard]] Bytes text(std::string_view value);
[[nodiscard]] Bytes package(std::span<const Bytes> elements);
[[nodiscard]] Bytes buffer(std::span<const uint8_t> content);

[[nodiscard]] Bytes name(std::string_view path, const Bytes& value);
[[nodiscard]] Bytes scope(std::string_view path, std::span<const Bytes> content);
[[nodiscard]] Bytes device(std::string_view path, std::span<const Bytes> content);
[[nodiscard]] Bytes method(std::string_view path,
                           uint8_t arguments,
                           std::span<const Bytes> content);

[[nodiscard]] Bytes argument(uint8_t index);  ///< Arg0 to Arg6
[[nodiscard]] Bytes equal(const Bytes& left, const Bytes& right);
[[nodiscard]] Bytes if_true(const Bytes& condition, std::span<const Bytes> content);
[[nodiscard]] Bytes give_back(const Bytes& value);
[[nodiscard]] Bytes notify(std::string_view path, uint64_t value);
/// "e5c937d0-3553-4d7a-9117-ea4d19c3434d" as the 16 bytes of ToUUID.
[[nodiscard]] Bytes uuid(std::string_view text);

// Descriptors of resources, to be put together by `resources`. ACPI 6.5, 6.4.
[[nodiscard]] Bytes bus_numbers(uint16_t first, uint16_t last);
[[nodiscard]] Bytes memory_window32(uint32_t start, uint32_t bytes);
[[nodiscard]] Bytes memory_window64(uint64_t start, uint64_t bytes);
[[nodiscard]] Bytes fixed_memory32(uint32_t start, uint32_t bytes);
[[nodiscard]] Bytes ports(uint16_t start, uint8_t count);
/// An edge-triggered, active-high interrupt that one device has.
[[nodiscard]] Bytes interrupt(uint32_t gsi);
[[nodiscard]] Bytes resources(std::span<const Bytes> descriptors);

}  // namespace outrigger::vmm::aml
