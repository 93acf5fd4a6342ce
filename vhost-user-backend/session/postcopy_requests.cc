// SPDX-License-Identifier: Apache-2.0
// POSTCOPY_ADVISE, POSTCOPY_LISTEN and POSTCOPY_END, and the acknowledgements of our addresses.
#include <utility>

#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

Session::Impl::Outcome Session::Impl::handle_postcopy_advise() {
    auto fd = postcopy_.advise();
    if (!fd) {
        return refuse(fd.error());
    }
    Outcome outcome = reply({});
    outcome.fd = *std::move(fd);
    return outcome;
}

Session::Impl::Outcome Session::Impl::handle_postcopy_listen() {
    const auto listening = postcopy_.listen();
    return listening ? done() : refuse(listening.error());
}

Session::Impl::Outcome Session::Impl::handle_postcopy_end() {
    const auto ended = postcopy_.end();
    return ended ? done() : refuse(ended.error());
}

Session::Impl::Outcome Session::Impl::handle_postcopy_ack(const wire::Message& message) {
    auto acknowledged = postcopy_.take_acknowledged(message);
    if (!acknowledged) {
        return refuse(acknowledged.error());
    }
    if (!*acknowledged) {
        return done();
    }
    HeldMemory held = **std::move(acknowledged);
    return take_memory(std::move(held.memory), held.drain);
}

}  // namespace outrigger
