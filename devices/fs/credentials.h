// SPDX-License-Identifier: Apache-2.0
/// Whose files are made: the calling thread works for the guest's user while one of these exists.
/// Raw system calls, because those of the C library change every thread of the process.
#pragma once

#include <cstdint>
#include <optional>

#include <linux/capability.h>

namespace outrigger::fs {

/// What the process may do at all; read once, before threads exist.
class OwnCapabilities final {
  public:
    /// Of a process that is `user` (geteuid(), which a confined thread cannot ask).
    [[nodiscard]] static OwnCapabilities read(uint32_t user);

    [[nodiscard]] bool has(int capability) const { return (permitted_ >> capability & 1) != 0; }

    /// Whether a thread makes files for others at all. Nobody but root: what is root's in the guest
    /// would not be root's here.
    [[nodiscard]] bool change_users() const;

    /// Sets the effective set of the calling thread to what is permitted, without `dropped`.
    void set_effective_without(uint64_t dropped) const;

    /// The effective set of the calling thread becomes `effective`, of what is permitted.
    void set_effective(uint64_t effective) const;

    [[nodiscard]] uint64_t permitted() const { return permitted_; }

  private:
    uint64_t permitted_ = 0;
    uint32_t user_ = 0;
};

struct GuestUser {
    uint32_t uid = 0;
    uint32_t gid = 0;
    std::optional<uint32_t> group{};  ///< a supplementary one
    /// The driver told the supplementary group that matters, so the host's own checks are right for
    /// this user. Otherwise they would refuse what the driver has granted, and are not made.
    bool checks_access = false;
};

/// Until destruction the calling thread makes files for `user`, whom the kernel's privileges over
/// files do not help. Nothing where `own` does not allow it, or for root.
class ScopedUser final {
  public:
    ScopedUser(const OwnCapabilities& own, const GuestUser& user);
    ScopedUser(const ScopedUser&) = delete;
    ScopedUser& operator=(const ScopedUser&) = delete;
    ~ScopedUser();

    /// False: the kernel knows no such user or group here (the process is in a user namespace that
    /// has no such number), so what is made now would belong to another one.
    [[nodiscard]] bool holds() const { return holds_; }

  private:
    bool holds_ = true;
    bool uid_ = false;
    bool gid_ = false;
    bool groups_ = false;
};

/// Until destruction a write, a truncation or a change of ownership by the calling thread takes
/// set-user-id and set-group-id away, as one by an ordinary user does.
class ScopedWithoutFsetid final {
  public:
    ScopedWithoutFsetid(const OwnCapabilities& own, bool wanted);
    ScopedWithoutFsetid(const ScopedWithoutFsetid&) = delete;
    ScopedWithoutFsetid& operator=(const ScopedWithoutFsetid&) = delete;
    ~ScopedWithoutFsetid();

  private:
    const OwnCapabilities* own_ = nullptr;  // null: nothing was dropped
};

}  // namespace outrigger::fs
