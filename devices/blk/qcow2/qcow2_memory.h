// SPDX-License-Identifier: Apache-2.0
/// What a qcow2 image keeps in memory for all its queues: a bound, and each queue's share of it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

namespace outrigger::blk {

/// In bytes; taken as it is needed.
struct Qcow2Memory {
    size_t tables = 0;    ///< parts of L2 tables
    size_t clusters = 0;  ///< expanded clusters
    size_t inputs = 0;    ///< compressed clusters on their way
};

/// Any thread. A queue takes a share when it is opened and gives it back when it is closed: an
/// eighth of what others left, so that few queues have much and many have something. It can be too
/// little for a single block; a queue has one of each kind all the same, or it could not go on.
class Qcow2Budget final {
  public:
    /// Of all queues together.
    static constexpr Qcow2Memory kTotal = {
        .tables = size_t{8} << 20, .clusters = size_t{32} << 20, .inputs = size_t{32} << 20};

    class Share;

    Qcow2Budget() = default;
    Qcow2Budget(const Qcow2Budget&) = delete;
    Qcow2Budget& operator=(const Qcow2Budget&) = delete;
    ~Qcow2Budget() = default;

    /// The budget is borrowed and outlives the share.
    [[nodiscard]] std::unique_ptr<Share> take_share();

  private:
    std::mutex mutex_;
    Qcow2Memory left_ = kTotal;  // guarded by mutex_
};

class Qcow2Budget::Share final {
  public:
    Share(Qcow2Budget& budget, const Qcow2Memory& memory) : budget_(budget), memory_(memory) {}

    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;
    ~Share();

    [[nodiscard]] const Qcow2Memory& memory() const { return memory_; }

  private:
    Qcow2Budget& budget_;
    const Qcow2Memory memory_;
};

}  // namespace outrigger::blk
