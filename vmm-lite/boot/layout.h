// SPDX-License-Identifier: Apache-2.0
/// Where what the guest finds lies in its memory. docs/boot.md draws it.
#pragma once

#include <cstdint>

namespace outrigger::vmm::layout {

// Read by the kernel once, before it gives the memory to others.
inline constexpr uint64_t kGdt = 0x500;
inline constexpr uint64_t kStartInfo = 0x6000;
inline constexpr uint64_t kZeroPage = 0x7000;  ///< or, with PVH, the memory map
inline constexpr uint64_t kPageTables = 0x9000;
inline constexpr uint64_t kRandomSeed = 0x10000;
inline constexpr uint64_t kCommandLine = 0x20000;
inline constexpr uint64_t kCommandLineBytesMax = 0x10000;

inline constexpr uint64_t kLowReserved = 0x9FC00;  ///< up to 1 MiB, and stays as it is
inline constexpr uint64_t kAcpi = 0xE0000;
inline constexpr uint64_t kAcpiEnd = 0xF0000;
inline constexpr uint64_t kResetVector = 0xFFFF0;
inline constexpr uint64_t kKernelMin = 0x100000;

// Devices. RAM ends below them and goes on at 4 GiB (vmm-lite/mem).
inline constexpr uint64_t kMmio32 = 0xC0000000;
inline constexpr uint64_t kMmio32Bytes = 0x20000000;
inline constexpr uint64_t kEcam = 0xE0000000;
inline constexpr uint64_t kEcamBytes = 0x100000;  ///< one bus
inline constexpr uint64_t kIoApic = 0xFEC00000;
inline constexpr uint64_t kLocalApic = 0xFEE00000;

// I/O ports.
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kResetPort = 0x601;
inline constexpr uint16_t kSleepStatusPort = 0x602;
inline constexpr uint16_t kPowerPorts = 4;
/// The guest says here how far it is: see docs/boot.md.
inline constexpr uint16_t kBootPhasePort = 0x610;
inline constexpr uint16_t kKeyboardPort = 0x64;
inline constexpr uint16_t kSerialPort = 0x3F8;
inline constexpr uint16_t kSerialPorts = 8;
inline constexpr uint32_t kSerialPin = 4;

/// Of the I/O APIC: an operator presses the power button.
inline constexpr uint32_t kPowerButtonPin = 9;

inline constexpr uint8_t kResetValue = 1;        ///< what ACPI has the guest write to kResetPort
inline constexpr uint8_t kSleepTypeOff = 5;      ///< \_S5
inline constexpr uint8_t kKeyboardReset = 0xFE;  ///< what pulses the reset line of a PC

}  // namespace outrigger::vmm::layout
