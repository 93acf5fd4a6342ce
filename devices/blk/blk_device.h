// SPDX-License-Identifier: Apache-2.0
/// The virtio block device: feature bits, configuration space, write cache mode, queues.
/// VIRTIO 1.3, 5.2.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/device.h"

#include "devices/blk/blk_config.h"
#include "devices/blk/blk_counters.h"
#include "devices/blk/blk_queue.h"
#include "devices/blk/blk_settings.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

class BlkControl;
class KeptDisk;

struct BlkDeviceOptions {
    BlkShape shape{};
    std::string serial{};             ///< at most kSerialBytes
    bool write_back_at_reset = true;  ///< what the `writeback` byte is until the driver writes it
    std::string image_label{};        ///< what is served, for an operator
    ErrorPolicy error_policy = ErrorPolicy::kReport;
    std::shared_ptr<RateLimiter> limiter{};  ///< null: no limits
    /// Makes an image of an open file, with the options of the first one and this block size. Null:
    /// this kind of image is not swapped. On a helper thread.
    std::function<Result<std::unique_ptr<Image>>(
        UniqueFd fd, const std::string& label, uint32_t block_bytes)>
        adopt_image{};
};

/// VIRTIO_BLK_ID_BYTES.
inline constexpr size_t kSerialBytes = 20;

class BlkDevice final : public Device {
  public:
    BlkDevice(std::unique_ptr<Image> image, const BlkDeviceOptions& options);
    ~BlkDevice() override;

    [[nodiscard]] DeviceIdentity identity() const override;

    [[nodiscard]] DeviceAbilities abilities() const override {
        return {.saves_while_running = true};
    }

    [[nodiscard]] FeatureSet offered_features() const override;
    [[nodiscard]] bool accepts(FeatureSet wanted) const override;
    void on_negotiated(FeatureSet agreed) override;
    void on_frontend(std::shared_ptr<Frontend> frontend) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void suspend_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void hurry_queue(QueueIndex index) override;
    void use_memory(QueueIndex index, const std::shared_ptr<const MemorySnapshot>& memory) override;
    [[nodiscard]] control::DeviceControl* control() override;
    void on_suspended() override;
    void on_leaving() override;
    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;
    void reset() override;

    /// Takes up what a process before left with the keeper. Before anything else; main thread.
    [[nodiscard]] Result<void> keep_memory(DeviceKeeper& keeper);

    /// Any thread.
    [[nodiscard]] const BlkCounters& counters(QueueIndex index) const {
        return counters_[to_number(index)];
    }

    // --- For changes while it runs: control thread. ----------------------------------------------

    using Done = std::move_only_function<void()>;

    [[nodiscard]] const BlkDeviceOptions& options() const { return options_; }

    [[nodiscard]] const BlkSettings& settings() const { return settings_; }

    [[nodiscard]] const BlkShared& shared() const { return shared_; }

    [[nodiscard]] std::shared_ptr<Image> image() const { return image_; }

    /// The next process begins with it.
    void keep_error_policy(ErrorPolicy policy);

    /// Every queue works with `settings` when `done` comes, on the loop of the control thread.
    void apply(const BlkSettings& settings, EventLoop& control_loop, Done done);

    /// `done` comes when no request is in flight. The settings say that none is begun.
    void wait_until_idle(EventLoop& control_loop, Done done);

    /// Ends the stop by the error policy.
    void resume(EventLoop& control_loop, Done done);

    /// Opens `next` for every queue beside the image that is there. use_next_image() follows when
    /// nothing is in flight, or drop_next_image(), also behind an error of either.
    void prepare_image(std::shared_ptr<Image> next,
                       EventLoop& control_loop,
                       std::move_only_function<void(Result<void>)> done);
    /// An error, and nothing has changed, when a queue that started meanwhile could not open it.
    void use_next_image(EventLoop& control_loop, std::move_only_function<void(Result<void>)> done);
    void drop_next_image(EventLoop& control_loop, Done done);

    /// What the guest reads of the disk's size; tells it that the configuration changed.
    void show_size(uint64_t size_bytes);

    struct CacheState {
        bool shown_write_back = false;
        bool writes_through = false;
        bool kept_for_driver = false;  ///< because a driver may rely on it
    };

    [[nodiscard]] CacheState cache() const;

    /// Changes what the guest reads. Without `force` a guest that may rely on write-through keeps
    /// it until a driver writes the mode itself.
    void set_cache(bool write_back, bool force);

    /// Would that change anything that a guest sees, or may come to see?
    [[nodiscard]] bool would_change_cache(bool write_back, bool force) const;

  private:
    class Round;
    using QueueTask = std::function<void(BlkQueue&, const std::shared_ptr<Round>&)>;

    /// What a queue that has stopped does, and then `drained`.
    [[nodiscard]] std::move_only_function<void()> ending_queue(
        uint16_t number, std::move_only_function<void()> drained);
    [[nodiscard]] bool write_back() const;
    [[nodiscard]] bool sync_failed() const;
    void update_write_through();
    void set_zoned(bool zoned);
    [[nodiscard]] bool refuse_next_image(const std::shared_ptr<Image>& next, const Error& reason);
    void on_queues(const QueueTask& task, const std::shared_ptr<Round>& round);
    [[nodiscard]] BlkQueue* queue_on(const Worker& worker, size_t number);

    const BlkDeviceOptions options_;
    const FeatureSet features_;
    BlkShared shared_;

    // Of the control thread.
    BlkConfigSpace config_;
    bool negotiated_ = false;
    FeatureSet agreed_;
    bool write_back_wanted_;
    mutable bool read_write_through_ = false;  // a driver may have, that it need not flush
    bool keep_write_through_ = false;          // for that driver
    std::shared_ptr<Frontend> frontend_;
    std::shared_ptr<KeptDisk> kept_;  // or null

    // Written by the control thread, or by a queue's worker as it starts; read by both.
    std::mutex mutex_;
    BlkSettings settings_;
    std::shared_ptr<Image> image_;
    std::shared_ptr<Image> next_image_;
    std::optional<Error> next_image_refusal_;  // by a queue that started behind prepare_image()
    std::vector<Worker*> workers_;             // that each queue runs on, or is about to leave

    // Each entry belongs to the worker of its queue. A queue may run on one worker after another:
    // whoever is not called by the framework asks queue_on().
    std::vector<BlkCounters> counters_;
    std::vector<std::unique_ptr<BlkQueue>> queues_;

    std::unique_ptr<BlkControl> control_;  // goes first
};

}  // namespace outrigger::blk
