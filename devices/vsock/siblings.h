// SPDX-License-Identifier: Apache-2.0
/// How guests of one program reach one another: whom they may call, and where a call is left.
///
/// A connection between two guests is a pair of connected Unix sockets, one end with each device,
/// which serves it like any socket of the host. So their ends and their buffer sizes have nothing
/// to do with one another, and no device touches what is another's. The device of the caller makes
/// the pair and leaves one end in the mailbox of the called one; that asks its guest, and answers
/// with one byte when it has accepted, or closes its end. What a guest may send is what the other
/// one has room for: see sibling_link.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/vsock/packet.h"
#include "devices/vsock/sibling_link.h"

namespace outrigger::vsock {

/// Who may call a guest beside the members of its groups.
struct CallerRule {
    uint64_t cid = 0;
    std::optional<uint32_t> port{};  ///< of the called guest; nullopt: any
};

/// "CID" or "CID:PORT".
[[nodiscard]] std::optional<CallerRule> parse_caller_rule(std::string_view text);

struct SiblingRules {
    std::vector<std::string> groups{};  ///< members of one group may call one another
    std::vector<CallerRule> callers{};
};

/// One call, as it lies in a mailbox.
struct SiblingCall {
    uint64_t from_cid = 0;
    uint32_t from_port = 0;
    uint32_t to_port = 0;
    SocketType type = SocketType::kStream;
    LinkId link = kNoLink;
    UniqueFd socket{};
};

/// A pair of sockets that calls are left in. Invalid: there is none yet.
struct Mailbox {
    UniqueFd inbox{};
    UniqueFd outbox{};

    [[nodiscard]] static Result<Mailbox> create();
};

/// A new connection between two guests.
struct SiblingEnds {
    UniqueFd caller;
    UniqueFd called;
};

/// What goes before the bytes of each message between two guests, because a Unix socket has no room
/// for it.
using SiblingMessageFlags = uint8_t;
inline constexpr SiblingMessageFlags kSiblingEndOfRecord = 1;

/// The first byte from the called guest's device: that guest has accepted.
inline constexpr char kSiblingAccepts = '+';

/// A guest that may be called. Any thread, where a member does not say otherwise.
class Sibling final {
  public:
    /// Known to all from now on, until the last owner lets it go.
    [[nodiscard]] static Result<std::shared_ptr<Sibling>> create(uint64_t cid,
                                                                 const SiblingRules& rules,
                                                                 Mailbox mailbox = {});

    Sibling(const Sibling&) = delete;
    Sibling& operator=(const Sibling&) = delete;
    ~Sibling();

    /// The guest with that CID, if this program serves it.
    [[nodiscard]] static std::shared_ptr<Sibling> find(uint64_t cid);

    /// May `caller` call `port` here?
    [[nodiscard]] bool lets_in(const Sibling& caller, uint32_t port) const;

    /// Its device says so while its driver is up.
    void set_up(bool up) { up_.store(up, std::memory_order_relaxed); }

    [[nodiscard]] bool is_up() const { return up_.load(std::memory_order_relaxed); }

    /// Nothing: the process has no descriptors left.
    [[nodiscard]] static std::optional<SiblingEnds> make_ends(SocketType type);

    /// sendmsg() that does not wait.
    using SendCall = std::function<ssize_t(int mailbox, const msghdr& message)>;

    /// Leaves the call in the mailbox, by `send`. False: it is full.
    [[nodiscard]] bool call(const SiblingCall& call, const SendCall& send) const;

    /// Of its device alone: readable when there are calls.
    [[nodiscard]] int mailbox_fd() const { return mailbox_.inbox.get(); }

    /// The next call, if there is one. It stays there until drop_call(), so that another process
    /// finds it.
    [[nodiscard]] std::optional<SiblingCall> next_call() const;
    void drop_call() const;

    /// Tells its device that the other end of a connection of its own has news, by the name that it
    /// gave to its end.
    void ring(uint64_t connection);

    /// Of its device alone: readable when it was rung.
    [[nodiscard]] int bell_fd() const { return bell_.read_fd(); }

    /// The connections that it was rung for since it was asked last.
    [[nodiscard]] std::vector<uint64_t> take_rings();

  private:
    Sibling(uint64_t cid, SiblingRules rules, Mailbox mailbox, Notifier bell)
        : cid_(cid),
          rules_(std::move(rules)),
          mailbox_(std::move(mailbox)),
          bell_(std::move(bell)) {}

    const uint64_t cid_;
    const SiblingRules rules_;
    const Mailbox mailbox_;
    // Orders nothing: a call that is left for one that goes down meanwhile is not answered in time.
    std::atomic<bool> up_ = false;
    const Notifier bell_;
    std::mutex mutex_;  // what follows
    std::vector<uint64_t> rings_;
};

}  // namespace outrigger::vsock
