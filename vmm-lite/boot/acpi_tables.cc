// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/acpi_tables.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <string_view>

#include "vmm-lite/boot/aml.h"
#include "vmm-lite/boot/layout.h"

namespace outrigger::vmm {
namespace {

using aml::Bytes;

constexpr size_t kHeaderBytes = 36;
constexpr size_t kRootPointerBytes = 36;
constexpr size_t kFadtBytes = 276;

/// What a power button tells that was pressed while the machine runs. ACPI 6.5, 4.8.3.1.2.
constexpr uint64_t kPressed = 0x80;

template <class T>
void put(Bytes& table, size_t at, T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
        table[at + i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
    }
}

/// One by one: g++ 12 sees overflows in an insert into what is short.
void append(Bytes& out, const Bytes& more) {
    for (const uint8_t byte : more) {
        out.push_back(byte);
    }
}

void put_text(Bytes& table, size_t at, std::string_view text) {
    for (size_t i = 0; i < text.size(); ++i) {
        table[at + i] = static_cast<uint8_t>(text[i]);
    }
}

uint8_t checksum(std::span<const uint8_t> bytes) {
    const unsigned sum = std::accumulate(bytes.begin(), bytes.end(), 0U);
    return static_cast<uint8_t>(0U - sum);
}

/// A table's header around `body`. ACPI 6.5, 5.2.6.
Bytes table(std::string_view signature, uint8_t revision, const Bytes& body) {
    Bytes out(kHeaderBytes);
    append(out, body);
    put_text(out, 0, signature);
    put(out, 4, static_cast<uint32_t>(out.size()));
    out[8] = revision;
    put_text(out, 10, "OUTRIG");
    put_text(out, 16, "VMMLITE ");
    put(out, 24, uint32_t{1});
    put_text(out, 28, "ORIG");
    put(out, 32, uint32_t{1});
    out[9] = checksum(out);
    return out;
}

/// A register that is one I/O port of a byte. ACPI 6.5, 5.2.3.2.
void put_port(Bytes& out, size_t at, uint16_t port) {
    out[at] = 1;      // system I/O
    out[at + 1] = 8;  // bits
    out[at + 3] = 1;  // access by bytes
    put(out, at + 4, uint64_t{port});
}

/// ACPI 6.5, 5.2.9. Offsets are of the whole table.
Bytes fadt(uint64_t dsdt) {
    constexpr uint16_t kNoVga = 1U << 2U;
    constexpr uint16_t kNoClock = 1U << 5U;
    constexpr uint32_t kWriteBackInvalidate = 1U << 0U;
    constexpr uint32_t kSleepButton = 1U << 5U;  // not one of fixed hardware
    constexpr uint32_t kPowerButton = 1U << 4U;
    constexpr uint32_t kResetRegister = 1U << 10U;
    constexpr uint32_t kHardwareReduced = 1U << 20U;
    Bytes body(kFadtBytes - kHeaderBytes);
    const auto at = [](size_t offset) { return offset - kHeaderBytes; };
    put(body, at(109), static_cast<uint16_t>(kNoVga | kNoClock));
    put(body,
        at(112),
        kWriteBackInvalidate | kPowerButton | kSleepButton | kResetRegister | kHardwareReduced);
    put_port(body, at(116), layout::kResetPort);
    body[at(128)] = layout::kResetValue;
    body[at(131)] = 5;  // minor version
    put(body, at(140), dsdt);
    put_port(body, at(244), layout::kSleepControlPort);
    put_port(body, at(256), layout::kSleepStatusPort);
    put_text(body, at(268), "OUTRIGGR");
    return table("FACP", 6, body);
}

/// ACPI 6.5, 5.2.12. Linux takes the processors from here and from nowhere else.
Bytes madt(unsigned vcpus) {
    Bytes body(8);
    put(body, 0, static_cast<uint32_t>(layout::kLocalApic));
    for (unsigned i = 0; i < vcpus; ++i) {
        Bytes lapic(8);
        lapic[0] = 0;
        lapic[1] = 8;
        lapic[2] = static_cast<uint8_t>(i);
        lapic[3] = static_cast<uint8_t>(i);
        put(lapic, 4, uint32_t{1});  // enabled
        append(body, lapic);
    }
    Bytes io_apic(12);
    io_apic[0] = 1;
    io_apic[1] = 12;
    put(io_apic, 4, static_cast<uint32_t>(layout::kIoApic));
    append(body, io_apic);
    return table("APIC", 5, body);
}

/// PCI Firmware 3.3, 4.1.2.
Bytes mcfg() {
    Bytes body(24);
    put(body, 8, layout::kEcam);
    return table("MCFG", 1, body);
}

/// "Keep the BARs as they are": PCI Firmware 3.3, 4.6.5. Function 0 says which there are.
Bytes keep_bars() {
    const Bytes answers_5 = aml::buffer(std::array<uint8_t, 1>{0x21});
    const Bytes nothing = aml::buffer(std::array<uint8_t, 1>{0});
    const Bytes which = aml::argument(2);
    const std::array functions = {
        aml::if_true(aml::equal(which, aml::integer(0)), std::array{aml::give_back(answers_5)}),
        aml::if_true(aml::equal(which, aml::integer(5)),
                     std::array{aml::give_back(aml::integer(0))}),
    };
    return aml::method(
        "_DSM",
        4,
        std::array{aml::if_true(aml::equal(aml::argument(0),
                                           aml::uuid("e5c937d0-3553-4d7a-9117-ea4d19c3434d")),
                                functions),
                   aml::give_back(nothing)});
}

Bytes host_bridge(const AcpiOptions& options) {
    std::vector windows = {
        aml::bus_numbers(0, 0),
        aml::memory_window32(static_cast<uint32_t>(layout::kMmio32),
                             static_cast<uint32_t>(layout::kMmio32Bytes)),
    };
    if (options.mmio64_bytes != 0) {
        windows.push_back(aml::memory_window64(options.mmio64, options.mmio64_bytes));
    }
    return aml::device("PCI0",
                       std::array{
                           aml::name("_HID", aml::eisa_id("PNP0A08")),
                           aml::name("_CID", aml::eisa_id("PNP0A03")),
                           aml::name("_SEG", aml::integer(0)),
                           aml::name("_BBN", aml::integer(0)),
                           aml::name("_UID", aml::integer(0)),
                           aml::name("_CCA", aml::integer(1)),
                           aml::name("_CRS", aml::resources(windows)),
                           keep_bars(),
                       });
}

/// Linux 6.1 believes in ECAM only when a device of the board has its range.
Bytes board_resources() {
    return aml::device("MBRD",
                       std::array{
                           aml::name("_HID", aml::eisa_id("PNP0C02")),
                           aml::name("_CRS",
                                     aml::resources(std::array{aml::fixed_memory32(
                                         static_cast<uint32_t>(layout::kEcam),
                                         static_cast<uint32_t>(layout::kEcamBytes))})),
                       });
}

/// Without it the kernel writes its log to the port, but a program waits for an interrupt for ever.
Bytes serial_port() {
    return aml::device("COM1",
                       std::array{
                           aml::name("_HID", aml::eisa_id("PNP0501")),
                           aml::name("_UID", aml::integer(0)),
                           aml::name("_CRS",
                                     aml::resources(std::array{
                                         aml::ports(layout::kSerialPort, layout::kSerialPorts),
                                         aml::interrupt(layout::kSerialPin)})),
                       });
}

/// Hardware-reduced ACPI has no registers for events, but a device that turns an interrupt into
/// byte code. ACPI 6.5, 5.6.9.
Bytes power_button() {
    const Bytes button = aml::device("PWRB",
                                     std::array{
                                         aml::name("_HID", aml::eisa_id("PNP0C0C")),
                                         aml::name("_UID", aml::integer(0)),
                                     });
    const Bytes events = aml::device(
        "EVTS",
        std::array{
            aml::name("_HID", aml::text("ACPI0013")),
            aml::name("_UID", aml::integer(0)),
            aml::name("_CRS", aml::resources(std::array{aml::interrupt(layout::kPowerButtonPin)})),
            aml::method("_EVT", 1, std::array{aml::notify("PWRB", kPressed)}),
        });
    return aml::join(std::array{button, events});
}

Bytes dsdt(const AcpiOptions& options) {
    std::vector devices = {host_bridge(options), board_resources()};
    if (options.serial) {
        devices.push_back(serial_port());
    }
    if (options.power_button) {
        devices.push_back(power_button());
    }
    const Bytes zero = aml::integer(0);
    const std::array content = {
        aml::scope("_SB_", devices),
        aml::name("_S5_",
                  aml::package(std::array{aml::integer(layout::kSleepTypeOff), zero, zero, zero})),
    };
    return table("DSDT", 6, aml::join(content));
}

Bytes root_pointer(uint64_t xsdt) {
    Bytes out(kRootPointerBytes);
    put_text(out, 0, "RSD PTR ");
    put_text(out, 9, "OUTRIG");
    out[15] = 2;
    put(out, 20, static_cast<uint32_t>(kRootPointerBytes));
    put(out, 24, xsdt);
    out[8] = checksum(std::span(out).first(20));
    out[32] = checksum(out);
    return out;
}

}  // namespace

AcpiTables make_acpi_tables(const AcpiOptions& options) {
    AcpiTables tables = {.bytes = Bytes(kRootPointerBytes), .root_pointer = layout::kAcpi};
    const auto place = [&tables](const Bytes& table) {
        tables.bytes.resize((tables.bytes.size() + 7) & ~size_t{7});
        const uint64_t address = layout::kAcpi + tables.bytes.size();
        append(tables.bytes, table);
        return address;
    };
    const uint64_t dsdt_address = place(dsdt(options));
    const std::array roots = {place(fadt(dsdt_address)), place(madt(options.vcpus)), place(mcfg())};
    Bytes pointers(roots.size() * 8);
    for (size_t i = 0; i < roots.size(); ++i) {
        put(pointers, 8 * i, roots[i]);
    }
    const Bytes root = root_pointer(place(table("XSDT", 1, pointers)));
    std::ranges::copy(root, tables.bytes.begin());
    return tables;
}

}  // namespace outrigger::vmm
