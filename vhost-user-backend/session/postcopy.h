// SPDX-License-Identifier: Apache-2.0
/// Where a session stands in a postcopy migration: the guest runs here before its memory has come.
/// vhost-user "Migration", VHOST_USER_POSTCOPY_ADVISE, _LISTEN and _END.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/base/userfault.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/wire/message_codec.h"

namespace outrigger {

/// Memory that the front end has been told our addresses of. No ring may touch it before the front
/// end acknowledges them: until then it could not bring a page.
struct HeldMemory {
    uint32_t request = 0;  ///< what brought it, and what acknowledges it
    std::shared_ptr<const MemorySnapshot> memory{};
    bool drain = false;  ///< see take_memory()
};

/// Thread-bound: control thread.
class Postcopy final {
  public:
    /// `source` (borrowed): where userfaultfds come from; null: postcopy is not offered.
    Postcopy(const UserfaultSource* source, std::string_view device)
        : source_(source), device_(device) {}

    Postcopy(const Postcopy&) = delete;
    Postcopy& operator=(const Postcopy&) = delete;

    ~Postcopy() { give_up(); }

    [[nodiscard]] bool is_offered() const { return source_ != nullptr; }

    /// From LISTEN to END: messages that bring memory are answered with our addresses.
    [[nodiscard]] bool is_listening() const { return listening_; }

    /// Once until END: the descriptor for the front end.
    [[nodiscard]] Result<UniqueFd, Refusal> advise();
    /// Behind ADVISE, while no memory is mapped.
    [[nodiscard]] Result<void, Refusal> listen();
    /// All pages have come, or will be zeroes. Behind ADVISE, and while nothing is held.
    [[nodiscard]] Result<void, Refusal> end();

    /// Who touches what `region` lacks waits for it, as soon as anybody touches it.
    [[nodiscard]] Result<void, Refusal> arm(const MemorySnapshot::RegionPointer& region);

    void hold(HeldMemory memory) { held_ = std::move(memory); }

    /// Null: no acknowledgement is owed.
    [[nodiscard]] const HeldMemory* held() const { return held_ ? &*held_ : nullptr; }

    /// Is this the front end's acknowledgement of addresses: a memory message with a u64 alone?
    /// Nothing else of these sizes is well-formed while is_listening().
    [[nodiscard]] bool is_acknowledgement(const wire::Message& message) const;

    /// What is held, when `message` acknowledges it with 0. Null where nothing was to be
    /// acknowledged: QEMU sends one even behind REM_MEM_REG. Else a refusal; what the front end
    /// could not prepare for is held no more.
    [[nodiscard]] Result<std::optional<HeldMemory>, Refusal> take_acknowledged(
        const wire::Message& message);

    /// The session ends and nobody will bring a page: whoever waits for one goes on without, as if
    /// the front end had truncated its memory, so that neither the disk nor the guest gets zeroes
    /// that nobody wrote.
    void give_up();

  private:
    [[nodiscard]] std::vector<MemorySnapshot::RegionPointer> armed_regions() const;
    void forget();

    const UserfaultSource* source_;
    std::string_view device_;
    std::unique_ptr<Userfault> userfault_;  // from ADVISE to END
    bool listening_ = false;
    // Weak: what is not mapped any more must not be touched, since other memory may be there.
    std::vector<std::weak_ptr<const MemoryRegion>> armed_;
    std::optional<HeldMemory> held_;
};

}  // namespace outrigger
