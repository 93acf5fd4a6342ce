// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/stream_load.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <poll.h>
#include <sys/socket.h>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

/// Without anything that moves for so long: see whether the back end is still there.
constexpr std::chrono::milliseconds kQuiet{5};
/// What the host's end reads or writes of one stream before it is the turn of the next.
constexpr size_t kHostBytesMax = 256 << 10;
constexpr size_t kHostMessagesMax = 64;
constexpr std::chrono::milliseconds kBetweenPacedBlocks{1};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

uint32_t to_host_pattern(uint32_t stream) {
    return 2 * stream;
}

uint32_t to_guest_pattern(uint32_t stream) {
    return 2 * stream + 1;
}

bool may_try_again(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

}  // namespace

StreamLoad::StreamLoad(const BenchPlan& plan, std::unique_ptr<StreamDriver> guest, int socket)
    : plan_(plan), guest_(std::move(guest)), socket_(socket), host_buffer_(kHostBytesMax) {
    for (UniqueFd& end : guest_->take_host_ends()) {
        streams_.push_back({.host = std::move(end)});
    }
}

Result<std::unique_ptr<StreamLoad>> StreamLoad::create(const BenchPlan& plan,
                                                       std::unique_ptr<StreamDriver> guest,
                                                       int socket) {
    std::unique_ptr<StreamLoad> load(new StreamLoad(plan, std::move(guest), socket));
    load->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    if (!load->epoll_.valid()) {
        return failure(error_from_errno("cannot create an epoll instance"));
    }
    for (uint32_t i = 0; i < load->streams_.size(); ++i) {
        epoll_event event{.events = plan.access == Access::kToGuest ? EPOLLOUT : EPOLLIN,
                          .data = {.u32 = i}};
        const int host = load->streams_[i].host.get();
        if (host < 0 || plan.access == Access::kStalled) {
            continue;
        }
        if (::epoll_ctl(load->epoll_.get(), EPOLL_CTL_ADD, host, &event) != 0) {
            return failure(error_from_errno("cannot watch the host's end of a stream"));
        }
    }
    return load;
}

Result<void> StreamLoad::run(Phase phase, driver::Deadline end) {
    if (phase != Phase::kLoad) {
        return {};
    }
    for (driver::DriverQueue* const queue : guest_->queues()) {
        queue->suppress_calls();
    }
    last_progress_ = begin_ = driver::Clock::now();
    begin_sent_ = sent_;
    end_ = end;
    open_ = true;
    while (true) {
        if (turn()) {
            last_progress_ = now_;
        } else if (complaint_.empty() && (open_ || !all_arrived())) {
            OUTRIGGER_TRY(idle());
        } else {
            break;
        }
    }
    check_viewers();
    if (!complaint_.empty()) {
        return refuse(complaint_);
    }
    counts_.seconds += std::chrono::duration<double>(driver::Clock::now() - begin_).count();
    return {};
}

/// Who does not read must still be there: without a viewer something else was measured.
void StreamLoad::check_viewers() {
    for (const Stream& stream : streams_) {
        pollfd viewer{.fd = stream.host.get(), .events = POLLRDHUP, .revents = 0};
        if (plan_.access == Access::kStalled && ::poll(&viewer, 1, 0) > 0) {
            lose("the viewer that does not read was sent away");
        }
    }
}

/// Each of the ends once. False when nothing has moved, or something is wrong.
bool StreamLoad::turn() {
    now_ = driver::Clock::now();
    open_ = open_ && now_ < end_;
    bool progress = guest_->take(*this);
    if (plan_.access != Access::kToGuest) {
        progress = send_from_guest() || progress;
    }
    counts_.kicks += guest_->publish();
    if (host_has_work()) {
        progress = serve_host() || progress;
    }
    if (complaint_.empty()) {
        complaint_ = guest_->complaint();
    }
    return progress && complaint_.empty();
}

bool StreamLoad::send_from_guest() {
    const auto count = static_cast<uint32_t>(streams_.size());
    bool sent = false;
    // Ends when no buffer is free: they come back in take().
    for (uint32_t refused = 0; refused < count;) {
        const bool taken = send_from_guest(next_);
        sent = sent || taken;
        refused = taken ? 0 : refused + 1;
        next_ = next_ + 1 == count ? 0 : next_ + 1;
    }
    return sent;
}

bool StreamLoad::send_from_guest(uint32_t number) {
    Stream& stream = streams_[number];
    if (stream.block_left == 0) {
        if (!open_ || !is_due() || !may_begin(stream)) {
            return false;
        }
        stream.block_left = plan_.block_bytes;
        stream.asked = now_;
        trips_ += plan_.access == Access::kRoundTrip ? 1U : 0U;
    }
    const auto rest =
        pattern_.view(to_host_pattern(number), stream.to_host_sent, stream.block_left);
    const uint32_t taken = guest_->try_send(number, rest, plan_.verify, now_);
    stream.block_left -= taken;
    stream.to_host_sent += taken;
    sent_ += taken;
    return taken != 0;
}

/// What comes back to the guest bounds what it sends.
bool StreamLoad::may_begin(const Stream& stream) const {
    const uint64_t away = stream.to_host_sent - stream.to_guest_received;
    if (plan_.access == Access::kRoundTrip) {
        return away == 0;
    }
    return plan_.access != Access::kEcho || away < uint64_t{plan_.depth} * plan_.block_bytes;
}

/// Does --rate let the guest send another block?
bool StreamLoad::is_due() const {
    const std::chrono::duration<double> passed = now_ - begin_;
    return plan_.bytes_per_second == 0 ||
           static_cast<double>(sent_ - begin_sent_) <
               passed.count() * static_cast<double>(plan_.bytes_per_second);
}

void StreamLoad::on_returned(uint32_t bytes, driver::Deadline sent) {
    if (plan_.access == Access::kStalled) {
        // Nobody sees it: with the device it is where it was to go.
        complete(received_, received_ + bytes);
        received_ += bytes;
    }
    if (plan_.access != Access::kRoundTrip) {
        counts_.latency.record(
            static_cast<uint64_t>(std::chrono::nanoseconds(now_ - sent).count()));
    }
}

void StreamLoad::on_received(uint32_t number, std::span<const std::byte> bytes) {
    if (bytes.empty()) {
        return;
    }
    Stream& stream = streams_[number];
    const bool echo = plan_.access == Access::kEcho;
    const uint64_t before = stream.to_guest_received;
    compare(echo ? to_host_pattern(number) : to_guest_pattern(number), before, bytes);
    stream.to_guest_received += bytes.size();
    received_ += bytes.size();
    if (stream.to_guest_received > (echo ? stream.to_host_sent : stream.to_guest_sent)) {
        lose(fmt::format("stream {}: the guest received more than was sent", number));
        return;
    }
    if (plan_.access == Access::kToGuest || echo) {
        complete(before, stream.to_guest_received);
    } else if (stream.block_left == 0 && stream.to_guest_received == stream.to_host_sent) {
        --trips_;
        ++counts_.completed;
        counts_.latency.record(
            static_cast<uint64_t>(std::chrono::nanoseconds(now_ - stream.asked).count()));
    }
}

/// Blocks that ended between two positions of a stream.
void StreamLoad::complete(uint64_t before, uint64_t after) {
    counts_.completed += after / plan_.block_bytes - before / plan_.block_bytes;
}

void StreamLoad::compare(uint32_t pattern, uint64_t position, std::span<const std::byte> bytes) {
    if (!plan_.verify) {
        return;
    }
    ++compared_;
    if (!pattern_.matches(pattern, position, bytes)) {
        lose(fmt::format("stream {}, byte {} to the {}: holds something else than was sent",
                         pattern / 2,
                         position,
                         pattern % 2 == 0 ? "host" : "guest"));
    }
}

void StreamLoad::lose(std::string words) {
    complaint_ = complaint_.empty() ? std::move(words) : complaint_;
}

bool StreamLoad::host_has_work() const {
    if (plan_.access == Access::kToGuest) {
        return open_ || std::ranges::any_of(streams_, [this](const Stream& stream) {
                   return host_may_write(stream) > 0;
               });
    }
    if (plan_.access == Access::kRoundTrip) {
        return trips_ > 0;
    }
    return plan_.access == Access::kToHost && sent_ > received_;
}

bool StreamLoad::all_arrived() const {
    return sent_ == received_ && trips_ == 0 && guest_->in_flight() == 0;
}

bool StreamLoad::serve_host() {
    const int count =
        ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), 0);
    bool progress = false;
    for (int i = 0; i < count; ++i) {
        const uint32_t number = events_[static_cast<size_t>(i)].data.u32;
        if (plan_.access != Access::kToGuest) {
            progress = read_at_host(number) || progress;
        }
        if (plan_.access != Access::kToHost) {
            progress = write_at_host(number) || progress;
        }
    }
    return progress;
}

bool StreamLoad::read_at_host(uint32_t number) {
    Stream& stream = streams_[number];
    const ssize_t got =
        ::recv(stream.host.get(), host_buffer_.data(), host_buffer_.size(), MSG_DONTWAIT);
    if (got < 0 && may_try_again(errno)) {
        return false;
    }
    if (got <= 0) {
        lose(fmt::format("stream {}: its end at the host was closed", number));
        return false;
    }
    auto bytes = std::span<const std::byte>(host_buffer_).first(static_cast<size_t>(got));
    while (!bytes.empty() && complaint_.empty()) {
        bytes = bytes.subspan(take_at_host(number, bytes));
    }
    return true;
}

/// Data, or what stands in front of it. How much of that there was.
size_t StreamLoad::take_at_host(uint32_t number, std::span<const std::byte> bytes) {
    Stream& stream = streams_[number];
    const uint64_t before = stream.to_host_received;
    const size_t head_bytes = guest_->head_to_host().size();
    if (before % plan_.block_bytes == 0 && stream.head_received < head_bytes) {
        return take_head(number, bytes);
    }
    if (head_bytes > 0) {
        bytes = bytes.first(
            std::min<uint64_t>(bytes.size(), plan_.block_bytes - before % plan_.block_bytes));
    }
    compare(to_host_pattern(number), before, bytes);
    stream.head_received = 0;
    stream.to_host_received += bytes.size();
    received_ += bytes.size();
    if (stream.to_host_received > stream.to_host_sent) {
        lose(fmt::format("stream {}: the host received more than was sent", number));
    } else if (plan_.access == Access::kToHost) {
        complete(before, stream.to_host_received);
    }
    return bytes.size();
}

size_t StreamLoad::take_head(uint32_t number, std::span<const std::byte> bytes) {
    size_t& received = streams_[number].head_received;
    const auto rest = guest_->head_to_host().subspan(received);
    const size_t length = std::min(bytes.size(), rest.size());
    received += length;
    if (!std::ranges::equal(bytes.first(length), rest.first(length))) {
        lose(fmt::format("stream {}: the host received a block of another length or address",
                         number));
    }
    return length;
}

uint64_t StreamLoad::host_may_write(const Stream& stream) const {
    if (plan_.access == Access::kRoundTrip) {
        return stream.to_host_received - stream.to_guest_sent;
    }
    if (open_) {
        return std::max<uint64_t>(kHostBytesMax, plan_.block_bytes);
    }
    // Half a block arrives as it is, but not where a head says how long it is.
    const uint64_t begun = stream.to_guest_sent % plan_.block_bytes;
    const bool any_begun = begun > 0 || stream.head_sent > 0;
    return any_begun && !guest_->head_to_guest().empty() ? plan_.block_bytes - begun : 0;
}

/// Blocks of --bs, each a write of its own, but in one call: the call's cost is not the back end's.
bool StreamLoad::write_at_host(uint32_t number) {
    Stream& stream = streams_[number];
    uint64_t allowed = host_may_write(stream);
    const auto head = guest_->head_to_guest();
    const size_t first_head = stream.head_sent;
    std::array<std::array<iovec, 2>, kHostMessagesMax> parts;
    std::array<mmsghdr, kHostMessagesMax> messages;
    unsigned count = 0;
    for (uint64_t position = stream.to_guest_sent; count < messages.size() && allowed > 0;) {
        const uint64_t in_block = position % plan_.block_bytes;
        const uint64_t length = std::min<uint64_t>(plan_.block_bytes - in_block, allowed);
        const auto bytes = pattern_.view(to_guest_pattern(number), position, length);
        const auto front =
            in_block == 0 ? head.subspan(count == 0 ? first_head : 0) : head.first(0);
        // sendmsg() does not write to them.
        parts[count] = {
            {{.iov_base = const_cast<std::byte*>(front.data()), .iov_len = front.size()},
             {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()}}};
        messages[count] = {};
        messages[count].msg_hdr.msg_iov = parts[count].data();
        messages[count].msg_hdr.msg_iovlen = parts[count].size();
        ++count;
        position += length;
        allowed -= length;
    }
    if (count == 0) {
        return false;
    }
    const int done =
        ::sendmmsg(stream.host.get(), messages.data(), count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done <= 0) {
        if (done < 0 && !may_try_again(errno)) {
            lose(fmt::format("stream {}: its end at the host was closed", number));
        }
        return false;
    }
    for (size_t i = 0; i < static_cast<size_t>(done); ++i) {
        const size_t front = std::min<size_t>(messages[i].msg_len, parts[i][0].iov_len);
        const size_t data = messages[i].msg_len - front;
        stream.head_sent = data > 0 ? 0 : stream.head_sent + front;
        stream.to_guest_sent += data;
        sent_ += data;
    }
    return true;
}

Result<void> StreamLoad::idle() {
    if (!plan_.spin) {
        sleep();
    }
    return now_ - last_progress_ < kQuiet ? Result<void>() : look_around();
}

void StreamLoad::sleep() {
    bool ready = false;
    std::array<pollfd, kQueuesMax * 2 + 2> waited{};
    size_t count = 0;
    const auto wait_for = [&](int fd, short events) {
        waited[count++] = {.fd = fd, .events = events, .revents = 0};
    };
    for (driver::DriverQueue* const queue : guest_->queues()) {
        ready = queue->enable_calls() || ready;
        wait_for(queue->call_read_fd(), POLLIN);
        wait_for(queue->error_read_fd(), POLLIN);
    }
    wait_for(socket_, POLLIN | POLLRDHUP);
    wait_for(host_has_work() ? epoll_.get() : -1, POLLIN);
    if (!ready) {
        driver::Deadline give_up = last_progress_ + plan_.patience;
        give_up = open_ ? std::min(give_up, end_) : give_up;
        // With --rate blocks are due without a call.
        give_up = plan_.bytes_per_second != 0 ? now_ + kBetweenPacedBlocks : give_up;
        (void)::poll(waited.data(), count, driver::milliseconds_until(give_up));
        for (driver::DriverQueue* const queue : guest_->queues()) {
            counts_.calls += queue->take_calls();
        }
    }
    // As an interrupt handler does: no more calls until it asks for them.
    for (driver::DriverQueue* const queue : guest_->queues()) {
        queue->suppress_calls();
    }
    now_ = driver::Clock::now();
}

/// Nothing moves: is the back end still there?
Result<void> StreamLoad::look_around() {
    for (driver::DriverQueue* const queue : guest_->queues()) {
        if (queue->fault() != driver::DeviceFault::kNone) {
            return refuse(
                fmt::format("the used ring is wrong: {}", driver::describe(queue->fault())));
        }
        pollfd error{.fd = queue->error_read_fd(), .events = POLLIN, .revents = 0};
        if (::poll(&error, 1, 0) > 0) {
            return refuse("the back end says that a ring is in error");
        }
    }
    pollfd connection{.fd = socket_, .events = POLLRDHUP, .revents = 0};
    if (::poll(&connection, 1, 0) > 0) {
        return refuse("the back end hung up");
    }
    if (now_ - last_progress_ >= plan_.patience) {
        return refuse(fmt::format("nothing moves for {} ms, with {} bytes under way",
                                  plan_.patience.count(),
                                  sent_ - received_));
    }
    return {};
}

LoadCounts StreamLoad::take_counts() {
    for (driver::DriverQueue* const queue : guest_->queues()) {
        counts_.calls += queue->take_calls();
    }
    return std::exchange(counts_, LoadCounts{});
}

}  // namespace outrigger::bench
