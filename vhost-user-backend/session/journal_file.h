// SPDX-License-Identifier: Apache-2.0
/// Shared memory with the newest of what was written to it, whenever its writer dies: two copies in
/// turn, each with a sequence number and a checksum. Whoever reads takes the newest that is whole.
///
/// One word beside them says how far its writer went on from there: see Progress.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

class JournalFile final {
  public:
    static constexpr size_t kContentBytesMax = 1 << 20;

    /// What the writer has begun since its last write(), in this order. A step is noted before it
    /// is done. Whether it was, the socket says of kTaking (platform::peeked_bytes()), and of
    /// kReplying Content::sent: both are changed by the system calls that do it, and a process that
    /// is killed ends its system call first.
    enum class Progress : uint8_t { kWritten, kTaking, kReplying, kDone };

    struct Content {
        std::vector<std::byte> bytes{};
        Progress progress = Progress::kWritten;
        /// Where that is kReplying: bytes of the reply, header included, that went out. Nothing:
        /// the writer did not note them.
        std::optional<uint32_t> sent{};
    };

    /// Empty: read() gives nothing.
    [[nodiscard]] static Result<JournalFile> create();

    /// What another process left. Refuses what cannot be one; what it says may be anything.
    [[nodiscard]] static Result<JournalFile> open(UniqueFd fd);

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// The newest whole copy: nothing when there is none.
    [[nodiscard]] std::optional<Content> read() const;

    /// Replaces the older copy, as one that is `progress` on its way already. False when `bytes`
    /// are too many; then the journal is as before.
    [[nodiscard]] bool write(std::span<const std::byte> bytes,
                             Progress progress = Progress::kWritten);

    void set_progress(Progress progress);

    /// set_progress(kReplying), and where to note how much of the reply is sent: until the next
    /// write(). Of the message alone `moved` is in the file.
    [[nodiscard]] platform::NotedMessage& begin_reply();

    /// A number beside all that, for what changes more often than the content.
    void set_owed(size_t owed);
    [[nodiscard]] size_t owed() const;

  private:
    struct Copy;

    JournalFile(UniqueFd fd, Mapping mapping, Mapping note);

    [[nodiscard]] static Result<JournalFile> map(UniqueFd fd);

    [[nodiscard]] std::byte* copy_at(size_t which) const;
    [[nodiscard]] std::optional<Copy> read_copy(size_t which) const;

    UniqueFd fd_;
    Mapping mapping_;
    Mapping note_;           // of the page in which the kernel notes what is sent
    uint64_t sequence_ = 0;  // of the newest copy
};

}  // namespace outrigger
