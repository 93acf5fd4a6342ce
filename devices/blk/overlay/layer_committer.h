// SPDX-License-Identifier: Apache-2.0
/// The thread that commits a layer: it takes all who wait at once, syncs, writes their bits, and
/// lets them go on. So one commit serves the flushes of all queues that came in meanwhile.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/result.h"

#include "devices/blk/overlay/cluster_map.h"
#include "devices/blk/overlay/layer_journal.h"
#include "devices/blk/overlay/waiter.h"

namespace outrigger::blk {

class LayerCommitter final {
  public:
    /// Both are borrowed, and the journal belongs to the committer's thread while it runs.
    LayerCommitter(LayerJournal& journal, ClusterMap& map) : journal_(journal), map_(map) {}

    LayerCommitter(const LayerCommitter&) = delete;
    LayerCommitter& operator=(const LayerCommitter&) = delete;
    /// A last commit, and the layer is closed; joins. Nobody waits any more.
    ~LayerCommitter();

    /// On a queue's worker; later calls do nothing. Not at the same time as another call of it.
    [[nodiscard]] Result<void> start();

    /// `waiter` is resumed when what was written and present before this call is on stable
    /// storage; its wait_result is 0 or an errno value. Any thread, behind start().
    void request(Waiter& waiter);

    /// How many commits there were. Any thread.
    [[nodiscard]] uint64_t commits() const { return commits_.value(); }

  private:
    void run();

    LayerJournal& journal_;
    ClusterMap& map_;
    Counter commits_;  // of the thread
    std::mutex mutex_;
    std::condition_variable work_;  // a waiter came, or stopping_ was set
    WaiterList waiting_;            // guarded by mutex_
    bool stopping_ = false;         // guarded by mutex_
    std::thread thread_;
};

}  // namespace outrigger::blk
