// SPDX-License-Identifier: Apache-2.0
/// A file in memory that remembers every write and every sync, so that a test can cut the power at
/// any moment: as an image for data, as a store for metadata.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/image.h"
#include "devices/blk/overlay/layer_store.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {

/// Any thread.
class MemoryDisk final {
  public:
    static constexpr size_t kSectorBytes = 512;

    struct Event {
        uint64_t offset_bytes = 0;
        std::vector<std::byte> content{};  ///< empty: a sync, or a mark
        size_t synced = 0;                 ///< the events before this one are on stable storage
        std::function<void()> mark{};      ///< what a test wants to know of this moment
    };

    explicit MemoryDisk(uint64_t size_bytes) : bytes_(size_bytes) {}

    [[nodiscard]] uint64_t size_bytes() const { return bytes_.size(); }

    /// Errno values for calls from now on; 0: they succeed.
    void fail_writes(int os_error) { fail_writes(os_error, UINT64_MAX); }

    /// The same for those that begin before `end_bytes`.
    void fail_writes(int os_error, uint64_t end_bytes) {
        write_error_end_ = end_bytes;
        write_error_ = os_error;
    }

    void fail_reads(int os_error) { read_error_ = os_error; }

    void fail_syncs(int os_error) { sync_error_ = os_error; }

    int read(uint64_t offset, std::span<std::byte> out) {
        const std::lock_guard lock(mutex_);
        if (read_error_ != 0 || offset + out.size() > bytes_.size()) {
            return read_error_ != 0 ? read_error_.load() : EIO;
        }
        std::memcpy(out.data(), bytes_.data() + offset, out.size());
        return 0;
    }

    int write(uint64_t offset, std::span<const std::byte> in) {
        const std::lock_guard lock(mutex_);
        if (write_error_ != 0 && offset < write_error_end_) {
            return write_error_;
        }
        if (offset + in.size() > bytes_.size()) {
            return ENOSPC;
        }
        std::memcpy(bytes_.data() + offset, in.data(), in.size());
        log_.push_back({.offset_bytes = offset, .content = {in.begin(), in.end()}});
        ++writes_;
        return 0;
    }

    int sync() {
        if (sync_error_ != 0) {
            return sync_error_;
        }
        size_t before = 0;
        {
            const std::lock_guard lock(mutex_);
            before = log_.size();
            ++syncs_;
        }
        const std::lock_guard lock(mutex_);
        log_.push_back({.synced = before});
        return 0;
    }

    /// Notes that something is known at this moment.
    void mark(std::function<void()> known) {
        const std::lock_guard lock(mutex_);
        log_.push_back({.mark = std::move(known)});
    }

    /// What is there now counts as written before all time.
    void begin_log() {
        const std::lock_guard lock(mutex_);
        initial_ = bytes_;
        log_.clear();
    }

    [[nodiscard]] size_t log_size() const { return log_.size(); }

    [[nodiscard]] uint64_t writes() const { return writes_; }

    [[nodiscard]] uint64_t syncs() const { return syncs_; }

    /// What a power cut behind `count` events leaves: what was synced, and of the rest any sectors.
    /// Calls the marks on its way. `may_wreck` says of the offset of a sector that was being
    /// written whether it may hold anything at all.
    template <class Random, class MayWreck>
    [[nodiscard]] std::vector<std::byte> after_power_cut(size_t count,
                                                         Random& random,
                                                         MayWreck may_wreck) const {
        std::vector<std::byte> left = initial_;
        size_t synced = 0;
        for (size_t i = 0; i < count; ++i) {
            synced = std::max(synced, log_[i].synced);
            if (log_[i].mark) {
                log_[i].mark();
            }
        }
        for (size_t i = 0; i < count; ++i) {
            const Event& event = log_[i];
            const uint64_t fate = i < synced ? 0 : random() % 3;  // all, none, or some sectors
            for (size_t at = 0; at < event.content.size(); at += kSectorBytes) {
                const size_t size = std::min(kSectorBytes, event.content.size() - at);
                const uint64_t offset = event.offset_bytes + at;
                if (fate == 1 || (fate == 2 && random() % 2 == 0)) {
                    if (fate == 2 && random() % 4 == 0 && may_wreck(offset)) {
                        std::fill_n(left.data() + offset, size, std::byte{0x5a});
                    }
                    continue;
                }
                std::memcpy(left.data() + offset, event.content.data() + at, size);
            }
        }
        return left;
    }

    [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }

  private:
    std::mutex mutex_;
    std::vector<std::byte> bytes_;
    std::vector<std::byte> initial_;
    std::vector<Event> log_;
    std::atomic<uint64_t> writes_ = 0;
    std::atomic<uint64_t> syncs_ = 0;
    std::atomic<int> write_error_ = 0;
    std::atomic<uint64_t> write_error_end_ = UINT64_MAX;
    std::atomic<int> read_error_ = 0;
    std::atomic<int> sync_error_ = 0;
};

class MemoryDiskStore final : public LayerStore {
  public:
    explicit MemoryDiskStore(MemoryDisk& disk) : disk_(disk) {}

    [[nodiscard]] uint64_t size_bytes() const override { return disk_.size_bytes(); }

    [[nodiscard]] int read(uint64_t offset, std::span<std::byte> out) override {
        return disk_.read(offset, out);
    }

    [[nodiscard]] int write(uint64_t offset, std::span<const std::byte> in) override {
        return disk_.write(offset, in);
    }

    [[nodiscard]] int sync() override { return disk_.sync(); }

  private:
    MemoryDisk& disk_;
};

/// Requests end at once, or some turns of the worker's loop later, in any order.
class MemoryDiskImage final : public Image {
  public:
    MemoryDiskImage(MemoryDisk& disk, bool read_only, bool late) : disk_(disk), late_(late) {
        properties_.size_bytes = disk.size_bytes();
        properties_.read_only = read_only;
        properties_.can_discard = !read_only;
        properties_.can_unmap_zeroes = !read_only;
    }

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(
        Worker& worker, uint32_t /*requests_max*/) override {
        return std::make_unique<Queue>(disk_, worker, late_);
    }

  private:
    class Queue final : public ImageQueue {
      public:
        Queue(MemoryDisk& disk, Worker& worker, bool late)
            : disk_(disk), worker_(worker), late_(late) {}

        void submit(ImageRequest& request) override { run(request, late_ ? random_() % 4 : 0); }

      private:
        void run(ImageRequest& request, uint64_t turns) {
            if (turns > 0) {
                worker_.post([this, &request, turns] { run(request, turns - 1); });
                return;
            }
            request.on_image_done(serve(request));
        }

        int serve(ImageRequest& request) {
            std::vector<std::byte> bytes;
            switch (request.command) {
                case ImageCommand::kRead: {
                    bytes.resize(request.length_bytes);
                    const int os_error = disk_.read(request.offset_bytes, bytes);
                    SegmentCursor(request.data, bytes.size()).scatter(bytes);
                    return os_error;
                }
                case ImageCommand::kWrite:
                    bytes.resize(request.length_bytes);
                    SegmentCursor(request.data, bytes.size()).gather(bytes);
                    return write(request, request.offset_bytes, bytes);
                case ImageCommand::kFlush:
                    return disk_.sync();
                case ImageCommand::kDiscard:
                    return 0;  // what was discarded may hold anything: here, what it held
                case ImageCommand::kWriteZeroes:
                    break;
                case ImageCommand::kSecureErase:
                case ImageCommand::kGetLifetime:
                case ImageCommand::kZone:
                    return EOPNOTSUPP;
            }
            for (const ImageRange& range : request.ranges) {
                bytes.assign(range.length_bytes, std::byte{0});
                if (const int os_error = write(request, range.offset_bytes, bytes); os_error != 0) {
                    return os_error;
                }
            }
            return 0;
        }

        int write(const ImageRequest& request, uint64_t offset, std::span<const std::byte> bytes) {
            const int os_error = disk_.write(offset, bytes);
            return os_error == 0 && request.stable ? disk_.sync() : os_error;
        }

        MemoryDisk& disk_;
        Worker& worker_;
        const bool late_;
        std::minstd_rand random_{1};
    };

    MemoryDisk& disk_;
    const bool late_;
    ImageProperties properties_;
};

}  // namespace outrigger::blk
