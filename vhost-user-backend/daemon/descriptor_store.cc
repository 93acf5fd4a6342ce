// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/descriptor_store.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/daemon/keeper_message.h"
#include "vhost-user-backend/daemon/service_manager.h"

namespace outrigger {

Result<std::unique_ptr<DescriptorStore>> DescriptorStore::from_parent() {
    const auto number = service_manager::number_of(kChannelVariable);
    ::unsetenv(kChannelVariable);
    if (!number || ::fcntl(*number, F_SETFD, FD_CLOEXEC) != 0) {
        return failure(Error{.message = std::string(kChannelVariable) +
                                        " is set, but not by a keeper: unset it"});
    }
    std::unique_ptr<DescriptorStore> store(new DescriptorStore(UniqueFd(*number), true));
    OUTRIGGER_TRY(store->wait_for_parent());
    return store;
}

Result<void> DescriptorStore::wait_for_parent() {
    // What comes may be more than the limit that we begin with: the process before had raised it.
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (!send("HELLO=1")) {
        return failure(error_from_errno("the keeper is gone"));
    }
    // Bounded: by what the keeper has.
    while (true) {
        KeeperMessage message;
        if (!receive_keeper_message(channel_.get(), message, KeeperWait::kWaits)) {
            return failure(Error{.message = "the keeper is gone"});
        }
        const std::string_view go = message.field("GO");
        if (!go.empty()) {
            goes_on_ = go != "first";
            takes_over_ = go == "upgrade";
            return {};
        }
        const std::vector<std::string> names = split_names(message.field("FDNAMES"));
        const std::lock_guard lock(mutex_);
        for (size_t i = 0; i < std::min(names.size(), message.fds.size()); ++i) {
            given_.insert_or_assign(names[i], std::move(message.fds[i]));
        }
    }
}

Result<std::unique_ptr<DescriptorStore>> DescriptorStore::from_systemd() {
    auto socket = service_manager::connect();
    if (!socket) {
        return failure(Error{.message = "--keeper=systemd: " + socket.error().message +
                                        ": run this as a service with NotifyAccess=main and "
                                        "FileDescriptorStoreMax=, or choose --keeper=fork",
                             .os_error = socket.error().os_error});
    }
    std::unique_ptr<DescriptorStore> store(new DescriptorStore(*std::move(socket), false));
    store->take_listen_fds();
    return store;
}

void DescriptorStore::take_listen_fds() {
    const auto count = service_manager::number_of("LISTEN_FDS");
    const auto text = service_manager::text_of("LISTEN_FDNAMES");
    if (service_manager::is_for_us("LISTEN_PID", false) && count && text) {
        const std::vector<std::string> names = split_names(*text);
        const std::lock_guard lock(mutex_);
        for (size_t i = 0; i < std::min(names.size(), static_cast<size_t>(*count)); ++i) {
            const int fd = service_manager::kFirstListenFd + static_cast<int>(i);
            if (names[i].starts_with(kStorePrefix) && ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) {
                given_.insert_or_assign(names[i], UniqueFd(fd));
                goes_on_ = true;
            }
        }
    }
    // Nobody that we start is meant.
    ::unsetenv("LISTEN_PID");
    ::unsetenv("LISTEN_FDS");
    ::unsetenv("LISTEN_FDNAMES");
}

/// What was sent is as good as kept, with both keepers: it waits in the socket's queue, with the
/// descriptor, until it is read, and both read it before they look whether we have ended (systemd
/// gives notifications the higher priority). So nobody needs to wait for BARRIER=1 before a message
/// of a front end is taken.
bool DescriptorStore::send(std::string_view text, int fd, KeeperWait wait) {
    const auto fds = fd >= 0 ? std::span<const int>(&fd, 1) : std::span<const int>();
    if (send_keeper_message(channel_.get(), text, fds, KeeperWait::kNever)) {
        return true;
    }
    if (errno != EAGAIN || wait == KeeperWait::kNever) {
        return false;
    }
    waits_ = true;
    const bool sent = send_keeper_message(channel_.get(), text, fds, KeeperWait::kWaits);
    waits_ = false;
    return sent;
}

std::unique_lock<std::mutex> DescriptorStore::lock_unless_waiting() {
    std::unique_lock lock(mutex_, std::defer_lock);
    while (!lock.try_lock()) {
        if (waits_) {
            break;
        }
        std::this_thread::yield();
    }
    return lock;
}

std::string DescriptorStore::known_name(int fd) const {
    const auto found = std::ranges::find_if(kept_, [&](const auto& item) {
        return platform::is_same_open_file(item.second.get(), fd);
    });
    return found != kept_.end() ? found->first : std::string();
}

void DescriptorStore::claim(const std::string& name) {
    const std::lock_guard lock(mutex_);
    ++uses_[name];
}

std::string DescriptorStore::keep(const std::string& name, int fd) {
    const std::lock_guard lock(mutex_);
    if (is_let_go()) {
        return name;
    }
    if (!is_parent_) {
        if (std::string known = known_name(fd); !known.empty()) {
            ++uses_[known];
            return known;
        }
    }
    // Of the process before a name may be in use by another session than its own.
    std::string free_name = name;
    for (size_t number = 2; uses_.contains(free_name); ++number) {
        free_name = name + "-" + std::to_string(number);
    }
    if (!is_parent_) {
        kept_.insert_or_assign(free_name, UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    }
    // Without FDPOLL=0 systemd would close what hangs up, and then we would not see that it did.
    if (!send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + free_name, fd)) {
        kept_.erase(free_name);
        return {};
    }
    ++uses_[free_name];
    return free_name;
}

void DescriptorStore::forget(const std::string& name) {
    const std::lock_guard lock(mutex_);
    if (is_let_go()) {
        return;
    }
    const auto found = uses_.find(name);
    if (found != uses_.end() && --found->second > 0) {
        return;
    }
    if (found != uses_.end()) {
        uses_.erase(found);
    }
    kept_.erase(name);
    if (!send("FDSTOREREMOVE=1\nFDNAME=" + name)) {
        log(LogLevel::kWarning,
            "{}",
            error_from_errno("the keeper cannot forget a descriptor").message);
    }
}

UniqueFd DescriptorStore::open(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = given_.find(name);
    return found != given_.end() ? UniqueFd(::fcntl(found->second.get(), F_DUPFD_CLOEXEC, 0))
                                 : UniqueFd();
}

std::vector<std::string> DescriptorStore::names(std::string_view prefix) const {
    std::vector<std::string> list;
    const std::lock_guard lock(mutex_);
    for (const auto& [name, fd] : given_) {
        if (name.starts_with(prefix)) {
            list.push_back(name);
        }
    }
    return list;
}

Result<UniqueFd> DescriptorStore::keep_memory(const std::string& name, size_t bytes) {
    if (UniqueFd found = open(name); found.valid()) {
        struct stat status = {};
        if (::fstat(found.get(), &status) == 0 && static_cast<uint64_t>(status.st_size) == bytes &&
            platform::is_sealed_against_shrinking(found.get())) {
            claim(name);
            return found;
        }
        if (takes_over_) {
            return failure(Error{.message = "memory of the process before is of another size"});
        }
        forget(name);
    }
    UniqueFd fd = OUTRIGGER_TRY(create_shared_memory("outrigger-kept", bytes));
    if (keep(name, fd.get()) != name) {
        return failure(Error{.message = "the keeper does not take the memory of a device"});
    }
    return fd;
}

// Each open file of a device comes once and under one name, so nothing is counted, or compared with
// what systemd has.

UniqueFd DescriptorStore::take(const std::string& name) {
    const std::lock_guard lock(mutex_);
    const auto found = given_.extract(name);
    if (found.empty()) {
        return {};
    }
    open_.insert(name);
    return std::move(found.mapped());
}

/// What the process before kept under that name and this one has not taken: it must be gone before
/// anything else has the name, because release() would drop that with it, and systemd has names
/// twice. False: not now.
bool DescriptorStore::drop_given(const std::string& name, KeeperWait wait) {
    const auto found = given_.find(name);
    if (found == given_.end()) {
        return true;
    }
    // If the keeper does not hear of it, it has gone, and with it what it had.
    if (!send("FDSTOREREMOVE=1\nFDNAME=" + name, -1, wait) && wait == KeeperWait::kNever &&
        errno == EAGAIN) {
        return false;
    }
    given_.erase(found);
    return true;
}

bool DescriptorStore::keep_open(const std::string& name, int fd) {
    const std::lock_guard lock(mutex_);
    if (is_let_go()) {
        return false;
    }
    (void)drop_given(name, KeeperWait::kWaits);
    if (!send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd)) {
        return false;
    }
    open_.insert(name);
    return true;
}

void DescriptorStore::forget_open(const std::string& name) {
    const std::lock_guard lock(mutex_);
    (void)drop_given(name, KeeperWait::kWaits);
    if (open_.erase(name) > 0) {
        (void)send("FDSTOREREMOVE=1\nFDNAME=" + name);
    }
}

Kept DescriptorStore::try_keep_open(const std::string& name, int fd) {
    const std::unique_lock lock = lock_unless_waiting();
    if (!lock) {
        return Kept::kNotNow;
    }
    if (is_let_go()) {
        return Kept::kNever;
    }
    if (!drop_given(name, KeeperWait::kNever)) {
        return Kept::kNotNow;
    }
    if (!send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd, KeeperWait::kNever)) {
        // ETOOMANYREFS: as many descriptors as the process may have are on their way.
        return errno == EAGAIN || errno == ETOOMANYREFS ? Kept::kNotNow : Kept::kNever;
    }
    open_.insert(name);
    return Kept::kYes;
}

bool DescriptorStore::try_forget_open(const std::string& name) {
    const std::unique_lock lock = lock_unless_waiting();
    if (!lock || !drop_given(name, KeeperWait::kNever)) {
        return false;
    }
    if (open_.contains(name) && !send("FDSTOREREMOVE=1\nFDNAME=" + name, -1, KeeperWait::kNever) &&
        errno == EAGAIN) {
        return false;
    }
    open_.erase(name);
    return true;
}

void DescriptorStore::release() {
    std::vector<std::string> unclaimed;
    {
        const std::lock_guard lock(mutex_);
        for (auto& [name, fd] : std::exchange(given_, {})) {
            if (!uses_.contains(name)) {
                unclaimed.push_back(name);
            } else if (!is_parent_) {
                kept_.insert_or_assign(name, std::move(fd));
            }
        }
    }
    for (const std::string& name : unclaimed) {
        forget(name);
    }
}

void DescriptorStore::give_up(std::string_view reason) {
    const std::lock_guard lock(mutex_);
    if (given_up_.exchange(true)) {
        return;
    }
    log(LogLevel::kWarning, "a process that is killed is not replaced any more: {}", reason);
    if (is_parent_) {
        ++last_count_;
        (void)send("LAST=1");
        return;
    }
    for (const auto& [name, uses] : uses_) {
        (void)send("FDSTOREREMOVE=1\nFDNAME=" + name);
    }
    for (const std::string& name : open_) {
        (void)send("FDSTOREREMOVE=1\nFDNAME=" + name);
    }
    uses_.clear();
    open_.clear();
    kept_.clear();
}

void DescriptorStore::take_up() {
    const std::lock_guard lock(mutex_);
    if (is_parent_ && given_up_.exchange(false)) {
        log(LogLevel::kInfo, "a process that is killed is replaced again");
        ++last_count_;
        (void)send("LAST=0");
    }
}

void DescriptorStore::notify_ready() {
    takes_over_ = false;
    const std::lock_guard lock(mutex_);
    // systemd is told by the ServiceNotifier, with or without a store.
    if (is_parent_ && !send("READY=1")) {
        log(LogLevel::kWarning, "{}", error_from_errno("cannot tell the keeper").message);
    }
}

bool DescriptorStore::is_spoken_to() const {
    pollfd readable{.fd = channel(), .events = POLLIN, .revents = 0};
    return ::poll(&readable, 1, 0) > 0;
}

DescriptorStore::Word DescriptorStore::take_word() {
    KeeperMessage message;
    if (!receive_keeper_message(channel_.get(), message, KeeperWait::kNever) ||
        message.field("LEAVE") != "1") {
        return Word::kNone;
    }
    // A keeper may be older than its program, and not say it.
    const std::string_view heard = message.field("HEARD");
    return heard.empty() || heard == std::to_string(last_count_) ? Word::kLeave : Word::kCrossed;
}

void DescriptorStore::notify_left() {
    const std::lock_guard lock(mutex_);
    (void)send("LEFT=1");  // else it waits, not long, and kills us
}

}  // namespace outrigger
