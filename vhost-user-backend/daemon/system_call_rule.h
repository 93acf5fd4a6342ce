// SPDX-License-Identifier: Apache-2.0
/// The words in which tables say which system calls a thread may make.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace outrigger {

/// Holds when (argument & mask) == value. A mask of 0 always holds.
struct ArgumentTest {
    uint8_t index = 0;  ///< 0 is the first argument
    uint64_t mask = 0;
    uint64_t value = 0;
};

/// For an argument that the kernel takes as 32 bits, of whose register the rest is arbitrary.
constexpr ArgumentTest argument_is(uint8_t index, uint32_t value) {
    return {.index = index, .mask = 0xffff'ffff, .value = value};
}

/// None of the bits `forbidden` is set.
constexpr ArgumentTest argument_lacks(uint8_t index, uint64_t forbidden) {
    return {.index = index, .mask = forbidden, .value = 0};
}

/// The call `name` when all tests hold. Several rules for one call: any of them is enough.
struct SystemCallRule {
    const char* name =
        "";  ///< as in the kernel's tables; one that this architecture lacks is skipped
    std::array<ArgumentTest, 2> tests{};
    /// 0: the call is made. Else it is not, and fails with this errno value; other rules for the
    /// same call come first.
    uint16_t error = 0;
    /// The call takes a name, so the rule is there only where Landlock holds names to what
    /// SandboxExtras allow.
    bool by_name = false;
};

/// What a device does beyond the framework, on top of what every daemon may.
struct SandboxNeeds {
    /// Of queue workers and helper threads.
    std::span<const SystemCallRule> system_calls{};
    /// Of the control thread, which calls everything in Device that is not about a queue.
    std::span<const SystemCallRule> control_system_calls{};
    /// IORING_OP_* opcodes that it submits.
    std::span<const uint8_t> uring_operations{};
};

/// What the options of one device add to its program's needs.
struct SandboxExtras {
    /// Of queue workers and helper threads, and of the threads that they start.
    std::span<const SystemCallRule> system_calls{};
    /// IORING_OP_* opcodes that queue workers submit.
    std::span<const uint8_t> uring_operations{};
    /// Where Landlock lets them connect to, by TCP.
    std::vector<uint16_t> connect_tcp_ports{};
    /// Landlock leaves TCP alone.
    bool any_tcp = false;
    /// Files, and directories with all that is below, that Landlock lets them read.
    std::vector<std::string> readable_paths{};
    /// Directories (descriptors, borrowed) below which Landlock lets them do everything.
    std::vector<int> writable_trees{};
    /// They open files by handle (open_by_handle_at()). The kernel may not know then where a file
    /// lies, and Landlock would refuse it: it leaves reading, writing and truncating files alone,
    /// and goes on to hold everything that changes names.
    bool opens_by_handle = false;
    /// What threads keep of the capabilities that the process has, one bit each (CAP_CHOWN is 0).
    uint64_t kept_capabilities = 0;
    /// Directories below which Landlock lets them remove names.
    std::vector<std::string> removable_directories{};
    /// Directories below which Landlock lets them make, write, rename and remove files.
    std::vector<std::string> writable_directories{};
    /// Unix sockets of others that they connect to, by name: these may go and come back.
    std::vector<std::string> connect_paths{};
    /// They make sockets that reach the host's network, besides those by TCP above.
    bool keeps_network = false;
    /// They show the guest who owns files: see NamespacePlan.
    bool shows_owners = false;
};

}  // namespace outrigger
