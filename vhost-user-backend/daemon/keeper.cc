// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/take_over.h"
#include "vhost-user-backend/daemon/config_file.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/daemon/keeper_filter.h"
#include "vhost-user-backend/daemon/keeper_message.h"
#include "vhost-user-backend/daemon/keeper_store.h"
#include "vhost-user-backend/daemon/namespaces.h"
#include "vhost-user-backend/daemon/privileges.h"
#include "vhost-user-backend/daemon/sanitizers.h"
#include "vhost-user-backend/daemon/standard_descriptors.h"
#include "vhost-user-backend/daemon/worker_process.h"

namespace outrigger {
namespace {

using enum control::TakeOverOutcome;
using Clock = std::chrono::steady_clock;

/// A program that is killed more often has a reason for it.
constexpr auto kRestartWindow = std::chrono::seconds(10);

/// Messages read before signals are looked at again.
constexpr int kMessagesPerTurn = 64;

/// What a program that takes over may need to be there, and then to serve.
constexpr auto kTakeOverLimit = std::chrono::seconds(2);

/// What the program before may need to bring its requests in flight to an end. Then it is killed,
/// whatever it does: front ends wait.
constexpr auto kLeaveLimit = std::chrono::milliseconds(10);

constexpr int kExitFailure = 1 << 8;  // a wait status

struct Worker {
    pid_t pid = -1;
    UniqueFd channel;
    bool said_hello = false;
    bool ready = false;
    bool killed = false;  // by us
    bool last = false;    // it does what no other could go on with
    unsigned heard = 0;   // of its LAST messages
};

class Keeper final {
  public:
    explicit Keeper(const KeeperSettings& settings) : settings_(settings), store_(settings.named) {}

    [[nodiscard]] Result<void> prepare();

    /// The wait status of the last worker.
    [[nodiscard]] int run();

  private:
    struct TakeOver {
        UniqueFd program;
        UniqueFd config;
        Worker standby;
        Clock::time_point deadline;
        pid_t asked_by = 0;                          // 0: nobody waits for an answer
        bool tells_steps = false;                    // to who asked
        bool begun = false;                          // the old worker is told to go, or gone
        std::optional<Clock::time_point> kill_at{};  // the old worker, which is told to leave
    };

    [[nodiscard]] Result<Worker> spawn(const UniqueFd& program, const UniqueFd& config);
    void wait_for_events();
    void on_signal();
    void on_end_wanted(int signal_number);
    void on_hangup();
    /// False when there is no more to come for now.
    bool read_channel(Worker& worker);
    /// Reads all that one said that has ended.
    void read_rest(Worker& worker);
    /// False when `worker` is not there any more.
    [[nodiscard]] bool on_message(Worker& worker, KeeperMessage message);
    void on_last(Worker& worker, bool is_last);
    void give_all(Worker& worker, std::string_view go);
    void on_ready();
    void look_for_ended();
    void on_worker_ended(int status);
    void restart(int status);
    void start_again();
    void finish(int status);
    void on_take_over_wanted(pid_t sender, int request);
    void on_reload_wanted();
    void begin_take_over(Result<UniqueFd> program, pid_t asked_by, bool tells_steps);
    [[nodiscard]] Result<UniqueFd> read_config() const;
    void use_config(UniqueFd config);
    void tell_step(control::TakeOverStep step) const;
    void hand_over();
    void kill_old();
    void end_take_over(bool taken_over);

    const KeeperSettings& settings_;
    const pid_t self_ = ::getpid();
    UniqueFd program_;  // the binary that runs, whatever lies at its path by now
    std::string path_;  // where it lay
    UniqueFd config_;   // what it was started with of settings_.config_path
    UniqueFd signals_;
    sigset_t mask_before_{};
    rlimit files_before_{};
    KeeperStore store_;
    Worker worker_;
    std::optional<TakeOver> take_over_;
    std::deque<Clock::time_point> restarts_;
    bool served_ = false;  // a worker was ready once: from then on it is started again
    bool ending_ = false;
    bool reload_due_ = false;  // as soon as another program can take over
    bool hangup_due_ = false;  // as soon as one serves
    bool hung_up_ = false;     // one was told so
    std::optional<int> ended_;
};

Result<void> Keeper::prepare() {
    OUTRIGGER_TRY(ensure_standard_descriptors());
    // Who reads its log may go, and the file of it may be full: it goes on, and so does what it
    // starts.
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_IGN);
    program_ = OUTRIGGER_TRY(worker_process::open_program("/proc/self/exe"));
    path_ = worker_process::own_path();
    // What it is allowed its workers need, who have no more. But nobody reads its memory.
    OUTRIGGER_TRY(forbid_new_privileges());
    OUTRIGGER_TRY(drop_privileges());
    if (settings_.is_confined && !kSanitized) {
        take_own_mounts();
        OUTRIGGER_TRY(enter_keeper_filter(settings_.needed_calls));
    }
    // It has a descriptor of each that its child has.
    files_before_ = worker_process::take_all_descriptors();
    signals_ = worker_process::take_signals(!settings_.config_path.empty(), mask_before_);
    if (!signals_.valid()) {
        return failure(error_from_errno("cannot wait for signals"));
    }
    use_config(OUTRIGGER_TRY(read_config()));
    worker_ = OUTRIGGER_TRY(spawn(program_, config_));
    platform::name_this_thread("keeper");
    return {};
}

// --- Workers -------------------------------------------------------------------------------------

Result<Worker> Keeper::spawn(const UniqueFd& program, const UniqueFd& config) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return failure(error_from_errno("cannot create a channel"));
    }
    UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    const pid_t pid = ::fork();
    if (pid < 0) {
        return failure(error_from_errno("cannot start the program"));
    }
    if (pid == 0) {
        worker_process::become({.keeper = self_,
                                .name = settings_.program,
                                .program = program.get(),
                                .config = config.get(),
                                .channel = theirs.get(),
                                .arguments = settings_.arguments,
                                .signals = mask_before_,
                                .files = files_before_});
    }
    return Worker{.pid = pid, .channel = std::move(ours)};
}

int Keeper::run() {
    while (!ended_) {
        wait_for_events();
        if (hangup_due_) {
            on_hangup();
        }
        if (reload_due_ && worker_.ready && !take_over_ && !ending_ && !ended_) {
            reload_due_ = false;
            on_reload_wanted();
        }
    }
    return *ended_;
}

void Keeper::wait_for_events() {
    std::array<pollfd, 3> watched{};
    watched[0] = {.fd = signals_.get(), .events = POLLIN, .revents = 0};
    watched[1] = {.fd = worker_.channel.get(), .events = POLLIN, .revents = 0};
    watched[2] = {
        .fd = take_over_ ? take_over_->standby.channel.get() : -1, .events = POLLIN, .revents = 0};
    int timeout_ms = -1;
    if (take_over_) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            take_over_->kill_at.value_or(take_over_->deadline) - Clock::now());
        timeout_ms = static_cast<int>(std::max<int64_t>(left.count() + 1, 0));
    }
    if (::poll(watched.data(), watched.size(), timeout_ms) < 0 && errno != EINTR) {
        return;
    }
    if (watched[1].revents != 0) {
        read_channel(worker_);
    }
    if (take_over_ && watched[2].revents != 0) {
        read_channel(take_over_->standby);
    }
    if (watched[0].revents != 0) {
        on_signal();
    }
    if (take_over_ && take_over_->kill_at && Clock::now() >= *take_over_->kill_at) {
        kill_old();
    }
    if (take_over_ && Clock::now() >= take_over_->deadline) {
        log(LogLevel::kError, "keeper: the new program is not there in time");
        end_take_over(false);
    }
}

// --- Messages -----------------------------------------------------------------------------------

bool Keeper::read_channel(Worker& worker) {
    KeeperMessage message;
    for (int i = 0; i < kMessagesPerTurn && worker.channel.valid(); ++i) {
        errno = 0;
        if (!receive_keeper_message(worker.channel.get(), message, KeeperWait::kNever)) {
            if (errno == EAGAIN) {
                return false;
            }
            if (errno != EMSGSIZE) {
                worker.channel.reset();  // it has ended, and its end comes by SIGCHLD
            }
        } else if (!on_message(worker, std::move(message))) {
            return false;
        }
    }
    return worker.channel.valid();
}

void Keeper::read_rest(Worker& worker) {
    // It may have given its end of the channel to others. What they say from now on does not come.
    (void)::shutdown(worker.channel.get(), SHUT_RD);
    while (read_channel(worker)) {
    }
}

bool Keeper::on_message(Worker& worker, KeeperMessage message) {
    if (message.field("FDSTORE") == "1" && message.fds.size() == 1) {
        store_.store(message, std::move(message.fds[0]));
    } else if (message.field("FDSTOREREMOVE") == "1" && &worker == &worker_) {
        store_.remove(message.field("FDNAME"));
    } else if (message.field("FDSTOREREMOVE") == "1") {
        // Until it serves, the program before may be the one that goes on with that.
        store_.remove_later(message.field("FDNAME"));
    } else if (message.field("HELLO") == "1" && !std::exchange(worker.said_hello, true)) {
        if (take_over_ && &worker == &take_over_->standby) {
            if (worker_.last) {
                // Since it was asked for, an operator did what the command line does not say.
                end_take_over(false);
                return false;
            }
            hand_over();
            return take_over_.has_value();
        } else {
            give_all(worker, served_ ? "again" : "first");
        }
    } else if (!message.field("LAST").empty()) {
        on_last(worker, message.field("LAST") != "0");
    } else if (message.field("LEFT") == "1" && &worker == &worker_ && take_over_ &&
               take_over_->kill_at) {
        kill_old();
    } else if (message.field("READY") == "1" && worker.said_hello &&
               !std::exchange(worker.ready, true)) {
        on_ready();
        if (take_over_ && &worker == &take_over_->standby) {
            end_take_over(true);
            return false;
        }
    }
    return true;
}

/// Said before it was told to leave: then it does not, and what an operator was answered counts.
void Keeper::on_last(Worker& worker, bool is_last) {
    worker.last = is_last;
    ++worker.heard;
    if (&worker == &worker_ && take_over_ && take_over_->kill_at) {
        log(LogLevel::kWarning, "keeper: nobody takes over: an operator gave a command meanwhile");
        take_over_->begun = false;
        end_take_over(false);
    }
}

void Keeper::give_all(Worker& worker, std::string_view go) {
    if (!store_.give_all(worker.channel.get(), go)) {
        log(LogLevel::kError, "keeper: the program does not take what was kept for it");
        ::kill(worker.pid, SIGKILL);
    }
}

/// Workers have what they need of ours in the store by now.
void Keeper::on_ready() {
    if (!std::exchange(served_, true)) {
        store_.close_inherited();
    }
}

// --- Signals and ends ---------------------------------------------------------------------------

void Keeper::on_signal() {
    signalfd_siginfo info{};
    while (!ended_ &&
           ::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        switch (info.ssi_signo) {
            case SIGCHLD:
                look_for_ended();
                break;
            case SIGUSR2:
                // Our own user, or root: anybody else's signal would not have come.
                on_take_over_wanted(static_cast<pid_t>(info.ssi_pid),
                                    info.ssi_code == SI_QUEUE ? info.ssi_int : 0);
                break;
            case SIGHUP:
                if (settings_.config_path.empty()) {
                    on_hangup();
                } else if (!ending_) {
                    on_reload_wanted();
                }
                break;
            default:
                on_end_wanted(static_cast<int>(info.ssi_signo));
                break;
        }
    }
}

void Keeper::on_end_wanted(int signal_number) {
    if (ended_) {
        return;
    }
    ending_ = true;
    store_.close();
    if (take_over_) {
        worker_process::signal(take_over_->standby.pid, SIGKILL);
        take_over_->kill_at.reset();
        if (take_over_->begun && worker_.pid < 0) {
            finish(0);
            return;
        }
    }
    worker_process::signal(worker_.pid, signal_number);
}

/// A program that opens its logs anew goes on behind it, and so do we; of others it is the end. One
/// that is on its way would die of it whatever it is.
void Keeper::on_hangup() {
    hangup_due_ = take_over_.has_value() || (served_ && !worker_.ready);
    if (!hangup_due_) {
        hung_up_ = true;
        worker_process::signal(worker_.pid, SIGHUP);
    }
}

void Keeper::look_for_ended() {
    if (take_over_) {
        if (const auto status = worker_process::take_end(take_over_->standby.pid)) {
            take_over_->standby.pid = -1;
            log(LogLevel::kError,
                "keeper: the new program {}",
                worker_process::describe_end(*status));
            end_take_over(false);
        }
    }
    if (const auto status = worker_process::take_end(worker_.pid)) {
        // What it said last.
        read_rest(worker_);
        worker_.pid = -1;
        on_worker_ended(*status);
    }
}

void Keeper::on_worker_ended(int status) {
    const bool hung_up = hung_up_ && WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP;
    if (ending_) {
        finish(worker_.killed ? 0 : status);
    } else if (!WIFSIGNALED(status) || hung_up) {
        finish(status);  // it has said why
    } else if (take_over_ && take_over_->begun && !worker_.last) {
        take_over_->kill_at.reset();
        take_over_->deadline = Clock::now() + kTakeOverLimit;
        give_all(take_over_->standby, "upgrade");
    } else if (!served_) {
        log(LogLevel::kError,
            "keeper: the program {} before it served anybody",
            worker_process::describe_end(status));
        finish(status);
    } else if (worker_.last) {
        log(LogLevel::kError,
            "keeper: the program {}, and was the last",
            worker_process::describe_end(status));
        finish(status);
    } else {
        restart(status);
    }
}

void Keeper::restart(int status) {
    const auto now = Clock::now();
    while (!restarts_.empty() && now - restarts_.front() > kRestartWindow) {
        restarts_.pop_front();
    }
    if (restarts_.size() >= settings_.restarts_max) {
        log(LogLevel::kError,
            "keeper: the program {}, and was started again {} times in {} s: giving up",
            worker_process::describe_end(status),
            settings_.restarts_max,
            kRestartWindow.count());
        finish(kExitFailure);
        return;
    }
    restarts_.push_back(now);
    start_again();
    // Last: who reads it may take a while.
    log(LogLevel::kError,
        "keeper: the program {}: starting it again",
        worker_process::describe_end(status));
}

void Keeper::start_again() {
    auto worker = spawn(program_, config_);
    if (!worker) {
        log(LogLevel::kError, "keeper: {}", worker.error().message);
        finish(kExitFailure);
        return;
    }
    worker_ = *std::move(worker);
}

/// A program that has ended by itself has removed its sockets, if it came so far.
void Keeper::finish(int status) {
    store_.close();
    store_.remove_socket_files();
    if (take_over_) {
        worker_process::signal(take_over_->standby.pid, SIGKILL);
        control::answer_take_over(take_over_->asked_by, kUnchanged);
    }
    ended_ = status;
}

// --- Another program ----------------------------------------------------------------------------

void Keeper::on_take_over_wanted(pid_t sender, int request) {
    using enum control::TakeOverRequest;
    const bool by_sender = request == static_cast<int>(kOfSender);
    const bool by_path = request == static_cast<int>(kAtPath);
    if (request == static_cast<int>(kReload)) {
        log(LogLevel::kInfo, "keeper: asked to read {} again", settings_.config_path);
        begin_take_over(UniqueFd(::fcntl(program_.get(), F_DUPFD_CLOEXEC, 0)), sender, true);
        return;
    }
    begin_take_over(worker_process::open_program(
                        by_sender ? "/proc/" + std::to_string(sender) + "/exe" : path_),
                    by_sender || by_path ? sender : 0,
                    by_path);
}

/// The program that runs takes over from itself: what it is to serve is opened before it is
/// confined, and what it serves already goes on, as when it is killed.
void Keeper::on_reload_wanted() {
    if (take_over_ || !worker_.ready) {
        reload_due_ = true;
        return;
    }
    log(LogLevel::kInfo, "keeper: reading {} again", settings_.config_path);
    begin_take_over(UniqueFd(::fcntl(program_.get(), F_DUPFD_CLOEXEC, 0)), 0, false);
}

void Keeper::begin_take_over(Result<UniqueFd> program, pid_t asked_by, bool tells_steps) {
    if (take_over_ || ending_ || worker_.last || !worker_.ready) {
        log(LogLevel::kWarning, "keeper: no other program can take over now");
        control::answer_take_over(asked_by, ending_ || worker_.last ? kUnchanged : kBusy);
        return;
    }
    auto config = program ? read_config() : Result<UniqueFd>(std::unexpected(program.error()));
    auto standby =
        config ? spawn(*program, *config) : Result<Worker>(std::unexpected(config.error()));
    if (!standby) {
        log(LogLevel::kError, "keeper: {}", standby.error().message);
        control::answer_take_over(asked_by, kUnchanged);
        return;
    }
    log(LogLevel::kInfo, "keeper: another program is to take over (process {})", standby->pid);
    take_over_.emplace(TakeOver{.program = *std::move(program),
                                .config = *std::move(config),
                                .standby = *std::move(standby),
                                .deadline = Clock::now() + kTakeOverLimit,
                                .asked_by = asked_by,
                                .tells_steps = tells_steps});
    tell_step(control::TakeOverStep::kStarting);
}

/// None where there is no --config.
Result<UniqueFd> Keeper::read_config() const {
    return settings_.config_path.empty() ? UniqueFd() : copy_config(settings_.config_path);
}

/// What runs was started with that.
void Keeper::use_config(UniqueFd config) {
    config_ = std::move(config);
    if (config_.valid()) {
        if (const auto text = read_config_copy(config_.get())) {
            store_.set_named(settings_.named_with(*text));
        }
    }
}

void Keeper::tell_step(control::TakeOverStep step) const {
    if (take_over_->tells_steps) {
        control::tell_take_over_step(take_over_->asked_by, step);
    }
}

/// The new program is there and waits: now the old one goes.
void Keeper::hand_over() {
    take_over_->begun = true;
    take_over_->deadline = Clock::now() + kTakeOverLimit;
    take_over_->kill_at = Clock::now() + kLeaveLimit;
    tell_step(control::TakeOverStep::kHandingOver);
    if (!send_keeper_message(worker_.channel.get(),
                             "LEAVE=1\nHEARD=" + std::to_string(worker_.heard))) {
        kill_old();
    }
}

void Keeper::kill_old() {
    read_channel(worker_);  // what it has said by now counts
    if (take_over_ && std::exchange(take_over_->kill_at, std::nullopt)) {
        worker_.killed = true;
        worker_process::signal(worker_.pid, SIGKILL);
    }
}

void Keeper::end_take_over(bool taken_over) {
    TakeOver over = *std::exchange(take_over_, std::nullopt);
    if (taken_over) {
        store_.settle(true);
        program_ = std::move(over.program);
        worker_ = std::move(over.standby);
        use_config(std::move(over.config));
        store_.close_inherited();
        log(LogLevel::kInfo, "keeper: the new program has taken over");
        control::answer_take_over(over.asked_by, kTaken);
        return;
    }
    worker_process::end(over.standby.pid);
    // What it said last counts: descriptors that it kept. What it has done with, the other has not.
    if (over.begun && !ending_) {
        read_rest(over.standby);
        store_.settle(false);
        if (worker_process::end(worker_.pid)) {
            read_rest(worker_);
        }
        start_again();  // not because it was killed too often
        log(LogLevel::kError, "keeper: going back to the program before");
    }
    const bool serves = !ending_ && !ended_;
    control::answer_take_over(over.asked_by, over.begun && serves ? kRolledBack : kUnchanged);
}

}  // namespace

int run_keeper(const KeeperSettings& settings) {
    Keeper keeper(settings);
    if (const auto prepared = keeper.prepare(); !prepared) {
        log(LogLevel::kError, "keeper: {}", prepared.error().message);
        return 1;
    }
    return worker_process::end_alike(keeper.run());
}

}  // namespace outrigger
