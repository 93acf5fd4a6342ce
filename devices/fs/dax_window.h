// SPDX-License-Identifier: Apache-2.0
/// The DAX window of a share: which stretches of files lie where in the shared memory region that
/// the front end shows to the guest, and what is asked of the front end to have it so. VIRTIO 1.3,
/// 5.11.6.4; vhost-user "VHOST_USER_BACKEND_SHMEM_MAP".
///
/// A guest may map over what is mapped, and remove a part of it; a front end does neither. So what
/// is in the way is removed as a whole, and what is to stay of it mapped again. When the front end
/// refuses, what was there before is mapped again.
///
/// Requests whose stretches touch are carried out one after the other, in the order in which they
/// came. Nothing here waits: who asks is called back, on the control thread or at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/frontend.h"

#include "devices/fs/dax_records.h"
#include "devices/fs/fuse_request.h"
#include "devices/fs/late_closer.h"

namespace outrigger::fs {

/// Any thread. Owned by shared pointers, because answers of the front end may be on their way.
class DaxWindow final : public std::enable_shared_from_this<DaxWindow> {
  public:
    /// Pieces at a time; each holds a descriptor of its file, here and in the front end.
    static constexpr size_t kPiecesMax = 32'768;
    /// Requests that wait for one before them.
    static constexpr size_t kWaitingMax = 65'536;
    /// What those may name together; one request alone may come to a MiB of it.
    static constexpr size_t kWaitingRangesMax = 262'144;
    /// Requests that are carried out at a time: far below what a session may have unanswered.
    static constexpr size_t kActiveMax = 32;

    /// 0, or an errno value. Called once, with no lock held.
    using Done = std::move_only_function<void(Errno)>;
    /// Opens the file of a node again, to be mapped.
    using Open = std::function<UniqueFd(uint64_t node, bool writable)>;

    struct Range {
        uint64_t offset = 0;
        uint64_t bytes = 0;

        [[nodiscard]] uint64_t end() const { return offset + bytes; }
    };

    /// What is to be seen there.
    struct Source {
        UniqueFd fd;
        uint64_t node = 0;
        uint64_t offset = 0;  ///< in the file; a multiple of the page size
        bool writable = false;
    };

    /// `records` of a keeper, or null. What another process left there is here again; what it was
    /// about is removed when the next one asks for something.
    explicit DaxWindow(uint64_t bytes, std::unique_ptr<DaxRecords> records = {});
    DaxWindow(const DaxWindow&) = delete;
    DaxWindow& operator=(const DaxWindow&) = delete;
    ~DaxWindow() = default;

    [[nodiscard]] static uint64_t page_bytes();

    /// Whole pages of the window, one at least?
    [[nodiscard]] bool has(const Range& range) const;

    /// Files that are not mapped any more are closed by this, and not by whoever is told: before
    /// anything is mapped.
    void close_by(std::shared_ptr<LateCloser> closer) { closer_ = std::move(closer); }

    /// From now on this one is asked; null: nobody.
    void use(std::shared_ptr<Frontend> frontend);

    /// On a queue's thread, which is confined: what another process had mapped is opened again, and
    /// what it had not seen the end of is removed.
    void open_again(const Open& open);

    /// `range` lies in the window.
    void map(const Range& range, Source source, Done done);
    /// What is mapped there is not any more; nothing need be.
    void unmap(std::vector<Range> ranges, Done done);
    void unmap_all();

    /// The device was reset: the front end has removed everything.
    void forget_all();

    /// That it has, or is about to have.
    [[nodiscard]] size_t descriptors() const {
        // Relaxed: one more or less does not matter to the limit.
        return descriptors_.load(std::memory_order_relaxed);
    }

  private:
    struct Piece {
        uint64_t bytes = 0;
        uint64_t node = 0;
        uint64_t file_offset = 0;
        bool writable = false;
        bool is_certain = true;        // false: perhaps it is not there
        std::shared_ptr<UniqueFd> fd;  // null: could not be opened again
        std::optional<uint32_t> place{};
    };

    using Pieces = std::map<uint64_t, Piece>;  // by their offset in the window

    /// One request to the front end.
    struct Step {
        Range range{};
        std::optional<Piece> piece{};  // nothing: is removed
    };

    struct Operation {
        std::vector<Range> ranges{};
        std::optional<Piece> piece{};  // to be mapped at the only range
        Done done{};
        Range locked{};  // of no other operation at the time
        Pieces old{};    // what was in the way
        std::deque<Step> steps{};
        Errno error = 0;
        bool is_undone = false;
        uint64_t epoch = 0;
    };

    using OperationPtr = std::shared_ptr<Operation>;

    /// What is to be called when the lock is given back.
    using Ended = std::vector<std::pair<Done, Errno>>;

    void submit(OperationPtr operation);
    void start_waiting(Ended& ended);
    [[nodiscard]] Range hull(const Operation& operation) const;
    [[nodiscard]] bool is_locked(const Range& range) const;
    [[nodiscard]] Errno plan(Operation& operation);
    void plan_undo(Operation& operation);
    void go_on(const OperationPtr& operation, Ended& ended);
    [[nodiscard]] bool send(const OperationPtr& operation);
    void on_answer(const OperationPtr& operation, Result<void, FrontendError> answer);
    void note(Operation& operation, Result<void, FrontendError> answer);
    void end(const OperationPtr& operation, Ended& ended);
    void count_descriptors();
    [[nodiscard]] std::shared_ptr<UniqueFd> keep_open(UniqueFd fd) const;
    static void call(Ended& ended);

    template <class Each>
    void for_each_in(const Range& range, Each each) const;

    const uint64_t bytes_;
    const std::unique_ptr<DaxRecords> records_;
    std::shared_ptr<LateCloser> closer_;  // null: who is the last to have a file closes it
    std::atomic<size_t> descriptors_{0};
    std::mutex mutex_;  // what follows
    std::shared_ptr<Frontend> frontend_;
    Pieces pieces_;
    std::deque<OperationPtr> waiting_;
    size_t waiting_ranges_ = 0;  // of those
    std::list<OperationPtr> active_;
    uint64_t epoch_ = 0;  // resets of the device
    bool is_to_open_again_ = false;
};

}  // namespace outrigger::fs
