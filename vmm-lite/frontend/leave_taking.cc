// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/leave_taking.h"

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include <sys/socket.h>

namespace outrigger::vmm {
namespace {

/// What is thrown away in one turn of the loop: other sessions have theirs.
constexpr int kReadsATurnMax = 16;

/// More than any socket holds. Who says more is neither stopped nor about to go.
constexpr size_t kWordsMax = size_t{8} << 20;

}  // namespace

std::unique_ptr<LeaveTaking> LeaveTaking::begin(EventLoop& loop,
                                                UniqueFd socket,
                                                std::move_only_function<void()> on_gone) {
    std::unique_ptr<LeaveTaking> leave(
        new LeaveTaking(loop, std::move(socket), std::move(on_gone)));
    if (leave->gone()) {
        return nullptr;
    }
    auto watch = loop.watch(leave->socket_.get(), [self = leave.get()] { self->on_readable(); });
    if (watch) {
        leave->watch_ = *std::move(watch);
    }
    return leave;  // one that cannot be watched is never gone, as far as anybody knows
}

LeaveTaking::LeaveTaking(EventLoop& loop, UniqueFd socket, std::move_only_function<void()> on_gone)
    : loop_(loop),
      socket_(std::move(socket)),
      on_gone_(std::move(on_gone)),
      self_(std::make_shared<LeaveTaking*>(this)) {}

/// Throws away what it still says; descriptors with it are closed by the kernel.
bool LeaveTaking::gone() {
    std::array<std::byte, 4096> words;
    for (int count = 0; count < kReadsATurnMax; ++count) {
        const ssize_t bytes = ::recv(socket_.get(), words.data(), words.size(), MSG_DONTWAIT);
        if (bytes == 0) {
            return true;
        }
        if (bytes < 0) {
            return errno != EAGAIN && errno != EINTR;
        }
        thrown_away_ += static_cast<size_t>(bytes);
    }
    return false;
}

void LeaveTaking::on_readable() {
    const bool has_gone = gone();
    if (has_gone || thrown_away_ > kWordsMax) {
        watch_ = {};
    }
    if (!has_gone) {
        return;
    }
    loop_.post([self = std::weak_ptr<LeaveTaking*>(self_)] {
        if (const auto there = self.lock()) {
            // It may destroy us.
            const auto on_gone =
                std::make_unique<std::move_only_function<void()>>(std::move((*there)->on_gone_));
            (*on_gone)();
        }
    });
}

}  // namespace outrigger::vmm
