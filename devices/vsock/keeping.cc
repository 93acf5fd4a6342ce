// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/keeping.h"

#include <string>
#include <utility>

#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/log.h"

#include "devices/vsock/host_socket.h"
#include "devices/vsock/hybrid_request.h"

namespace outrigger::vsock {
namespace {

/// Programs of the host that may wait for the guest's driver, or for room.
constexpr int kBacklog = 128;

Result<Ledger> open_ledger(const VsockOptions& options, DeviceKeeper& keeper) {
    const Ledger::Shape shape = VsockEngine::ledger_shape(options);
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("connections", Ledger::bytes_for(shape)));
    std::optional<Ledger> ledger = OUTRIGGER_TRY(Ledger::open(fd.get(), shape));
    if (ledger) {
        return *std::move(ledger);
    }
    if (keeper.can_hand_back()) {
        return failure(Error{.message = "the connections of CID " +
                                        std::to_string(options.guest_cid) +
                                        " are written down in another way, or were of another CID: "
                                        "a guest that is served keeps its CID and its limits"});
    }
    log(LogLevel::kWarning,
        "vsock cid {}: the connections of the process before are written down in another way, and "
        "are gone",
        options.guest_cid);
    return Ledger::begin_anew(fd.get(), shape);
}

/// A mailbox with calls that another process left there.
Result<Mailbox> open_mailbox(DeviceKeeper& keeper) {
    Mailbox mailbox{.inbox = keeper.take("inbox"), .outbox = keeper.take("outbox")};
    if (!mailbox.inbox.valid() || !mailbox.outbox.valid()) {
        mailbox = OUTRIGGER_TRY(Mailbox::create());
        // Without them calls that are under way fail when the process is killed.
        (void)keeper.keep_open("inbox", mailbox.inbox.get());
        (void)keeper.keep_open("outbox", mailbox.outbox.get());
    }
    return mailbox;
}

Result<ListeningSocket> open_listener(const std::string& path,
                                      int type,
                                      const std::string& name,
                                      DeviceKeeper* keeper) {
    const std::string file = name + "-file";
    if (keeper != nullptr) {
        UniqueFd kept = keeper->take(name);
        const UniqueFd kept_file = keeper->take(file);
        if (kept.valid()) {
            return listen_on(std::move(kept), path, kept_file, kBacklog);
        }
    }
    ListeningSocket made = OUTRIGGER_TRY(listen_at(path, {.type = type, .backlog = kBacklog}));
    if (keeper != nullptr) {
        const UniqueFd made_file = SocketFile::open_file(path);
        (void)keeper->keep_open(file, made_file.get());
        (void)keeper->keep_open(name, made.fd.get());
    }
    return made;
}

/// AF_VSOCK of the host, at `port`.
Result<UniqueFd> open_forward(const ForwardOptions& forward, uint32_t port, DeviceKeeper* keeper) {
    const std::string name = "forward-" + std::to_string(port);
    if (keeper != nullptr) {
        UniqueFd kept = keeper->take(name);
        if (kept.valid() && listens_at_vsock(kept.get(), port)) {
            return kept;
        }
    }
    const bool is_local = forward.cid == VMADDR_CID_LOCAL;
    UniqueFd made = OUTRIGGER_TRY(listen_at_vsock(port, is_local, kBacklog));
    if (keeper != nullptr) {
        (void)keeper->keep_open(name, made.get());
    }
    return made;
}

}  // namespace

Result<Keeping> open_keeping(const VsockOptions& options, DeviceKeeper* keeper) {
    Keeping keeping;
    if (keeper == nullptr) {
        return keeping;
    }
    keeping.keeper = keeper;
    keeping.ledger = OUTRIGGER_TRY(open_ledger(options, *keeper));
    keeping.mailbox = OUTRIGGER_TRY(open_mailbox(*keeper));
    keeping.found.resize(options.connections_max);
    for (uint32_t slot = 0; slot < options.connections_max; ++slot) {
        const ConnectionRecord record = keeping.ledger->record(slot);
        if (record.phase != 0) {
            keeping.found[slot] = keeper->take(kept_name(make_id(slot, record.generation)));
        }
    }
    return keeping;
}

Result<HostListeners> open_listeners(const VsockOptions& options, DeviceKeeper* keeper) {
    HostListeners listeners;
    for (const uint32_t port : options.forward.listen_at) {
        listeners.forwards.push_back(OUTRIGGER_TRY(open_forward(options.forward, port, keeper)));
    }
    if (options.activated) {
        // The next process is passed them, too.
        ActivatedSocket passed = OUTRIGGER_TRY(take_activated_socket(*options.activated));
        listeners.stream.fd = std::move(passed.fd);
        listeners.seqpacket.fd = std::move(passed.second);
        return listeners;
    }
    if (options.uds_path.empty()) {
        return listeners;
    }
    listeners.stream =
        OUTRIGGER_TRY(open_listener(options.uds_path, SOCK_STREAM, "stream", keeper));
    listeners.seqpacket = OUTRIGGER_TRY(
        open_listener(seqpacket_path(options.uds_path), SOCK_SEQPACKET, "seqpacket", keeper));
    return listeners;
}

}  // namespace outrigger::vsock
