// SPDX-License-Identifier: Apache-2.0
/// fuse-bridge: mounts a virtio-fs device by the kernel's own FUSE client, without a virtual
/// machine. What the kernel asks through /dev/fuse goes to the rings of a vhost-user-fs back end.
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/fs/bridge_queue.h"
#include "tests/fs/fuse_guest.h"

namespace outrigger::testing {
namespace {

constexpr int kSkipped = 77;
constexpr int kWrongOption = 2;
constexpr size_t kSlots = 48;

struct BridgeOptions {
    std::string socket;
    std::string mountpoint;
    std::string tag;
    std::string mount_options = "allow_other,default_permissions";
    uint16_t queues = 2;
};

constexpr std::string_view kUsage =
    "usage: fuse-bridge --socket=PATH --mountpoint=DIR [OPTION]...\n"
    "Mounts the share of the vhost-user-fs back end that listens at PATH on DIR, prints \"mounted "
    "DIR\"\n"
    "and forwards until SIGTERM or SIGINT, which unmount it.\n"
    "\n"
    "  --tag=TAG        ends with status 1 when the device has another tag\n"
    "  --queues=N       request queues to use, each with a thread; default 2, at most 64\n"
    "  --options=LIST   mount options; default allow_other,default_permissions, as virtio-fs has "
    "them\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0 when unmounted, 1 after a failure, 2 for a wrong option, 77 without "
    "/dev/fuse.\n";

std::optional<std::string> value_of(std::string_view argument, std::string_view name) {
    if (!argument.starts_with(name)) {
        return std::nullopt;
    }
    return std::string(argument.substr(name.size()));
}

bool parse(const std::string& argument, BridgeOptions& options) {
    if (const auto socket = value_of(argument, "--socket=")) {
        options.socket = *socket;
    } else if (const auto mountpoint = value_of(argument, "--mountpoint=")) {
        options.mountpoint = *mountpoint;
    } else if (const auto tag = value_of(argument, "--tag=")) {
        options.tag = *tag;
    } else if (const auto list = value_of(argument, "--options=")) {
        options.mount_options = *list;
    } else if (const auto count = value_of(argument, "--queues=")) {
        const unsigned long queues = std::strtoul(count->c_str(), nullptr, 10);
        options.queues = static_cast<uint16_t>(queues);
        return queues >= 1 && queues <= 64;
    } else {
        return false;
    }
    return true;
}

int complain(const std::string& what) {
    std::fprintf(stderr, "fuse-bridge: %s\n", what.c_str());
    return EXIT_FAILURE;
}

int complain_of_errno(const std::string& what) {
    return complain(what + ": " + std::strerror(errno));
}

/// The device's tag; nullopt when it does not tell.
std::optional<std::string> tag_of(FuseGuest& guest) {
    const auto config = guest.frontend().get_config(0, sizeof(virtio_fs_config));
    if (!config || config->size() < sizeof(virtio_fs_config)) {
        return std::nullopt;
    }
    std::string tag;
    for (size_t i = 0; i < sizeof(virtio_fs_config::tag) && (*config)[i] != std::byte{0}; ++i) {
        tag.push_back(std::to_integer<char>((*config)[i]));
    }
    return tag;
}

UniqueFd open_fuse() {
    return UniqueFd(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
}

class Bridge final {
  public:
    Bridge(const BridgeOptions& options, UniqueFd fuse_fd)
        : options_(options),
          guest_(options.socket, {.request_queues = options.queues, .slot_count = kSlots}),
          fuse_fd_(std::move(fuse_fd)),
          stop_fd_(::eventfd(0, EFD_CLOEXEC)) {}

    int run(int signal_fd) {
        if (!guest_.trouble().empty()) {
            return complain(guest_.trouble());
        }
        if (!options_.tag.empty() && tag_of(guest_) != options_.tag) {
            return complain("the device's tag is '" + tag_of(guest_).value_or("") + "'");
        }
        if (!mount_share()) {
            return complain_of_errno("mounting at " + options_.mountpoint);
        }
        if (!start_threads()) {
            ::umount2(options_.mountpoint.c_str(), MNT_DETACH);
            return complain_of_errno("cloning /dev/fuse");
        }

        // Waits for INIT's answer.
        struct statfs share {};

        const bool serves = ::statfs(options_.mountpoint.c_str(), &share) == 0;
        if (serves) {
            std::printf("mounted %s\n", options_.mountpoint.c_str());
            std::fflush(stdout);
            wait_for_end(signal_fd);
        } else {
            complain_of_errno("the share does not answer");
        }
        const bool ended_well = end();
        return serves && ended_well ? EXIT_SUCCESS : EXIT_FAILURE;
    }

  private:
    bool mount_share() {
        const std::string data = "fd=" + std::to_string(fuse_fd_.get()) +
                                 ",rootmode=40000,user_id=0,group_id=0," + options_.mount_options;
        return ::mount("outrigger", options_.mountpoint.c_str(), "fuse", 0, data.c_str()) == 0;
    }

    bool start_threads() {
        high_priority_.emplace(guest_.queue(FuseGuest::kHighPriority));
        for (size_t i = 0; i < options_.queues; ++i) {
            UniqueFd clone = open_fuse();
            auto source = static_cast<uint32_t>(fuse_fd_.get());
            if (!clone.valid() || ::ioctl(clone.get(), FUSE_DEV_IOC_CLONE, &source) != 0) {
                stop_threads();
                return false;
            }
            queues_.push_back(std::make_unique<BridgeQueue>(
                std::move(clone), guest_.queue(FuseGuest::kFirst + i), *high_priority_));
            threads_.emplace_back([this, i] {
                queues_[i]->run(stop_fd_.get());
                const uint64_t one = 1;
                (void)!::write(stop_fd_.get(), &one, sizeof one);
            });
        }
        return true;
    }

    void stop_threads() {
        const uint64_t one = 1;
        (void)!::write(stop_fd_.get(), &one, sizeof one);
        threads_.clear();
    }

    /// A signal, the end of a thread, or of the device.
    void wait_for_end(int signal_fd) {
        std::array<pollfd, 3> waited{{
            {.fd = signal_fd, .events = POLLIN, .revents = 0},
            {.fd = stop_fd_.get(), .events = POLLIN, .revents = 0},
            {.fd = guest_.frontend().socket(), .events = POLLIN, .revents = 0},
        }};
        while (::poll(waited.data(), waited.size(), -1) < 0 && errno == EINTR) {
        }
        if (waited[2].revents != 0) {
            complain("the device hung up");
            hung_up_ = true;
        }
    }

    /// Unmounts while the threads still answer. What is busy is taken out of the tree by force.
    bool end() {
        bool clean = !hung_up_;
        // Nothing would answer what unmounting asks.
        const int flags = hung_up_ ? MNT_DETACH | MNT_FORCE : 0;
        if (::umount2(options_.mountpoint.c_str(), flags) != 0 && errno != EINVAL) {
            complain_of_errno("unmounting " + options_.mountpoint);
            ::umount2(options_.mountpoint.c_str(), MNT_DETACH | MNT_FORCE);
            clean = false;
        }
        stop_threads();
        for (const auto& queue : queues_) {
            clean = clean && !queue->failed();
        }
        // The kernel sends it over virtio-fs, and not over /dev/fuse.
        if (!hung_up_ && clean) {
            clean = guest_.call({.opcode = FUSE_DESTROY, .nodeid = 0}).used;
            if (!clean) {
                complain("the device does not answer DESTROY");
            }
        }
        return clean;
    }

    BridgeOptions options_;
    FuseGuest guest_;
    UniqueFd fuse_fd_;
    UniqueFd stop_fd_;
    std::optional<BridgeHighPriority> high_priority_;
    std::vector<std::unique_ptr<BridgeQueue>> queues_;
    std::vector<std::jthread> threads_;
    bool hung_up_ = false;
};

int bridge_main(int argc, char** argv) {
    BridgeOptions options;
    for (int i = 1; i < argc; ++i) {
        if (std::string_view(argv[i]) == "--help") {
            std::fputs(kUsage.data(), stdout);
            return EXIT_SUCCESS;
        }
        if (!parse(argv[i], options)) {
            complain("cannot use '" + std::string(argv[i]) + "'; see --help");
            return kWrongOption;
        }
    }
    if (options.socket.empty() || options.mountpoint.empty()) {
        complain("--socket and --mountpoint must be there; see --help");
        return kWrongOption;
    }
    UniqueFd fuse_fd = open_fuse();
    if (!fuse_fd.valid()) {
        complain_of_errno("skipped: /dev/fuse");
        return kSkipped;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
    return Bridge(options, std::move(fuse_fd)).run(signal_fd.get());
}

}  // namespace
}  // namespace outrigger::testing

int main(int argc, char** argv) {
    return outrigger::testing::bridge_main(argc, argv);
}
