// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/dax_window.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::fs {
namespace {

/// VIRTIO 1.3, 5.11.6.4: the DAX window is region 0.
constexpr uint8_t kRegion = 0;

Errno errno_of(FrontendError error) {
    switch (error) {
        case FrontendError::kNotNegotiated:
            return EOPNOTSUPP;
        case FrontendError::kTooMany:
            return ENOMEM;
        case FrontendError::kSuspended:
        case FrontendError::kValue:
        case FrontendError::kRefused:
        case FrontendError::kGone:
            break;
    }
    return EIO;
}

/// In their order, and none touches another: they come in any order and number.
std::vector<DaxWindow::Range> merge(std::vector<DaxWindow::Range> ranges) {
    std::ranges::sort(ranges, {}, &DaxWindow::Range::offset);
    std::vector<DaxWindow::Range> merged;
    for (const auto& range : ranges) {
        if (!merged.empty() && range.offset <= merged.back().end()) {
            merged.back().bytes = std::max(merged.back().end(), range.end()) - merged.back().offset;
        } else {
            merged.push_back(range);
        }
    }
    return merged;
}

}  // namespace

uint64_t DaxWindow::page_bytes() {
    static const auto bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    return bytes;
}

DaxWindow::DaxWindow(uint64_t bytes, std::unique_ptr<DaxRecords> records)
    : bytes_(bytes), records_(std::move(records)) {
    if (records_ == nullptr) {
        return;
    }
    for (const auto& [place, kept] : records_->read()) {
        const Range range{.offset = kept.offset, .bytes = kept.bytes};
        bool is_taken = false;
        if (has(range)) {
            for_each_in(range, [&](const auto&) { is_taken = true; });
        }
        if (!has(range) || is_taken || kept.file_offset % page_bytes() != 0 ||
            pieces_.size() == kPiecesMax) {
            records_->remove(place);
            continue;
        }
        pieces_[kept.offset] = {.bytes = kept.bytes,
                                .node = kept.node,
                                .file_offset = kept.file_offset,
                                .writable = kept.writable,
                                .is_certain = kept.is_certain,
                                .fd = nullptr,
                                .place = place};
    }
    is_to_open_again_ = !pieces_.empty();
    count_descriptors();
}

bool DaxWindow::has(const Range& range) const {
    return range.bytes > 0 && range.bytes % page_bytes() == 0 && range.offset % page_bytes() == 0 &&
           range_fits(range.offset, range.bytes, bytes_);
}

template <class Each>
void DaxWindow::for_each_in(const Range& range, Each each) const {
    auto piece = pieces_.lower_bound(range.offset);
    if (piece != pieces_.begin() &&
        std::prev(piece)->first + std::prev(piece)->second.bytes > range.offset) {
        --piece;
    }
    for (; piece != pieces_.end() && piece->first < range.end(); ++piece) {
        each(*piece);
    }
}

void DaxWindow::count_descriptors() {
    descriptors_.store(pieces_.size() + waiting_.size() + active_.size(),
                       std::memory_order_relaxed);
}

void DaxWindow::call(Ended& ended) {
    for (auto& [done, error] : ended) {
        if (done) {
            done(error);
        }
    }
}

std::shared_ptr<UniqueFd> DaxWindow::keep_open(UniqueFd fd) const {
    if (closer_ == nullptr) {
        return std::make_shared<UniqueFd>(std::move(fd));
    }
    return {new UniqueFd(std::move(fd)), [closer = closer_](UniqueFd* closed) {
                closer->close(std::move(*closed));
                delete closed;
            }};
}

void DaxWindow::use(std::shared_ptr<Frontend> frontend) {
    const std::lock_guard lock(mutex_);
    frontend_ = std::move(frontend);
    if (frontend_ == nullptr) {
        return;
    }
    for (const auto& [offset, piece] : pieces_) {
        frontend_->adopt_shared_memory({.region = kRegion, .offset = offset, .bytes = piece.bytes});
    }
}

void DaxWindow::open_again(const Open& open) {
    auto operation = std::make_shared<Operation>();
    {
        const std::lock_guard lock(mutex_);
        if (!std::exchange(is_to_open_again_, false)) {
            return;
        }
        for (auto& [offset, piece] : pieces_) {
            if (!piece.is_certain) {
                operation->ranges.push_back({.offset = offset, .bytes = piece.bytes});
            } else if (UniqueFd fd = open(piece.node, piece.writable); fd.valid()) {
                piece.fd = keep_open(std::move(fd));
            }
        }
    }
    if (!operation->ranges.empty()) {
        submit(std::move(operation));
    }
}

// --- Requests --------------------------------------------------------------------------------

void DaxWindow::map(const Range& range, Source source, Done done) {
    auto operation = std::make_shared<Operation>();
    operation->ranges.push_back(range);
    operation->piece = Piece{.bytes = range.bytes,
                             .node = source.node,
                             .file_offset = source.offset,
                             .writable = source.writable,
                             .fd = keep_open(std::move(source.fd))};
    operation->done = std::move(done);
    submit(std::move(operation));
}

void DaxWindow::unmap(std::vector<Range> ranges, Done done) {
    auto operation = std::make_shared<Operation>();
    operation->ranges = merge(std::move(ranges));
    operation->done = std::move(done);
    submit(std::move(operation));
}

void DaxWindow::unmap_all() {
    auto operation = std::make_shared<Operation>();
    operation->ranges.push_back({.offset = 0, .bytes = bytes_});
    submit(std::move(operation));
}

void DaxWindow::forget_all() {
    Ended ended;
    {
        const std::lock_guard lock(mutex_);
        ++epoch_;
        for (const auto& [offset, piece] : pieces_) {
            if (piece.place) {
                records_->remove(*piece.place);
            }
        }
        pieces_.clear();
        // Those that the front end has to answer yet are told when it has.
        for (const OperationPtr& operation : active_) {
            for (const Step& step : operation->steps) {
                if (step.piece && step.piece->place) {
                    records_->remove(*step.piece->place);
                }
            }
            operation->steps.clear();
        }
        active_.clear();
        for (const OperationPtr& operation : std::exchange(waiting_, {})) {
            ended.emplace_back(std::move(operation->done), EIO);
        }
        waiting_ranges_ = 0;
        is_to_open_again_ = false;
        count_descriptors();
    }
    call(ended);
}

void DaxWindow::submit(OperationPtr operation) {
    Ended ended;
    {
        const std::lock_guard lock(mutex_);
        if (waiting_.size() >= kWaitingMax ||
            operation->ranges.size() > kWaitingRangesMax - waiting_ranges_) {
            ended.emplace_back(std::move(operation->done), ENOMEM);
        } else {
            operation->epoch = epoch_;
            waiting_ranges_ += operation->ranges.size();
            waiting_.push_back(std::move(operation));
            start_waiting(ended);
        }
        count_descriptors();
    }
    call(ended);
}

/// All that it may change: pieces that it touches are changed as a whole.
DaxWindow::Range DaxWindow::hull(const Operation& operation) const {
    uint64_t begin = bytes_;
    uint64_t end = 0;
    for (const Range& range : operation.ranges) {
        begin = std::min(begin, range.offset);
        end = std::max(end, range.end());
    }
    for_each_in({.offset = begin, .bytes = end - begin}, [&](const auto& piece) {
        begin = std::min(begin, piece.first);
        end = std::max(end, piece.first + piece.second.bytes);
    });
    return {.offset = begin, .bytes = end - begin};
}

bool DaxWindow::is_locked(const Range& range) const {
    return std::ranges::any_of(active_, [&](const OperationPtr& other) {
        return range.offset < other->locked.end() && other->locked.offset < range.end();
    });
}

/// In their order: none that touches what another one before it waits for gets ahead.
void DaxWindow::start_waiting(Ended& ended) {
    while (!waiting_.empty() && active_.size() < kActiveMax) {
        const OperationPtr operation = waiting_.front();
        operation->locked = hull(*operation);
        if (is_locked(operation->locked)) {
            return;
        }
        waiting_.pop_front();
        waiting_ranges_ -= operation->ranges.size();
        operation->error = plan(*operation);
        active_.push_back(operation);
        go_on(operation, ended);
    }
}

/// Fills in the steps. An error: nothing is to be done.
Errno DaxWindow::plan(Operation& operation) {
    for (const Range& range : operation.ranges) {
        for_each_in(range, [&](const auto& piece) { operation.old.insert(piece); });
    }
    if (operation.piece && operation.old.size() == 1) {
        const auto& [offset, piece] = *operation.old.begin();
        const Piece& wish = *operation.piece;
        if (offset == operation.ranges.front().offset && piece.bytes == wish.bytes &&
            piece.node == wish.node && piece.file_offset == wish.file_offset && piece.is_certain &&
            (piece.writable || !wish.writable)) {
            operation.old.clear();
            return 0;  // it is there
        }
    }
    // What is left of them. A cut may end one piece and begin the next.
    auto cut = operation.ranges.begin();
    std::vector<Step> rests;
    for (const auto& [offset, piece] : operation.old) {
        operation.steps.push_back({.range = {.offset = offset, .bytes = piece.bytes}});
        if (!piece.is_certain) {
            continue;
        }
        const auto keep = [&](uint64_t begin, uint64_t end) {
            if (begin < end) {
                Piece rest = piece;
                rest.bytes = end - begin;
                rest.file_offset += begin - offset;
                rest.place.reset();
                rests.push_back({.range = {.offset = begin, .bytes = end - begin}, .piece = rest});
            }
        };
        uint64_t from = offset;
        const uint64_t end = offset + piece.bytes;
        while (cut->end() <= offset) {
            ++cut;  // there is one behind it that touches this piece
        }
        for (auto next = cut; next != operation.ranges.end() && next->offset < end; ++next) {
            keep(from, next->offset);
            from = next->end();
        }
        keep(from, end);
    }
    const bool is_lost =
        std::ranges::any_of(rests, [](const Step& step) { return step.piece->fd == nullptr; });
    const size_t more = rests.size() + (operation.piece ? 1 : 0);
    if (is_lost || pieces_.size() - operation.old.size() + more > kPiecesMax) {
        operation.steps.clear();
        operation.old.clear();
        return is_lost ? EIO : ENOMEM;
    }
    std::ranges::move(rests, std::back_inserter(operation.steps));
    if (operation.piece) {
        operation.steps.push_back(
            {.range = operation.ranges.front(), .piece = std::move(operation.piece)});
    }
    return 0;
}

/// Maps again what is missing of what was there.
void DaxWindow::plan_undo(Operation& operation) {
    operation.is_undone = true;
    operation.steps.clear();
    for (const auto& [offset, piece] : operation.old) {
        if (!piece.is_certain || piece.fd == nullptr) {
            continue;
        }
        uint64_t from = offset;
        const auto fill = [&, start = offset, &old = piece](uint64_t end) {
            if (from < end) {
                Piece lost = old;
                lost.bytes = end - from;
                lost.file_offset += from - start;
                lost.place.reset();
                operation.steps.push_back(
                    {.range = {.offset = from, .bytes = end - from}, .piece = std::move(lost)});
            }
        };
        for_each_in({.offset = offset, .bytes = piece.bytes}, [&](const auto& there) {
            fill(there.first);
            from = there.first + there.second.bytes;
        });
        fill(offset + piece.bytes);
    }
}

void DaxWindow::go_on(const OperationPtr& operation, Ended& ended) {
    while (!operation->steps.empty()) {
        if (send(operation)) {
            return;
        }
        note(*operation, failure(FrontendError::kGone));
    }
    end(operation, ended);
}

/// Asks for the first step. False: there is nobody who would answer.
bool DaxWindow::send(const OperationPtr& operation) {
    Step& step = operation->steps.front();
    if (frontend_ == nullptr) {
        return false;
    }
    const SharedMemoryRange range{
        .region = kRegion, .offset = step.range.offset, .bytes = step.range.bytes};
    auto on_done = [self = shared_from_this(), operation](Result<void, FrontendError> answer) {
        self->on_answer(operation, answer);
    };
    if (!step.piece) {
        const auto piece = pieces_.find(step.range.offset);
        if (piece != pieces_.end() && piece->second.place) {
            records_->note_certain(*piece->second.place, false);
        }
        return frontend_->unmap_shared_memory(range, std::move(on_done));
    }
    Piece& piece = *step.piece;
    UniqueFd fd(::fcntl(piece.fd->get(), F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) {
        return false;
    }
    if (records_ != nullptr) {
        piece.place = records_->add({.offset = step.range.offset,
                                     .bytes = piece.bytes,
                                     .node = piece.node,
                                     .file_offset = piece.file_offset,
                                     .writable = piece.writable});
        if (!piece.place) {
            return false;
        }
    }
    return frontend_->map_shared_memory(
        range,
        {.fd = std::move(fd), .fd_offset = piece.file_offset, .writable = piece.writable},
        std::move(on_done));
}

void DaxWindow::on_answer(const OperationPtr& operation, Result<void, FrontendError> answer) {
    Ended ended;
    {
        const std::lock_guard lock(mutex_);
        if (operation->epoch != epoch_) {
            ended.emplace_back(std::move(operation->done), EIO);
        } else {
            note(*operation, answer);
            go_on(operation, ended);
            start_waiting(ended);
            count_descriptors();
        }
    }
    call(ended);
}

/// What has become of the first step.
void DaxWindow::note(Operation& operation, Result<void, FrontendError> answer) {
    const Step step = std::move(operation.steps.front());
    operation.steps.pop_front();
    const auto there = pieces_.find(step.range.offset);
    bool is_done = answer.has_value();
    if (!step.piece) {
        OUTRIGGER_ASSERT(there != pieces_.end());
        Piece& piece = there->second;
        const bool is_refused = !is_done && (answer.error() == FrontendError::kRefused ||
                                             answer.error() == FrontendError::kValue);
        is_done = is_done || (is_refused && !piece.is_certain);  // as if it had not been there
        if (is_done) {
            if (piece.place) {
                records_->remove(*piece.place);
            }
            pieces_.erase(there);
        } else if (piece.place) {
            piece.is_certain = piece.is_certain && is_refused;
            records_->note_certain(*piece.place, piece.is_certain);
        }
    } else if (is_done) {
        if (step.piece->place) {
            records_->note_certain(*step.piece->place, true);
        }
        pieces_[step.range.offset] = *step.piece;
    } else if (step.piece->place) {
        records_->remove(*step.piece->place);
    }
    if (is_done) {
        return;
    }
    if (!operation.is_undone) {
        operation.error = errno_of(answer.error());
        plan_undo(operation);
    } else {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning,
                    "fs: {} bytes at {:#x} of the DAX window are lost: the front end does not map "
                    "again what it had",
                    step.range.bytes,
                    step.range.offset);
    }
}

void DaxWindow::end(const OperationPtr& operation, Ended& ended) {
    active_.remove(operation);
    ended.emplace_back(std::move(operation->done), operation->error);
}

}  // namespace outrigger::fs
