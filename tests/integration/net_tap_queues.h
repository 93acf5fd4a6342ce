// SPDX-License-Identifier: Apache-2.0
/// outrigger-net on a tap with a queue for each pair of the guest's.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <sys/syscall.h>

#include "tests/integration/net_tap_daemon.h"

namespace outrigger::testing {

inline constexpr uint16_t kPairs = 4;

class NetTapQueuesTest : public NetTapDaemonTest {
  protected:
    /// Of those that a process has open: that the kernel uses, and that it does not.
    struct Queues {
        size_t used = 0;
        size_t unused = 0;

        friend bool operator==(const Queues&, const Queues&) = default;
    };

    /// What the kernel says of those that a process has open.
    [[nodiscard]] static std::vector<ifreq> find_queues(pid_t process) {
        std::vector<ifreq> queues;
        const UniqueFd other(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
        std::error_code gone;
        const std::filesystem::path folder = "/proc/" + std::to_string(process) + "/fd";
        for (const auto& entry : std::filesystem::directory_iterator(folder, gone)) {
            const int number = std::stoi(entry.path().filename());
            const UniqueFd copy(
                static_cast<int>(::syscall(SYS_pidfd_getfd, other.get(), number, 0)));
            ifreq found{};
            if (copy.valid() && ::ioctl(copy.get(), TUNGETIFF, &found) == 0) {
                queues.push_back(found);
            }
        }
        return queues;
    }

    [[nodiscard]] static Queues queues_of(pid_t process) {
        Queues queues;
        for (const ifreq& found : find_queues(process)) {
            const bool is_used = (found.ifr_flags & IFF_DETACH_QUEUE) == 0;
            ++(is_used ? queues.used : queues.unused);
        }
        return queues;
    }

    /// Of each queue that a process has open, the tap's name; sorted.
    [[nodiscard]] static std::vector<std::string> taps_of(pid_t process) {
        std::vector<std::string> names;
        for (const ifreq& found : find_queues(process)) {
            names.emplace_back(found.ifr_name);
        }
        std::ranges::sort(names);
        return names;
    }

    /// Of the process that serves, by and by.
    void expect_used(size_t used, size_t unused) const {
        const Queues wanted{.used = used, .unused = unused};
        const auto serving = [&] {
            const pid_t child = daemon_->first_child();
            return child > 0 ? child : daemon_->pid();
        };
        EXPECT_TRUE(eventually([&] { return queues_of(serving()) == wanted; }))
            << queues_of(serving()).used << " used, " << queues_of(serving()).unused << " not";
    }

    static uint16_t port_of(uint16_t pair) { return static_cast<uint16_t>(kGuestPort + pair); }

    /// What comes back for a flow comes where the guest has sent it.
    void expect_flows_stay(uint16_t pairs = kPairs) {
        for (uint16_t pair = 0; pair < pairs; ++pair) {
            const std::string text = "of pair " + std::to_string(pair);
            ASSERT_EQ(to_host(text, true, pair, port_of(pair)), text);
        }
        for (uint16_t pair = 0; pair < pairs; ++pair) {
            const std::string text = "to pair " + std::to_string(pair);
            ASSERT_TRUE(from_host(text, pair, port_of(pair))) << pair << daemon_->complained();
        }
    }

    /// On any of these pairs.
    [[nodiscard]] bool is_received(const std::string& text, uint16_t pairs) {
        return eventually([&] {
            for (uint16_t pair = 0; pair < pairs; ++pair) {
                while (const auto frame = guest_->receive_now(pair)) {
                    if (is_datagram(*frame, text)) {
                        return true;
                    }
                }
            }
            return false;
        });
    }

    void enable(uint16_t pair, bool is_enabled) {
        for (const uint32_t ring : {2U * pair, 2U * pair + 1}) {
            ASSERT_EQ(guest_->frontend().set_vring_enable(ring, is_enabled),
                      driver::Answer::kAccepted);
        }
    }

    /// As a name, which makes it.
    void serve_tap(std::vector<std::string> more = {}, const NetGuestOptions& guest = kAllPairs) {
        more.insert(more.end(),
                    {"--backend=tap",
                     std::string("--tap=") + kTap,
                     "--queue-pairs=" + std::to_string(kPairs)});
        serve(std::move(more), guest);
        configure();
    }

    static constexpr NetGuestOptions kAllPairs{.queue_pairs = kPairs};
};

}  // namespace outrigger::testing
