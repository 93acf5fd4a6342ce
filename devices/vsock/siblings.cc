// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/siblings.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include <sys/socket.h>

#include "devices/vsock/host_socket.h"

namespace outrigger::vsock {
namespace {

/// What goes through a mailbox with the descriptor. Both ends are this process.
struct CallMessage {
    uint64_t from_cid;
    uint32_t from_port;
    uint32_t to_port;
    uint32_t type;
    uint32_t reserved;
    uint64_t link;
};

struct Directory {
    std::mutex mutex;  // what follows
    std::map<uint64_t, std::weak_ptr<Sibling>> siblings;
};

Directory& directory() {
    static Directory all;
    return all;
}

template <class T>
bool parse_number(std::string_view text, T& out) {
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, out);
    return error == std::errc() && rest == end;
}

std::optional<std::pair<UniqueFd, UniqueFd>> make_pair_of_sockets(int kind) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
        return std::nullopt;
    }
    return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

}  // namespace

std::optional<CallerRule> parse_caller_rule(std::string_view text) {
    const size_t colon = text.find(':');
    CallerRule rule;
    if (!parse_number(text.substr(0, colon), rule.cid) || rule.cid < kGuestCidMin ||
        rule.cid > kGuestCidMax) {
        return std::nullopt;
    }
    if (colon != std::string_view::npos &&
        !parse_number(text.substr(colon + 1), rule.port.emplace())) {
        return std::nullopt;
    }
    return rule;
}

Result<Mailbox> Mailbox::create() {
    auto ends = make_pair_of_sockets(SOCK_SEQPACKET);
    if (!ends) {
        return failure(error_from_errno("cannot create the mailbox of a guest"));
    }
    return Mailbox{.inbox = std::move(ends->first), .outbox = std::move(ends->second)};
}

Result<std::shared_ptr<Sibling>> Sibling::create(uint64_t cid,
                                                 const SiblingRules& rules,
                                                 Mailbox mailbox) {
    if (!mailbox.inbox.valid() || !mailbox.outbox.valid()) {
        mailbox = OUTRIGGER_TRY(Mailbox::create());
    }
    Notifier bell = OUTRIGGER_TRY(Notifier::create());
    std::shared_ptr<Sibling> made(new Sibling(cid, rules, std::move(mailbox), std::move(bell)));
    const std::lock_guard lock(directory().mutex);
    directory().siblings[cid] = made;
    return made;
}

Sibling::~Sibling() {
    const std::lock_guard lock(directory().mutex);
    const auto found = directory().siblings.find(cid_);
    if (found != directory().siblings.end() && found->second.expired()) {
        directory().siblings.erase(found);
    }
}

std::shared_ptr<Sibling> Sibling::find(uint64_t cid) {
    const std::lock_guard lock(directory().mutex);
    const auto found = directory().siblings.find(cid);
    return found == directory().siblings.end() ? nullptr : found->second.lock();
}

bool Sibling::lets_in(const Sibling& caller, uint32_t port) const {
    if (&caller == this) {
        return false;
    }
    return std::ranges::find_first_of(rules_.groups, caller.rules_.groups) != rules_.groups.end() ||
           std::ranges::any_of(rules_.callers, [&](const CallerRule& rule) {
               return rule.cid == caller.cid_ && rule.port.value_or(port) == port;
           });
}

std::optional<SiblingEnds> Sibling::make_ends(SocketType type) {
    auto ends = make_pair_of_sockets(socket_kind(type));
    if (!ends) {
        return std::nullopt;
    }
    prepare_connection(ends->first.get(), type);
    prepare_connection(ends->second.get(), type);
    return SiblingEnds{.caller = std::move(ends->first), .called = std::move(ends->second)};
}

bool Sibling::call(const SiblingCall& call, const SendCall& send) const {
    CallMessage text{.from_cid = call.from_cid,
                     .from_port = call.from_port,
                     .to_port = call.to_port,
                     .type = static_cast<uint32_t>(call.type),
                     .reserved = 0,
                     .link = call.link};
    iovec piece{.iov_base = &text, .iov_len = sizeof text};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = call.socket.get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    return send(mailbox_.outbox.get(), message) >= 0;
}

std::optional<SiblingCall> Sibling::next_call() const {
    CallMessage call{};
    iovec piece{.iov_base = &call, .iov_len = sizeof call};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    constexpr int kFlags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK;
    if (::recvmsg(mailbox_.inbox.get(), &message, kFlags) < 0) {
        return std::nullopt;
    }
    SiblingCall taken{.from_cid = call.from_cid,
                      .from_port = call.from_port,
                      .to_port = call.to_port,
                      .type = call.type == static_cast<uint32_t>(SocketType::kSeqpacket)
                                  ? SocketType::kSeqpacket
                                  : SocketType::kStream,
                      .link = call.link};
    // Without a descriptor, when the process has none left, the caller finds that its end is alone.
    const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
        taken.socket = UniqueFd(fd);
    }
    return taken;
}

void Sibling::ring(uint64_t connection) {
    {
        const std::lock_guard lock(mutex_);
        rings_.push_back(connection);
    }
    bell_.signal();
}

std::vector<uint64_t> Sibling::take_rings() {
    bell_.drain();
    const std::lock_guard lock(mutex_);
    return std::exchange(rings_, {});
}

void Sibling::drop_call() const {
    std::byte byte{};
    iovec piece{.iov_base = &byte, .iov_len = sizeof byte};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    (void)::recvmsg(mailbox_.inbox.get(), &message, MSG_DONTWAIT);
}

}  // namespace outrigger::vsock
