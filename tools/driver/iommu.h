// SPDX-License-Identifier: Apache-2.0
/// A front end whose guest has an IOMMU: it says where memory lies and answers what the back end
/// misses, as it should or as it should not. VIRTIO_F_ACCESS_PLATFORM; vhost-user "IOMMU support".
///
/// To the driver, whose memory is a GuestMemory, guest addresses are I/O virtual ones. The back end
/// is told other guest addresses and other user addresses, so that only translations lead there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/channel_end.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::driver {

/// What a miss is answered with.
enum class MissAnswer : uint8_t {
    kTranslation,       ///< the page, then success
    kRefusal,           ///< failure
    kNothing,           ///< no answer, until refuse_unanswered()
    kSuccessAlone,      ///< success, but no page
    kReadOnly,          ///< the page without the permission to write, then success
    kOutsideMemory,     ///< a page outside all regions, which the back end must refuse; success
    kOtherPage,         ///< the translation of another page, then success
    kUnansweredUpdate,  ///< success first, the page behind it
};

struct IommuOptions {
    /// Each page of the driver's memory is a region of its own, in an order that has nothing to do
    /// with the driver's: nothing that is larger than a page lies in one piece.
    bool scattered = false;
    bool guest_addresses = false;  ///< GPA_ADDRESSES was negotiated
};

/// Answers misses on a thread of its own.
class Iommu final {
  public:
    static constexpr uint64_t kPage = 4096;

    /// Both outlive it; from now on `frontend` is used through with_frontend() only. `memory` has
    /// one region. Misses are answered once serve() was called.
    Iommu(Frontend& frontend, const GuestMemory& memory, const IommuOptions& options);
    Iommu(const Iommu&) = delete;
    Iommu& operator=(const Iommu&) = delete;
    ~Iommu();

    /// ADD_MEM_REG for all of the memory.
    Answer share_memory();

    /// SET_MEM_TABLE instead, of memory that is not scattered: where the front end sees it plus
    /// `shift`.
    Answer share_memory_the_old_way(uint64_t shift = 0);

    /// SET_BACKEND_REQ_FD, and from then on the thread runs. A channel before closes when the back
    /// end has taken the new one; what came there and was not answered never will be.
    Answer serve();

    /// Ends the thread and closes the channel.
    void stop();

    /// Answers "failure" to what MissAnswer::kNothing left.
    void refuse_unanswered();

    /// Any thread: calls `use` while nobody else uses the front end.
    template <class Use>
    auto with_frontend(Use use) {
        const std::lock_guard lock(mutex_);
        return use(frontend_);
    }

    void answer_misses_with(MissAnswer answer) { answer_ = answer; }

    [[nodiscard]] uint64_t misses() const { return misses_; }

    /// Where the front end sees an address of the driver (with GPA_ADDRESSES, the guest address).
    [[nodiscard]] uint64_t target_of(GuestAddr iova) const;

    /// IOTLB_MSG: the back end's answer.
    Frontend::Reply<uint64_t> update(GuestAddr iova, uint64_t size, uint8_t permissions = 3);
    Frontend::Reply<uint64_t> invalidate(GuestAddr iova, uint64_t size);

    /// Lets the page of `iova`, which is no address of the driver's memory, lead to that page of
    /// it: the driver's own map, which it changes at will. What `iova` led to before is invalidated
    /// first.
    Frontend::Reply<uint64_t> lead(GuestAddr iova, GuestAddr page);

    /// The memory that the driver has: its first address and its size.
    [[nodiscard]] GuestAddr start() const { return start_; }

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

  private:
    [[nodiscard]] wire::MemoryRegion region_of(uint64_t page) const;
    void run();
    void answer_miss(wire::Message request);
    [[nodiscard]] bool knows(uint64_t page);
    /// The page of the driver's memory behind a page that is known. Under mutex_.
    [[nodiscard]] uint64_t memory_behind(uint64_t page) const;
    void send_update(Frontend& frontend, uint64_t iova, uint64_t target_iova, uint8_t permissions);

    Frontend& frontend_;
    IommuOptions options_;
    int fd_;
    GuestAddr start_{};
    uint64_t bytes_ = 0;
    std::mutex mutex_;                       // frontend_ and what follows
    std::vector<wire::Message> unanswered_;  // of this channel
    std::map<uint64_t, uint64_t> led_;       // by lead(): a page, and which one it leads to
    std::optional<ChannelEnd> channel_;
    std::atomic<MissAnswer> answer_ = MissAnswer::kTranslation;
    std::atomic<uint64_t> misses_ = 0;
    std::atomic<bool> stopping_ = false;
    std::thread thread_;
};

}  // namespace outrigger::driver
