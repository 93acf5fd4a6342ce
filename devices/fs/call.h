// SPDX-License-Identifier: Apache-2.0
/// One FUSE request on its way through the server, and what may become of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include <sys/uio.h>

#include "vhost-user-backend/virtq/outcome_journal.h"

#include "devices/fs/fuse_request.h"
#include "devices/fs/intent.h"
#include "devices/fs/patience.h"
#include "devices/fs/reply_writer.h"

namespace outrigger::fs {

/// What a handler leaves: an errno value, or one of these.
enum class Verdict : int {
    kAnswered = 0,  ///< the payload of the reply is complete
    kSilent = -1,   ///< the protocol has no reply to this
    kLater = -2,    ///< work was given to Call::defer()
    kGivenUp = -3,  ///< of such work, which did nothing: the patience of its queue has ended
};

[[nodiscard]] constexpr Verdict failed(Errno error) {
    return static_cast<Verdict>(error);
}

/// On a verdict of a request that cannot be understood, beside the error that it is answered with.
inline constexpr int kMalformedBit = 1 << 16;

/// What a guest's programs may name without any fault of its kernel (a long name) is left out.
[[nodiscard]] constexpr Verdict failed(Malformed error) {
    return static_cast<Verdict>(error.error == EINVAL ? EINVAL | kMalformedBit : error.error);
}

[[nodiscard]] constexpr bool is_malformed(Verdict verdict) {
    return static_cast<int>(verdict) > 0 && (static_cast<int>(verdict) & kMalformedBit) != 0;
}

[[nodiscard]] constexpr Verdict without_malformed(Verdict verdict) {
    return static_cast<Verdict>(static_cast<int>(verdict) & ~kMalformedBit);
}

/// Evaluates a Result<T, Errno>; answers with its error, else yields its value.
#define OUTRIGGER_FS_TRY(expression)                             \
    __extension__({                                              \
        auto try_result_ = (expression);                         \
        if (!try_result_.has_value()) [[unlikely]]               \
            return ::outrigger::fs::failed(try_result_.error()); \
        *std::move(try_result_);                                 \
    })

struct FileRead {
    int fd = -1;
    uint64_t offset = 0;
    std::span<const iovec> segments{};
};

/// Thread-bound: queue worker.
struct Call {
    /// Makes the rest of the request where waiting does no harm, with the reply's writer; returns
    /// what the handler would have.
    using Work = std::move_only_function<Verdict(ReplyWriter& reply)>;

    class Queue {
      public:
        /// From now on the request belongs to the work; the handler returns Verdict::kLater.
        virtual void defer(Call& call, Work work) = 0;

        /// Ends when somebody waits for the requests in flight.
        [[nodiscard]] virtual Patience patience() const { return {}; }

        /// As defer(), for a read that has to wait for the disk: the kernel makes it where the
        /// worker has an io_uring. `work`, which reads the same, is done where it has none, or
        /// where that came to anything but all or nothing. Until then `work` holds what `read`
        /// names.
        virtual void read(Call& call, const FileRead& read, Work work) = 0;

        /// As defer(), for a lock: `attempt` is made at once and again, until it does not fail with
        /// EAGAIN any more, somebody interrupts the request, or nobody has time to wait for it.
        virtual void retry(Call& call, Work attempt) = 0;

        using Answer = std::move_only_function<void(Verdict verdict)>;

        /// From now on the request waits for somebody outside of this process, and nothing of ours
        /// waits with it. Who calls what this returns, once and on any thread, answers it; it is
        /// answered all the same (EIO) where the queue cannot wait any longer. The handler returns
        /// Verdict::kLater.
        [[nodiscard]] virtual Answer wait(Call& call) = 0;

        /// The kernel answered EFAULT for these.
        virtual void on_fault(std::span<const iovec> buffers) = 0;

        /// Many numbers of a BATCH_FORGET, which need not fit any buffer: copies what comes next.
        [[nodiscard]] virtual size_t read_more(std::span<std::byte> out) = 0;

        /// How far an earlier process had come with the request in hand (DescriptorChain).
        [[nodiscard]] virtual EarlierRun earlier_run() = 0;

        /// What tells another process whether the request in hand was carried out.
        virtual void note_intent(std::span<const std::byte> intent) = 0;

      protected:
        ~Queue() = default;
    };

    RequestHeader header{};
    Bytes body{};                ///< without what WRITE and BATCH_FORGET leave in the chain
    std::span<iovec> payload{};  ///< of a WRITE: as many bytes as it says; ours to consume
    ReplyWriter& reply;
    Queue& queue;
    /// Its number, where there is a keeper: never 0, and no other request's.
    uint64_t request = 0;
    bool again = false;  ///< an earlier process had it, and may have carried it out
    /// What that one noted. Nothing is filled in for requests that nobody had before.
    std::optional<Intent> earlier{};
};

}  // namespace outrigger::fs
