// SPDX-License-Identifier: Apache-2.0
/// The file system device: shows a directory of the host to the guest. VIRTIO 1.3, 5.11.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "vhost-user-backend/device.h"

#include "devices/fs/blocking_pool.h"
#include "devices/fs/fs_control.h"
#include "devices/fs/fs_queue.h"
#include "devices/fs/fs_server.h"

namespace outrigger::fs {

class FsDevice final : public Device {
  public:
    /// With a keeper it goes on with what an earlier process left there.
    FsDevice(const FsSettings& settings,
             Share share,
             std::unique_ptr<FsKeeper> keeper = {},
             std::unique_ptr<DaxRecords> mapped = {});

    [[nodiscard]] DeviceIdentity identity() const override;

    [[nodiscard]] DeviceAbilities abilities() const override;

    [[nodiscard]] FeatureSet offered_features() const override { return {}; }

    void on_negotiated(FeatureSet /*agreed*/) override {}

    void on_frontend(std::shared_ptr<Frontend> frontend) override;

    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void suspend_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void hurry_queue(QueueIndex index) override;
    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;
    void reset() override;

    [[nodiscard]] control::DeviceControl* control() override { return &control_; }

    [[nodiscard]] const FsSettings& settings() const { return settings_; }

    [[nodiscard]] const FsServer& server() const { return server_; }

    /// Any thread. Of queue `index`: 0 is the one of high priority.
    [[nodiscard]] const FsCounters& counters(size_t index) const { return rings_[index].counters; }

    [[nodiscard]] size_t ring_count() const { return rings_.size(); }

    /// Any thread. In the DAX window, or about to be.
    [[nodiscard]] size_t mapping_count() const {
        return window_ == nullptr ? 0 : window_->descriptors();
    }

  private:
    struct Ring {
        FsCounters counters;
        uint64_t next_request = 0;       // Call::request; of the worker that has the queue
        std::unique_ptr<FsQueue> queue;  // while it runs; its worker's
    };

    [[nodiscard]] std::move_only_function<void()> ending_queue(
        QueueIndex index, std::move_only_function<void()> drained);

    const FsSettings settings_;
    const std::unique_ptr<FsKeeper> keeper_;       // null: there is none
    const std::array<uint64_t, 1> shared_memory_;  // by region: the DAX window
    std::shared_ptr<DaxWindow> window_;            // null: there is none
    FsServer server_;
    std::vector<Ring> rings_;
    FsControl control_{*this};
    BlockingPool pool_;  // goes before what its threads use
};

}  // namespace outrigger::fs
