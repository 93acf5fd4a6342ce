// SPDX-License-Identifier: Apache-2.0
/// The worker's side of its keeper: descriptors that are there again when the program is started
/// anew. Both kinds of keeper, systemd and our own parent process (keeper.h), are spoken to as
/// sd_notify(3) says: FDSTORE=1, FDNAME=, FDPOLL=0, FDSTOREREMOVE=1, READY=1.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/daemon/keeper_message.h"
#include "vhost-user-backend/session/session_journal.h"

namespace outrigger {

/// All names begin with it, so that a service manager's own sockets are left alone.
inline constexpr std::string_view kStorePrefix = "outrigger.";

/// Thread-bound: the main thread, which becomes the control thread, but for keep() and forget().
class DescriptorStore final : public DescriptorKeeper {
  public:
    /// The environment's OUTRIGGER_KEEPER names the channel to our parent, which is our keeper.
    static constexpr const char* kChannelVariable = "OUTRIGGER_KEEPER";

    /// Says that we are there, and waits for the parent's word to begin, with what it has kept.
    /// Clears the variable. An error: there is no such parent, or it has gone.
    [[nodiscard]] static Result<std::unique_ptr<DescriptorStore>> from_parent();

    /// $NOTIFY_SOCKET, and what systemd has kept among $LISTEN_FDS.
    [[nodiscard]] static Result<std::unique_ptr<DescriptorStore>> from_systemd();

    DescriptorStore(const DescriptorStore&) = delete;
    DescriptorStore& operator=(const DescriptorStore&) = delete;
    ~DescriptorStore() = default;

    // Any thread.
    [[nodiscard]] std::string keep(const std::string& name, int fd) override;
    void forget(const std::string& name) override;

    /// Is this not the first process of the daemon?
    [[nodiscard]] bool goes_on() const { return goes_on_; }

    /// Is there a program before us that serves again if we do not? Until notify_ready().
    [[nodiscard]] bool takes_over() const { return takes_over_; }

    /// The keeper is our parent, and not systemd.
    [[nodiscard]] bool is_parent() const { return is_parent_; }

    /// Another descriptor of what the process before kept; invalid when there is none, also after
    /// release(). To go on with it, claim() it: once for each forget() that is to come.
    [[nodiscard]] UniqueFd open(const std::string& name) const;

    /// Those of the process before that begin so.
    [[nodiscard]] std::vector<std::string> names(std::string_view prefix) const;

    /// The name is in use once more than by the keep() of its process.
    void claim(const std::string& name);

    // Of devices: see DeviceKeeper. Names are of all devices. The first two before release(), the
    // others on any thread.

    [[nodiscard]] Result<UniqueFd> keep_memory(const std::string& name, size_t bytes);
    [[nodiscard]] UniqueFd take(const std::string& name);
    [[nodiscard]] bool keep_open(const std::string& name, int fd);
    void forget_open(const std::string& name);
    [[nodiscard]] Kept try_keep_open(const std::string& name, int fd);
    [[nodiscard]] bool try_forget_open(const std::string& name);

    /// Everything that is needed of the process before has been opened and claimed: closes what we
    /// were given, and forgets what nobody has claimed.
    void release();

    /// Nobody is to go on with what this process does from now on: what kills it ends all sessions.
    /// Once is enough; `reason` is for the log.
    void give_up(std::string_view reason);

    /// The next process may go on again. Only where the keeper is our parent: systemd has let go of
    /// everything.
    void take_up();

    /// Front ends are let in, and those of the process before are served.
    void notify_ready();

    /// Readable when our parent says something; -1: it never does.
    [[nodiscard]] int channel() const { return is_parent_ ? channel_.get() : -1; }

    /// Does our parent say something that was not taken yet?
    [[nodiscard]] bool is_spoken_to() const;

    enum class Word : uint8_t {
        kNone,
        kLeave,    ///< another process is to take over
        kCrossed,  ///< the same, but it takes that back when it hears what we have said last
    };

    /// Takes what it says.
    [[nodiscard]] Word take_word();

    /// We do nothing any more that the next process would have to wait for.
    void notify_left();

  private:
    DescriptorStore(UniqueFd channel, bool is_parent)
        : channel_(std::move(channel)), is_parent_(is_parent) {}

    [[nodiscard]] Result<void> wait_for_parent();
    void take_listen_fds();
    [[nodiscard]] bool send(std::string_view text,
                            int fd = -1,
                            KeeperWait wait = KeeperWait::kWaits);
    /// Not locked where a thread has it that waits for the keeper.
    [[nodiscard]] std::unique_lock<std::mutex> lock_unless_waiting();
    [[nodiscard]] std::string known_name(int fd) const;
    [[nodiscard]] bool drop_given(const std::string& name, KeeperWait wait);

    /// Has the keeper let go of everything?
    [[nodiscard]] bool is_let_go() const { return given_up_ && !is_parent_; }

    UniqueFd channel_;
    bool is_parent_;
    bool goes_on_ = false;
    bool takes_over_ = false;
    std::atomic<bool> given_up_ = false;  // the main thread writes
    unsigned last_count_ = 0;             // LAST messages
    std::atomic<bool> waits_ = false;     // a thread with the mutex, for the keeper
    mutable std::mutex mutex_;            // what follows
    // Of the process before, and neither taken nor dropped yet.
    std::map<std::string, UniqueFd, std::less<>> given_;
    std::map<std::string, size_t> uses_;
    std::set<std::string, std::less<>> open_;  // of devices
    // Systemd drops a descriptor of an open file that it has under another name, and does not say
    // so: what it has, to compare with. Empty where the keeper is our parent.
    std::map<std::string, UniqueFd> kept_;
};

}  // namespace outrigger
