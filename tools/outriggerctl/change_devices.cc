// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/change_devices.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "vhost-user-backend/control/printable_text.h"
#include "vhost-user-backend/daemon/config_text.h"

#include "tools/outriggerctl/config_sections.h"
#include "tools/outriggerctl/take_over.h"

namespace outrigger::ctl {
namespace {

namespace fs = std::filesystem;

/// More than a keeper needs, with the way back.
constexpr auto kPatience = std::chrono::seconds(15);

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

Result<void> write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t count = ::write(fd, text.data(), text.size());
        if (count < 0 && errno != EINTR) {
            return failure(error_from_errno("cannot write"));
        }
        text.remove_prefix(count > 0 ? static_cast<size_t>(count) : 0);
    }
    return {};
}

/// False, and errno: somebody else has the lock all the time, or it failed.
bool lock_within(int fd, std::chrono::milliseconds patience) {
    constexpr std::chrono::milliseconds kPause{20};
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EINTR &&
            (errno != EWOULDBLOCK || std::chrono::steady_clock::now() > deadline)) {
            return false;
        }
        std::this_thread::sleep_for(kPause);
    }
    return true;
}

/// The file as we found it, which nobody else of us changes meanwhile.
class ConfigFile final {
  public:
    /// Waits so long for whoever else has it.
    [[nodiscard]] static Result<ConfigFile> open(const std::string& given,
                                                 std::chrono::milliseconds patience) {
        std::error_code error;
        ConfigFile file;
        // What a link leads to is changed, and not the link.
        file.path_ = fs::canonical(given, error);
        if (error) {
            return failure(error_from_code("cannot find " + given, error.value()));
        }
        // Of the directory, because the file is another one behind each change.
        file.lock_.reset(
            ::open(file.path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!file.lock_.valid() || !lock_within(file.lock_.get(), patience)) {
            return failure(error_from_errno("cannot lock " + file.path_.parent_path().string()));
        }
        if (::stat(file.path_.c_str(), &file.status_) != 0 || !S_ISREG(file.status_.st_mode) ||
            file.status_.st_size > static_cast<off_t>(kConfigBytesMax)) {
            return refuse(file.path_.string() + " is no file, or too long");
        }
        std::ifstream stream(file.path_);
        file.text_.assign(std::istreambuf_iterator<char>(stream), {});
        if (!stream) {
            return failure(error_from_errno("cannot read " + file.path_.string()));
        }
        return file;
    }

    [[nodiscard]] const std::string& text() const { return text_; }

    /// All of it at once: whoever reads the file finds the one or the other.
    [[nodiscard]] Result<void> replace(const std::string& text) const {
        std::string name = path_.string() + ".XXXXXX";
        const UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
        if (!fd.valid()) {
            return failure(error_from_errno("cannot write beside " + path_.string()));
        }
        auto written = keep_owner(fd.get());
        if (written) {
            written = write_all(fd.get(), text);
        }
        if (written && ::fchmod(fd.get(), status_.st_mode & 07777U) != 0) {
            written = failure(error_from_errno("cannot replace " + path_.string()));
        }
        if (written) {
            written = keep_attributes(fd.get());
        }
        if (written && (::fsync(fd.get()) != 0 || ::rename(name.c_str(), path_.c_str()) != 0)) {
            written = failure(error_from_errno("cannot replace " + path_.string()));
        }
        if (!written) {
            (void)::unlink(name.c_str());
            return written;
        }
        // So that it is there behind a loss of power, too, like what it says is served.
        (void)::fsync(lock_.get());
        return {};
    }

    /// Puts back what open() found, unless somebody else has changed the file since replace() put
    /// `ours` there.
    [[nodiscard]] Result<void> put_back(const std::string& ours) const {
        std::ifstream stream(path_);
        if (std::string(std::istreambuf_iterator<char>(stream), {}) != ours) {
            return refuse("that is not served, and " + path_.string() +
                          " was changed by somebody else meanwhile: it is as they left it");
        }
        return replace(text_);
    }

  private:
    ConfigFile() = default;

    /// Who may read the file has to stay: the keeper does, and not with our rights.
    [[nodiscard]] Result<void> keep_owner(int fd) const {
        // Only root can give it to another user, but to a group of ours others can, too.
        if (::fchown(fd, status_.st_uid, status_.st_gid) != 0) {
            (void)!::fchown(fd, static_cast<uid_t>(-1), status_.st_gid);
        }

        struct stat made {};

        if (::fstat(fd, &made) != 0 || made.st_uid != status_.st_uid ||
            made.st_gid != status_.st_gid) {
            return refuse("cannot give " + path_.string() +
                          " back to its owner and group: ask as its owner");
        }
        return {};
    }

    /// Access lists, and labels.
    [[nodiscard]] Result<void> keep_attributes(int fd) const {
        std::vector<char> names(kAttributeBytesMax);
        const ssize_t length = ::listxattr(path_.c_str(), names.data(), names.size());
        if (length < 0) {
            return errno == ENOTSUP ? Result<void>{} : cannot_keep("the attributes");
        }
        // The folder may have given the new one a list of its own. (Where there are none it says
        // so.)
        if (::fremovexattr(fd, "system.posix_acl_access") != 0 && errno != ENODATA &&
            errno != ENOTSUP) {
            return cannot_keep("the access list");
        }
        const std::string_view all(names.data(), static_cast<size_t>(length));
        std::vector<char> value(kAttributeBytesMax);
        for (size_t at = 0; at < all.size();) {
            const std::string name(all.substr(at, all.find('\0', at) - at));
            at += name.size() + 1;
            if (name == "security.ima" || name == "security.evm") {
                continue;  // of what was in the file
            }
            const ssize_t bytes =
                ::getxattr(path_.c_str(), name.c_str(), value.data(), value.size());
            if (bytes < 0) {
                return cannot_keep(name);
            }
            // A label is mostly there by default, and not ours to set.
            const bool must_stay = name.starts_with("system.");
            if (::fsetxattr(fd, name.c_str(), value.data(), static_cast<size_t>(bytes), 0) != 0 &&
                must_stay) {
                return cannot_keep(name);
            }
        }
        return {};
    }

    [[nodiscard]] std::unexpected<Error> cannot_keep(const std::string& what) const {
        return failure(error_from_errno("cannot keep " + what + " of " + path_.string()));
    }

    /// Of names, and of a value: what Linux allows.
    static constexpr size_t kAttributeBytesMax = 65536;

    fs::path path_;
    UniqueFd lock_;

    struct stat status_ {};

    std::string text_;
};

void block_signals() {
    sigset_t ends;
    sigemptyset(&ends);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        sigaddset(&ends, number);
    }
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
}

Result<std::string> changed_text(const CtlPlan& plan, const std::string& text) {
    return plan.action == Action::kAddDevice ? with_section(text, plan.section, plan.items)
                                             : without_section(text, plan.section);
}

Result<int> change(const CtlPlan& plan) {
    const control::v1::Program program = OUTRIGGER_TRY(describe_daemon(plan));
    const pid_t keeper = OUTRIGGER_TRY(keeper_of(program));
    if (program.config_path().empty()) {
        return refuse(
            "the daemon was started without --config: its devices are those of its command line "
            "as long as it runs");
    }
    const ConfigFile file = OUTRIGGER_TRY(ConfigFile::open(program.config_path(), plan.timeout));
    const std::string text = OUTRIGGER_TRY(changed_text(plan, file.text()));
    // From here on file and daemon are not to part ways because of us.
    block_signals();
    OUTRIGGER_TRY(file.replace(text));
    const auto outcome = take_over(plan,
                                   keeper,
                                   control::TakeOverRequest::kReload,
                                   std::max<std::chrono::milliseconds>(plan.timeout, kPatience));
    if (!outcome) {
        return refuse(
            "what came of it is not known, and the file has the change: see what `list` says, "
            "and the daemon's log");
    }
    if (*outcome != control::TakeOverOutcome::kTaken) {
        OUTRIGGER_TRY(file.put_back(text));
        std::fputs(
            "outriggerctl: that is not served, and the daemon's log says why; its file is "
            "as before\n",
            stderr);
    }
    return exit_status_of(outcome);
}

}  // namespace

int change_devices(const CtlPlan& plan) {
    const auto status = change(plan);
    if (!status) {
        std::fprintf(
            stderr, "outriggerctl: %s\n", control::printable(status.error().message).c_str());
        return 1;
    }
    return *status;
}

}  // namespace outrigger::ctl
