// SPDX-License-Identifier: Apache-2.0
/// A guest of a virtio-fs device that speaks FUSE by hand: any request, whole or malformed.
///
/// Thread-bound.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tests/fs/fuse_protocol.h"
#include "tests/fs/fuse_queue.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

/// What came back.
struct FuseAnswer {
    bool used = false;    ///< the chain came back in time
    uint32_t length = 0;  ///< the bytes that the device says it wrote
    Bytes bytes{};        ///< those bytes, as far as there was room

    [[nodiscard]] bool has_header() const { return bytes.size() >= sizeof(fuse_out_header); }

    [[nodiscard]] fuse_out_header header() const { return read_at<fuse_out_header>(0); }

    /// 0, an errno as <errno.h> has it, or -1 when there is no answer with a header.
    [[nodiscard]] int error() const { return has_header() ? -header().error : -1; }

    [[nodiscard]] std::span<const std::byte> body() const {
        return has_header() ? std::span(bytes).subspan(sizeof(fuse_out_header))
                            : std::span<const std::byte>();
    }

    /// What lies at `offset` of the body; zeroes where the answer is shorter.
    template <class T>
    [[nodiscard]] T as(size_t offset = 0) const {
        return read_at<T>(sizeof(fuse_out_header) + offset);
    }

    [[nodiscard]] std::string text() const;

  private:
    template <class T>
    [[nodiscard]] T read_at(size_t offset) const {
        static_assert(std::is_trivially_copyable_v<T>);
        T value{};
        if (offset <= bytes.size() && sizeof(T) <= bytes.size() - offset) {
            std::memcpy(&value, bytes.data() + offset, sizeof value);
        }
        return value;
    }
};

/// One request. What is not said is as a kernel would say it.
struct FuseRequest {
    uint32_t opcode = 0;
    uint64_t nodeid = FUSE_ROOT_ID;
    Bytes arguments{};                 ///< all that follows the header
    uint32_t room = 0;                 ///< bytes that may be written behind the answer's header
    std::optional<uint32_t> len{};     ///< what the header says; default: the truth
    std::optional<uint64_t> unique{};  ///< default: one that no request had
    uint32_t uid = 0;
    uint32_t gid = 0;
    uint16_t total_extlen = 0;
    bool answered = true;  ///< false: there is nothing to write into, as FORGET has it
};

/// The bytes of structures and of names with their NUL, one after the other.
class FuseArguments final {
  public:
    template <class T>
    FuseArguments& add(const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        const auto bytes = std::as_bytes(std::span(&value, 1));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    FuseArguments& name(std::string_view text) {
        raw(text);
        bytes_.push_back(std::byte{0});
        return *this;
    }

    /// Without a NUL.
    FuseArguments& raw(std::string_view text) {
        const auto bytes = std::as_bytes(std::span(text));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    FuseArguments& raw(std::span<const std::byte> bytes) {
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    operator Bytes() const { return bytes_; }

  private:
    Bytes bytes_;
};

class FuseGuest final {
  public:
    struct Options {
        uint16_t request_queues = 1;
        uint16_t queue_size = 1024;
        size_t slot_count = 16;  ///< requests in flight, of each queue
        bool packed = false;
        bool shared_memory = false;  ///< the front end maps what it is asked to
        bool truncatable = false;    ///< its memory may shrink
    };

    /// Which queue: VIRTIO 1.3, 5.11.2, without the notification queue.
    static constexpr size_t kHighPriority = 0;
    static constexpr size_t kFirst = 1;

    /// Connects to the daemon that listens at `socket_path`, or will soon, and starts the queues.
    FuseGuest(const std::string& socket_path, const Options& options);

    explicit FuseGuest(const std::string& socket_path) : FuseGuest(socket_path, Options{}) {}

    /// Why there is no device; empty when there is one.
    [[nodiscard]] const std::string& trouble() const { return trouble_; }

    /// Sends a request and waits for its answer.
    FuseAnswer call(const FuseRequest& request,
                    size_t queue = kFirst,
                    std::chrono::milliseconds patience = kPatience);

    /// Sends a request; wait() has the answer. Nullopt when there is no room.
    std::optional<size_t> submit(const FuseRequest& request, size_t queue = kFirst);

    FuseAnswer wait(size_t slot,
                    size_t queue = kFirst,
                    std::chrono::milliseconds patience = kPatience);

    /// A chain of these bytes, whatever they are, in parts as they come.
    FuseAnswer call_raw(std::span<const Bytes> readable_parts,
                        std::span<const uint32_t> writable_parts,
                        size_t queue = kFirst);

    // In fuse_guest_moves.cc, which not every program has:

    /// The machine stops, to go on elsewhere: the device's state; nothing where that is refused.
    std::optional<std::string> leave();

    /// It goes on with the daemon at this socket, with its memory and its rings as they were. False
    /// when that does not take the state. With the same daemon, and nothing to load: stay().
    bool arrive(const std::string& socket_path, std::string_view state);
    bool stay();

    /// INIT as Linux says it; its answer is init().
    FuseAnswer init(uint64_t flags = kInitFlagsOfLinux);

    [[nodiscard]] uint64_t init_flags() const { return init_flags_; }

    [[nodiscard]] driver::Frontend& frontend() { return *frontend_; }

    [[nodiscard]] driver::RunningDevice& device() { return running_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] FuseQueue& queue(size_t index) { return *queues_.at(index); }

    [[nodiscard]] uint64_t next_unique() { return unique_ += 2; }

  private:
    /// Answers that came while another one was waited for.
    struct Kept {
        size_t queue = 0;
        size_t slot = 0;
        FuseAnswer answer{};
    };

    FuseAnswer take_answer(size_t queue, const FuseQueue::Done& done);
    std::optional<FuseAnswer> take_kept(size_t queue, size_t slot);

    [[nodiscard]] driver::BringUpOptions bring_up_options() const;
    [[nodiscard]] bool start_queues();

    const Options options_;
    std::string trouble_;
    driver::GuestMemory memory_;
    std::optional<driver::Frontend> frontend_;
    driver::RunningDevice running_;
    std::vector<std::unique_ptr<FuseQueue>> queues_;
    std::vector<std::vector<uint32_t>> room_;  ///< of each slot of each queue
    std::vector<Kept> kept_;
    uint64_t unique_ = 0;
    uint64_t init_flags_ = 0;
};

/// A request as Linux puts it: in a header, with its length.
[[nodiscard]] Bytes bytes_of(const FuseRequest& request, uint64_t unique);

}  // namespace outrigger::testing
