// SPDX-License-Identifier: Apache-2.0
/// The requests of KVM that take a count and then as many entries.
///
/// The kernel's header writes their arrays with an empty struct in front, which has a size in C++
/// and none in C: there the structs are too large, and the numbers of the requests, which contain
/// that size, are wrong. Here they are as in C.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace outrigger::vmm {

/// In front of the entries. The second field is padding or flags, zero in all of them.
struct CountedHead {
    uint32_t count = 0;
    uint32_t zero = 0;
};

static_assert(sizeof(CountedHead) == 8);

inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CountedHead);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, CountedHead);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, CountedHead);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, CountedHead);
inline constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6A, CountedHead);

/// A head and `entries` behind it, for ioctl().
template <class Entry>
[[nodiscard]] std::vector<std::byte> counted_request(std::span<const Entry> entries) {
    std::vector<std::byte> request(sizeof(CountedHead) + entries.size_bytes());
    const CountedHead head = {.count = static_cast<uint32_t>(entries.size())};
    std::memcpy(request.data(), &head, sizeof(head));
    if (!entries.empty()) {
        std::memcpy(request.data() + sizeof(head), entries.data(), entries.size_bytes());
    }
    return request;
}

}  // namespace outrigger::vmm
