// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/keeping.h"

#include <string>
#include <utility>

#include "vhost-user-backend/base/log.h"

#include "devices/vsock/hybrid_request.h"

namespace outrigger::vsock {
namespace {

/// Programs of the host that may wait for the guest's driver, or for room.
constexpr int kBacklog = 128;

Result<Ledger> open_ledger(const VsockOptions& options, KeptMemory& memory) {
    const Ledger::Shape shape = VsockEngine::ledger_shape(options);
    const UniqueFd fd = OUTRIGGER_TRY(memory.keep("connections", Ledger::bytes_for(shape)));
    std::optional<Ledger> ledger = OUTRIGGER_TRY(Ledger::open(fd.get(), shape));
    if (ledger) {
        return *std::move(ledger);
    }
    if (memory.can_hand_back()) {
        return failure(Error{.message = "the connections of the process before are written down in "
                                        "another way"});
    }
    log(LogLevel::kWarning,
        "vsock cid {}: the connections of the process before are written down in another way, and "
        "are gone",
        options.guest_cid);
    return Ledger::begin_anew(fd.get(), shape);
}

/// A mailbox with calls that another process left there.
Result<Mailbox> open_mailbox(KeptMemory& memory, KeptDescriptors& descriptors) {
    Mailbox mailbox{.inbox = memory.take("inbox"), .outbox = memory.take("outbox")};
    if (!mailbox.inbox.valid() || !mailbox.outbox.valid()) {
        mailbox = OUTRIGGER_TRY(Mailbox::create());
        // Without them calls that are under way fail when the process is killed.
        (void)descriptors.keep("inbox", mailbox.inbox.get());
        (void)descriptors.keep("outbox", mailbox.outbox.get());
    }
    return mailbox;
}

Result<ListeningSocket> open_listener(const std::string& path,
                                      int type,
                                      const std::string& name,
                                      KeptMemory* memory,
                                      KeptDescriptors* descriptors) {
    const std::string file = name + "-file";
    if (memory != nullptr) {
        UniqueFd kept = memory->take(name);
        const UniqueFd kept_file = memory->take(file);
        if (kept.valid()) {
            return listen_on(std::move(kept), path, kept_file);
        }
    }
    ListeningSocket made = OUTRIGGER_TRY(listen_at(path, {.type = type, .backlog = kBacklog}));
    if (descriptors != nullptr) {
        const UniqueFd made_file = SocketFile::open_file(path);
        (void)descriptors->keep(file, made_file.get());
        (void)descriptors->keep(name, made.fd.get());
    }
    return made;
}

}  // namespace

Result<Keeping> open_keeping(const VsockOptions& options, KeptMemory* memory) {
    Keeping keeping;
    if (memory == nullptr) {
        return keeping;
    }
    keeping.sockets = memory->descriptors();
    keeping.ledger = OUTRIGGER_TRY(open_ledger(options, *memory));
    keeping.mailbox = OUTRIGGER_TRY(open_mailbox(*memory, *keeping.sockets));
    keeping.found.resize(options.connections_max);
    for (uint32_t slot = 0; slot < options.connections_max; ++slot) {
        const ConnectionRecord record = keeping.ledger->record(slot);
        if (record.phase != 0) {
            keeping.found[slot] = memory->take(kept_name(make_id(slot, record.generation)));
        }
    }
    return keeping;
}

Result<HostListeners> open_listeners(const VsockOptions& options,
                                     KeptMemory* memory,
                                     KeptDescriptors* descriptors) {
    HostListeners listeners;
    listeners.stream =
        OUTRIGGER_TRY(open_listener(options.uds_path, SOCK_STREAM, "stream", memory, descriptors));
    listeners.seqpacket = OUTRIGGER_TRY(open_listener(
        seqpacket_path(options.uds_path), SOCK_SEQPACKET, "seqpacket", memory, descriptors));
    return listeners;
}

}  // namespace outrigger::vsock
