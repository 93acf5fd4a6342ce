// SPDX-License-Identifier: Apache-2.0
/// The front end's side of a DAX window, as the specification has it: maps what the back end asks
/// for into its own addresses, never over something else, and removes whole mappings. vhost-user
/// "VHOST_USER_BACKEND_SHMEM_MAP".
///
/// Serves the channel on a thread of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tools/driver/channel_end.h"

namespace outrigger::testing {

class DaxFrontend final {
  public:
    /// What was asked, in order.
    struct Asked {
        bool maps = false;
        uint64_t offset = 0;
        uint64_t bytes = 0;
        uint64_t file_offset = 0;
        bool writable = false;
        int access = 0;  ///< O_ACCMODE of the descriptor
        friend bool operator==(const Asked&, const Asked&) = default;
    };

    /// Takes over the channel; the window is as long as GET_SHMEM_CONFIG says.
    DaxFrontend(driver::ChannelEnd channel, uint64_t bytes);
    DaxFrontend(const DaxFrontend&) = delete;
    DaxFrontend& operator=(const DaxFrontend&) = delete;
    ~DaxFrontend();

    /// As the guest sees it.
    [[nodiscard]] std::string read(uint64_t offset, size_t bytes) const;
    void write(uint64_t offset, std::string_view text);

    /// What is mapped: offset and length.
    [[nodiscard]] std::map<uint64_t, uint64_t> mapped() const;
    [[nodiscard]] std::vector<Asked> asked() const;
    /// What it asked for that the specification forbids.
    [[nodiscard]] std::vector<std::string> faults() const;

    /// The next so many requests to map are refused.
    void refuse_maps(int count) { refuses_maps_ = count; }

    /// A process that does not know whether something is mapped may ask for its removal.
    void allow_vain_removals() { allows_vain_removals_ = true; }

    /// Nothing is answered any more; what comes meanwhile, when it is again.
    void fall_silent() { silent_ = true; }

    void speak_again() { silent_ = false; }

    /// The device is reset.
    void unmap_all();

  private:
    void serve();
    [[nodiscard]] bool carry_out(const wire::Message& message);
    [[nodiscard]] bool map(const wire::ShmemMap& wish, int file);
    [[nodiscard]] bool unmap(const wire::ShmemMap& wish);

    driver::ChannelEnd channel_;
    const uint64_t bytes_;
    std::byte* const window_;
    std::atomic<bool> ends_{false};
    std::atomic<bool> silent_{false};
    std::atomic<bool> allows_vain_removals_{false};
    std::atomic<int> refuses_maps_{0};
    mutable std::mutex mutex_;
    std::map<uint64_t, uint64_t> mapped_;  // guarded by it, as are the rest
    std::vector<Asked> asked_;
    std::vector<std::string> faults_;
    std::thread thread_;
};

}  // namespace outrigger::testing
