// SPDX-License-Identifier: Apache-2.0
#include "devices/net/switch_port.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
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

/// Of a frame that goes to everybody, so many count as one.
constexpr size_t kFloodedBytes = 1518;

}  // namespace

/// What other ports put in, from their threads, and the port takes out. Outlives the port by what
/// is posted to its thread.
class SwitchPort::Inbox final : public std::enable_shared_from_this<Inbox> {
  public:
    Inbox(uint32_t number, PortCounters& counters) : number_(number), counters_(counters) {}

    [[nodiscard]] uint32_t number() const { return number_; }

    /// Before it is opened.
    void set_uplink() { is_uplink_ = true; }

    // Any thread.

    /// Has the port look who is at the switch.
    void tell_of_others() {
        const std::lock_guard lock(mutex_);
        if (is_uplink_ && loop_ != nullptr) {
            loop_->post([self = shared_from_this()] { self->tell(); });
        }
    }

    struct Taken {
        size_t frames = 0;
        size_t bytes = 0;
        DropReason reason{};  ///< why the others were not
    };

    /// Of frames that come from a port on `loop`: the guest has them at once if that is this
    /// port's loop, too, and otherwise they wait here.
    [[nodiscard]] Taken put(std::span<const Frame> frames, const EventLoop* loop) {
        Taken taken;
        if (is_idle_on(loop)) {
            const size_t given = events_->take_frames(frames);
            for (const Frame& frame : frames.first(given)) {
                taken.bytes += frame.bytes;
            }
            taken.frames = given;
            counters_.frames_received.add(given);
            counters_.bytes_received.add(taken.bytes);
        }
        if (taken.frames < frames.size()) {
            store(frames.subspan(taken.frames), taken);
        }
        return taken;
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
        seen_ = seen_next_ = 0;
    }

    /// Its bytes stay as they are until drop(): what is put in goes elsewhere.
    [[nodiscard]] std::optional<Frame> front() {
        if (seen_next_ == seen_ && !look()) {
            return std::nullopt;
        }
        return seen_frames_[seen_next_].frame();
    }

    /// What front() gave.
    void drop() {
        counters_.frames_received.add();
        counters_.bytes_received.add(seen_frames_[seen_next_].piece.iov_len);
        ++seen_next_;
    }

    void await() {
        const std::lock_guard lock(mutex_);
        awaited_ = queue_.size() == seen_next_;
        if (!awaited_) {
            // It came since the port looked.
            loop_->post([self = shared_from_this()] { self->tell(); });
        }
    }

  private:
    /// Frames, and bytes, that are taken out with the lock held once.
    static constexpr size_t kSeenMax = 64;
    static constexpr size_t kSeenBytesMax = 128 << 10;

    void store(std::span<const Frame> frames, Taken& taken) {
        const std::lock_guard lock(mutex_);
        if (loop_ == nullptr) {
            taken.reason = DropReason::kNoPeer;
            return;
        }
        bool came = false;
        for (const Frame& frame : frames) {
            if (!queue_.push(frame)) {
                taken.reason = DropReason::kQueueFull;
                continue;  // a shorter one may fit
            }
            came = true;
            ++taken.frames;
            taken.bytes += frame.bytes;
        }
        if (came && std::exchange(awaited_, false)) {
            loop_->post([self = shared_from_this()] { self->tell(); });
        }
    }

    /// Is this the port's thread, and does nothing wait? Only that thread changes what is looked
    /// at without the lock.
    [[nodiscard]] bool is_idle_on(const EventLoop* loop) {
        const std::lock_guard lock(mutex_);
        return loop_ != nullptr && loop_ == loop && seen_next_ == seen_ && queue_.size() == seen_;
    }

    /// Frees the room of those that were taken out, and looks for others.
    [[nodiscard]] bool look() {
        const std::lock_guard lock(mutex_);
        queue_.pop(seen_next_);
        seen_ = queue_.peek(seen_frames_, kSeenBytesMax);
        seen_next_ = 0;
        return seen_ > 0;
    }

    void tell() {
        // The port may have been closed since it was posted. Nobody else changes it.
        if (events_ != nullptr) {
            events_->on_frames();
        }
    }

    const uint32_t number_;
    bool is_uplink_ = false;
    PortCounters& counters_;  // of the port, which nobody uses once it is closed
    std::mutex mutex_;
    EventLoop* loop_ = nullptr;     // guarded by mutex_
    PortEvents* events_ = nullptr;  // the port's thread
    bool awaited_ = false;          // guarded by mutex_
    FrameQueue queue_{kInboxBytesMax};
    // The port's thread: the oldest of queue_, and which of them is the next to be taken out.
    std::array<FrameQueue::Stored, kSeenMax> seen_frames_{};
    size_t seen_ = 0;
    size_t seen_next_ = 0;
};

/// Its lock is taken before an inbox's.
class SwitchPort::Switch final {
  public:
    explicit Switch(const AddressTable::Limits& limits) : table_(limits) {}

    /// `stations` were at the port when it left, here or elsewhere.
    /// `addresses_max` is what this port may have, 0: as many as others.
    void join(std::shared_ptr<Inbox> inbox,
              std::span<const StationAddress> stations,
              size_t addresses_max) {
        const auto now = AddressTable::Clock::now();
        const std::lock_guard lock(mutex_);
        if (addresses_max > 0) {
            table_.set_addresses_max(inbox->number(), addresses_max);
        }
        for (const StationAddress station : stations) {
            // One that has been seen elsewhere meanwhile has moved.
            if (!is_group(station) && station != 0 && !table_.find(station, now)) {
                (void)table_.learn(station, inbox->number(), now);
            }
        }
        for (const auto& other : ports_) {
            other->tell_of_others();
        }
        ports_.push_back(std::move(inbox));
    }

    [[nodiscard]] bool has_others(uint32_t number) {
        const std::lock_guard lock(mutex_);
        return std::ranges::any_of(ports_,
                                   [&](const auto& each) { return each->number() != number; });
    }

    std::vector<StationAddress> leave(uint32_t number) {
        const std::lock_guard lock(mutex_);
        std::erase_if(ports_, [&](const auto& each) { return each->number() == number; });
        return table_.forget_port(number);
    }

    /// False: there is one.
    [[nodiscard]] bool take_uplink() { return !has_uplink_.exchange(true); }

    void leave_uplink() { has_uplink_ = false; }

    void forget_stations_but(std::span<const StationAddress> kept, uint32_t number) {
        const std::lock_guard lock(mutex_);
        table_.forget_port_but(number, kept);
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
    std::atomic<bool> has_uplink_ = false;
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
      inbox_(std::make_shared<Inbox>(next_number(), counters_)),
      flood_max_(options.flood_max),
      own_addresses_max_(options.own_addresses_max),
      number_(inbox_->number()) {}

SwitchPort::~SwitchPort() {
    (void)switch_->leave(number_);
    if (is_uplink_) {
        switch_->leave_uplink();
    }
}

bool SwitchPort::become_uplink() {
    if (!is_uplink_ && switch_->take_uplink()) {
        is_uplink_ = true;
        inbox_->set_uplink();
    }
    return is_uplink_;
}

bool SwitchPort::has_others() const {
    return switch_->has_others(number_);
}

Offloads SwitchPort::takes() const {
    return kAllOffloads;
}

void SwitchPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    inbox_->open(loop, events);
    switch_->join(inbox_, stations_, own_addresses_max_);
}

void SwitchPort::detach() {
    stations_ = switch_->leave(number_);
    inbox_->close();
    loop_ = nullptr;
}

PortState SwitchPort::save() const {
    return {.stations = stations_};
}

void SwitchPort::load(const PortState& state) {
    stations_ = state.stations;
}

void SwitchPort::forget_stations_but(std::span<const StationAddress> kept) {
    switch_->forget_stations_but(kept, number_);
}

// --- To other guests ---------------------------------------------------------------------------

size_t SwitchPort::send(std::span<const Frame> frames) {
    const auto now = AddressTable::Clock::now();
    // What goes from one station to another is looked up and put there together.
    for (auto rest = frames; !rest.empty();) {
        const Stations stations = read_stations(rest.front());
        size_t count = 1;
        while (count < rest.size() && read_stations(rest[count]) == stations) {
            ++count;
        }
        send_run(rest.first(count), stations, now);
        rest = rest.subspan(count);
    }
    return frames.size();
}

/// From a copy: the guest may write the frame meanwhile. Then it goes where it once said.
SwitchPort::Stations SwitchPort::read_stations(const Frame& frame) {
    Stations stations;
    const iovec& first = frame.pieces.front();
    Stations::Bytes bytes{};
    const void* from = first.iov_base;
    if (first.iov_len < bytes.size()) [[unlikely]] {
        (void)copy_front(frame, bytes);
        from = bytes.data();
    }
    // SAFETY: as many bytes are there.
    std::memcpy(&stations.front, from, sizeof(stations.front));
    std::memcpy(&stations.rest,
                static_cast<const std::byte*>(from) + sizeof(stations.front),
                sizeof(stations.rest));
    return stations;
}

SwitchPort::Stations::Bytes SwitchPort::Stations::bytes() const {
    Bytes bytes;
    std::memcpy(bytes.data(), &front, sizeof(front));
    std::memcpy(bytes.data() + sizeof(front), &rest, sizeof(rest));
    return bytes;
}

void SwitchPort::send_run(std::span<const Frame> frames,
                          const Stations& stations,
                          AddressTable::Clock::time_point now) {
    const Stations::Bytes bytes = stations.bytes();
    const StationAddress destination = read_station(bytes, 0);
    if (is_of_the_link(destination)) {
        counters_.dropped.add(DropReason::kPeerRefused, frames.size());
        return;
    }
    const auto known =
        switch_->look_up(read_station(bytes, kStationBytes), destination, number_, now);
    if (known == inbox_) {
        // It is at this port itself, where everybody has the frame already.
        counters_.dropped.add(DropReason::kNoPeer, frames.size());
        return;
    }
    if (known == nullptr) {
        for (const Frame& frame : frames) {
            flood(frame, now);
        }
        return;
    }
    const Inbox::Taken taken = known->put(frames, loop_);
    counters_.frames_sent.add(taken.frames);
    counters_.bytes_sent.add(taken.bytes);
    if (taken.frames < frames.size()) {
        counters_.dropped.add(taken.reason, frames.size() - taken.frames);
    }
}

void SwitchPort::flood(const Frame& frame, AddressTable::Clock::time_point now) {
    if (!may_flood(frame, now)) {
        counters_.dropped.add(DropReason::kFlood);
        return;
    }
    bool is_taken = false;
    DropReason reason = DropReason::kNoPeer;
    for (const auto& other : switch_->all_but(number_)) {
        // One that takes it is enough; what others cannot is counted on their account.
        const Inbox::Taken taken = other->put(std::span(&frame, 1), loop_);
        if (taken.frames > 0) {
            is_taken = true;
        } else {
            reason = taken.reason;
        }
    }
    if (!is_taken) {
        counters_.dropped.add(reason);
        return;
    }
    counters_.frames_sent.add();
    counters_.bytes_sent.add(frame.bytes);
}

bool SwitchPort::may_flood(const Frame& frame, AddressTable::Clock::time_point now) {
    if (!second_ || now - *second_ >= std::chrono::seconds(1)) {
        second_ = now;
        flooded_ = 0;
    }
    if (flooded_ >= flood_max_) {
        return false;
    }
    // Each of the others gets a copy: a long frame counts as what it would be cut into.
    flooded_ += (frame.bytes + kFloodedBytes - 1) / kFloodedBytes;
    return true;
}

// --- From other guests -------------------------------------------------------------------------

std::optional<Frame> SwitchPort::next_frame() {
    return inbox_->front();
}

void SwitchPort::drop_frame() {
    inbox_->drop();
}

void SwitchPort::await_frames() {
    inbox_->await();
}

}  // namespace outrigger::net
