// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/acpi_tables.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <numeric>
#include <span>
#include <string>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vmm-lite/boot/aml.h"
#include "vmm-lite/boot/layout.h"

namespace outrigger::vmm {
namespace {

constexpr AcpiOptions kMachine = {.vcpus = 4,
                                  .serial = true,
                                  .power_button = true,
                                  .mmio64 = 0x140000000,
                                  .mmio64_bytes = 0x400000000};

using Bytes = std::vector<uint8_t>;

template <class T>
T at(std::span<const uint8_t> bytes, size_t offset) {
    T value{};
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
}

uint8_t sum(std::span<const uint8_t> bytes) {
    return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0U));
}

/// The table at a physical address, as its own length says.
std::span<const uint8_t> table_at(const AcpiTables& tables, uint64_t address) {
    const auto rest = std::span(tables.bytes).subspan(address - layout::kAcpi);
    return rest.first(at<uint32_t>(rest, 4));
}

std::span<const uint8_t> xsdt(const AcpiTables& tables) {
    return table_at(tables, at<uint64_t>(tables.bytes, 24));
}

/// The table with this signature among those that the XSDT names; the FADT names the DSDT.
std::span<const uint8_t> find(const AcpiTables& tables, std::string_view signature) {
    const auto root = xsdt(tables);
    for (size_t offset = 36; offset < root.size(); offset += 8) {
        const auto table = table_at(tables, at<uint64_t>(root, offset));
        if (std::memcmp(table.data(), signature.data(), 4) == 0) {
            return table;
        }
    }
    return {};
}

TEST(AcpiTables, EverySumIsZero) {
    const AcpiTables tables = make_acpi_tables(kMachine);
    EXPECT_EQ(sum(std::span(tables.bytes).first(20)), 0);
    EXPECT_EQ(sum(std::span(tables.bytes).first(36)), 0);
    EXPECT_EQ(sum(xsdt(tables)), 0);
    for (const char* signature : {"FACP", "APIC", "MCFG"}) {
        ASSERT_FALSE(find(tables, signature).empty()) << signature;
        EXPECT_EQ(sum(find(tables, signature)), 0) << signature;
    }
    EXPECT_EQ(sum(table_at(tables, at<uint64_t>(find(tables, "FACP"), 140))), 0);
}

TEST(AcpiTables, IsSmall) {
    EXPECT_LE(make_acpi_tables({.vcpus = 1, .mmio64 = 1ULL << 32U, .mmio64_bytes = 1U << 30U})
                  .bytes.size(),
              900U);
}

TEST(AcpiTables, HasAPowerButtonWhereOneCanBePressed) {
    const auto names_button = [](const AcpiTables& tables) {
        const std::string_view event_device = "ACPI0013";
        return std::ranges::search(tables.bytes, event_device).begin() != tables.bytes.end();
    };
    EXPECT_TRUE(names_button(make_acpi_tables(kMachine)));
    EXPECT_FALSE(names_button(make_acpi_tables({.vcpus = 1, .serial = true})));
}

TEST(AcpiTables, NamesEveryProcessor) {
    const AcpiTables tables = make_acpi_tables(kMachine);
    const auto madt = find(tables, "APIC");
    ASSERT_EQ(madt.size(), 44U + 4 * 8 + 12);
    for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(madt[44 + 8 * i + 3], i);
    }
}

TEST(AcpiTables, ResetAndSleepAreWhereThePortsAre) {
    const AcpiTables tables = make_acpi_tables(kMachine);
    const auto fadt = find(tables, "FACP");
    ASSERT_EQ(fadt.size(), 276U);
    EXPECT_EQ(at<uint64_t>(fadt, 120), layout::kResetPort);
    EXPECT_EQ(fadt[128], layout::kResetValue);
    EXPECT_EQ(at<uint64_t>(fadt, 248), layout::kSleepControlPort);
    EXPECT_NE(at<uint32_t>(fadt, 112) & (1U << 20U), 0U);  // hardware-reduced
    EXPECT_NE(at<uint32_t>(fadt, 112) & (1U << 10U), 0U);  // with a reset register
}

TEST(AcpiTables, PackageLengthsGrowBytes) {
    const auto buffer = [](size_t bytes) { return aml::buffer(Bytes(bytes, 7)); };
    EXPECT_EQ(buffer(10)[1], 13);  // itself, two of the size, ten
    EXPECT_EQ(buffer(60)[1], 63);
    EXPECT_EQ(buffer(61)[1], 0x40 | (65 & 15));
    EXPECT_EQ(buffer(61)[2], 65 >> 4);
}

TEST(AcpiTables, IntegersTakeTheShortestForm) {
    EXPECT_EQ(aml::integer(1), (Bytes{0x01}));
    EXPECT_EQ(aml::integer(255), (Bytes{0x0A, 0xFF}));
    EXPECT_EQ(aml::integer(256), (Bytes{0x0B, 0x00, 0x01}));
    EXPECT_EQ(aml::eisa_id("PNP0A08"), (Bytes{0x0C, 0x41, 0xD0, 0x0A, 0x08}));
}

/// iasl reads every table back without a complaint, and what it reads compiles to the same length.
TEST(AcpiTables, AreWhatIaslTakesThemFor) {
    if (::access("/usr/bin/iasl", X_OK) != 0) {
        GTEST_SKIP() << "no iasl here";
    }
    const AcpiTables tables = make_acpi_tables(kMachine);
    const auto dsdt = table_at(tables, at<uint64_t>(find(tables, "FACP"), 140));
    std::string directory = testing::TempDir() + "acpi.XXXXXX";
    ASSERT_NE(::mkdtemp(directory.data()), nullptr);
    const std::array<std::pair<const char*, std::span<const uint8_t>>, 4> files = {{
        {"dsdt", dsdt},
        {"facp", find(tables, "FACP")},
        {"apic", find(tables, "APIC")},
        {"mcfg", find(tables, "MCFG")},
    }};
    for (const auto& [name, table] : files) {
        const std::string path = directory + "/" + name;
        std::ofstream(path + ".aml", std::ios::binary)
            .write(reinterpret_cast<const char*>(table.data()),  // SAFETY: bytes as characters
                   static_cast<std::streamsize>(table.size()));
        const std::string command = "cd " + directory + " && iasl -d " + name + ".aml >" + name +
                                    ".log 2>&1 && iasl -p again " + name + ".dsl >>" + name +
                                    ".log 2>&1";
        EXPECT_EQ(std::system(command.c_str()), 0) << name;
        std::ifstream log(path + ".log");
        const std::string text((std::istreambuf_iterator<char>(log)), {});
        EXPECT_EQ(text.find("rror:"), std::string::npos) << text;
        EXPECT_EQ(text.find("nvalid"), std::string::npos) << text;
        EXPECT_EQ(text.find("ncorrect checksum"), std::string::npos) << text;
        std::ifstream again(directory + "/again.aml", std::ios::binary | std::ios::ate);
        EXPECT_EQ(static_cast<size_t>(again.tellg()), table.size()) << name;
    }
    EXPECT_EQ(std::system(("rm -rf " + directory).c_str()), 0);
}

}  // namespace
}  // namespace outrigger::vmm
