// SPDX-License-Identifier: Apache-2.0
#include "devices/net/switch_port.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "devices/net/frame_queue.h"

namespace outrigger::net {
namespace {

/// What waits for one guest.
constexpr size_t kInboxBytesMax = 4 << 20;

constexpr size_t kSourceAt = 6;

}  // namespace

/// What other ports put in, from their threads, and the port takes out. Outlives the port by what
/// is posted to its thread.
class SwitchPort::Inbox final : public std::enable_shared_from_this<Inbox> {
  public:
    explicit Inbox(uint32_t number) : number_(number) {}

    [[nodiscard]] uint32_t number() const { return number_; }

    // Any thread.

    /// A reason: it was not taken.
    [[nodiscard]] std::optional<DropReason> put(const Frame& frame) {
        const std::lock_guard lock(mutex_);
        if (loop_ == nullptr) {
            return DropReason::kNoPeer;
        }
        if (!queue_.push(frame)) {
            return DropReason::kQueueFull;
        }
        if (std::exchange(awaited_, false)) {
            loop_->post([self = shared_from_this()] { self->tell(); });
        }
        return std::nullopt;
    }

    // The port's thread.

    void open(EventLoop& loop, PortEvents& events) {
        const std::lock_guard lock(mutex_);
        loop_ = &loop;
        events_ = &events;
    }

    void close() {
        const std::lock_guard lock(mutex_);
        loop_ = nullptr;
        events_ = nullptr;
        awaited_ = false;
        queue_.clear();
    }

    /// Its bytes stay as they are until drop(): what is put in goes elsewhere.
    [[nodiscard]] std::optional<Frame> front() {
        const std::lock_guard lock(mutex_);
        return queue_.front();
    }

    void drop() {
        const std::lock_guard lock(mutex_);
        queue_.pop();
    }

    void await() {
        const std::lock_guard lock(mutex_);
        awaited_ = queue_.empty();
        if (!awaited_) {
            // It came since the port looked.
            loop_->post([self = shared_from_this()] { self->tell(); });
        }
    }

  private:
    void tell() {
        // The port may have been closed since it was posted. Nobody else changes it.
        if (events_ != nullptr) {
            events_->on_frames();
        }
    }

    const uint32_t number_;
    std::mutex mutex_;
    EventLoop* loop_ = nullptr;     // guarded by mutex_
    PortEvents* events_ = nullptr;  // the port's thread
    bool awaited_ = false;          // guarded by mutex_
    FrameQueue queue_{kInboxBytesMax};
};

/// Its lock is taken before an inbox's.
class SwitchPort::Switch final {
  public:
    explicit Switch(const AddressTable::Limits& limits) : table_(limits) {}

    /// `stations` were at the port when it left, here or elsewhere.
    void join(std::shared_ptr<Inbox> inbox, std::span<const StationAddress> stations) {
        const auto now = AddressTable::Clock::now();
        const std::lock_guard lock(mutex_);
        for (const StationAddress station : stations) {
            // One that has been seen elsewhere meanwhile has moved.
            if (!is_group(station) && station != 0 && !table_.find(station, now)) {
                (void)table_.learn(station, inbox->number(), now);
            }
        }
        ports_.push_back(std::move(inbox));
    }

    std::vector<StationAddress> leave(uint32_t number) {
        const std::lock_guard lock(mutex_);
        std::erase_if(ports_, [&](const auto& each) { return each->number() == number; });
        return table_.forget_port(number);
    }

    /// Notes where `source` is, and says where a frame to `destination` goes: nothing for everybody
    /// else.
    [[nodiscard]] std::shared_ptr<Inbox> look_up(StationAddress source,
                                                 StationAddress destination,
                                                 uint32_t from,
                                                 AddressTable::Clock::time_point now) {
        const std::lock_guard lock(mutex_);
        if (!is_group(source) && source != 0) {
            (void)table_.learn(source, from, now);
        }
        if (is_group(destination)) {
            return nullptr;
        }
        const auto port = table_.find(destination, now);
        const auto found =
            !port ? ports_.end() : std::ranges::find_if(ports_, [&](const auto& each) {
                return each->number() == *port;
            });
        return found != ports_.end() ? *found : nullptr;
    }

    [[nodiscard]] std::vector<std::shared_ptr<Inbox>> all_but(uint32_t number) {
        const std::lock_guard lock(mutex_);
        std::vector<std::shared_ptr<Inbox>> others;
        std::ranges::copy_if(ports_, std::back_inserter(others), [&](const auto& each) {
            return each->number() != number;
        });
        return others;
    }

  private:
    std::mutex mutex_;
    std::vector<std::shared_ptr<Inbox>> ports_;
    AddressTable table_;
};

std::shared_ptr<SwitchPort::Switch> SwitchPort::find_switch(const SwitchOptions& options) {
    static std::mutex mutex;
    static std::map<std::string, std::weak_ptr<Switch>> switches;
    const std::lock_guard lock(mutex);
    std::weak_ptr<Switch>& known = switches[options.name];
    std::shared_ptr<Switch> found = known.lock();
    if (found == nullptr) {
        found = std::make_shared<Switch>(options.addresses);
        known = found;
    }
    return found;
}

namespace {

uint32_t next_number() {
    static std::atomic<uint32_t> last = 0;
    return ++last;
}

}  // namespace

SwitchPort::SwitchPort(const SwitchOptions& options)
    : switch_(find_switch(options)),
      inbox_(std::make_shared<Inbox>(next_number())),
      flood_max_(options.flood_max),
      number_(inbox_->number()) {}

SwitchPort::~SwitchPort() {
    (void)switch_->leave(number_);
}

Offloads SwitchPort::takes() const {
    return {.checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true, .udp4 = true, .udp6 = true};
}

void SwitchPort::attach(EventLoop& loop, PortEvents& events) {
    inbox_->open(loop, events);
    switch_->join(inbox_, stations_);
}

void SwitchPort::detach() {
    stations_ = switch_->leave(number_);
    inbox_->close();
}

PortState SwitchPort::save() const {
    return {.stations = stations_};
}

void SwitchPort::load(const PortState& state) {
    stations_ = state.stations;
}

// --- To other guests ---------------------------------------------------------------------------

size_t SwitchPort::send(std::span<const Frame> frames) {
    const auto now = AddressTable::Clock::now();
    for (const Frame& frame : frames) {
        send_one(frame, now);
    }
    return frames.size();
}

void SwitchPort::send_one(const Frame& frame, AddressTable::Clock::time_point now) {
    // A copy: the guest may write the frame meanwhile.
    std::array<std::byte, kEthernetHeaderBytes> header{};
    (void)copy_front(frame, header);
    const StationAddress destination = read_station(header, 0);
    if (is_of_the_link(destination)) {
        counters_.dropped.add(DropReason::kPeerRefused);
        return;
    }
    const auto known = switch_->look_up(read_station(header, kSourceAt), destination, number_, now);
    if (known == inbox_) {
        // It is at this port itself, where everybody has the frame already.
        counters_.dropped.add(DropReason::kNoPeer);
        return;
    }
    std::optional<DropReason> reason = DropReason::kNoPeer;
    if (known != nullptr) {
        reason = known->put(frame);
    } else if (!may_flood(now)) {
        reason = DropReason::kFlood;
    } else {
        for (const auto& other : switch_->all_but(number_)) {
            // One that takes it is enough; what others cannot is counted on their account.
            const auto refused = other->put(frame);
            reason = reason && refused ? refused : std::nullopt;
        }
    }
    if (reason) {
        counters_.dropped.add(*reason);
        return;
    }
    counters_.frames_sent.add();
    counters_.bytes_sent.add(frame.bytes);
}

bool SwitchPort::may_flood(AddressTable::Clock::time_point now) {
    if (!second_ || now - *second_ >= std::chrono::seconds(1)) {
        second_ = now;
        flooded_ = 0;
    }
    if (flooded_ >= flood_max_) {
        return false;
    }
    ++flooded_;
    return true;
}

// --- From other guests -------------------------------------------------------------------------

std::optional<Frame> SwitchPort::next_frame() {
    const auto frame = inbox_->front();
    front_bytes_ = frame ? frame->bytes : 0;
    return frame;
}

void SwitchPort::drop_frame() {
    counters_.frames_received.add();
    counters_.bytes_received.add(front_bytes_);
    inbox_->drop();
}

void SwitchPort::await_frames() {
    inbox_->await();
}

}  // namespace outrigger::net
