// SPDX-License-Identifier: Apache-2.0
// A program that tells its keeper that it is there, and then does not serve anybody. What else it
// does its name says: "floods" has others write to the keeper without end, and is killed; "quits"
// ends by itself when another program is to take over; "departs" says then that it is the last, as
// if it had done so before it was told to leave; "forgets" has done with all that it was given, and
// ends.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

bool send(int channel, std::string_view text) {
    return ::send(channel, text.data(), text.size(), MSG_NOSIGNAL) >= 0;
}

/// Waits until the keeper says something that begins so. False: it has gone.
bool hear(int channel, std::string_view wanted) {
    std::string text(8192, '\0');
    while (true) {
        const ssize_t count = ::recv(channel, text.data(), text.size(), 0);
        if (count <= 0) {
            return false;
        }
        if (text.starts_with(wanted)) {
            return true;
        }
    }
}

/// False: the keeper has gone.
bool forget_all(int channel) {
    std::string text(8192, '\0');
    while (true) {
        const ssize_t count = ::recv(channel, text.data(), text.size(), 0);
        if (count <= 0) {
            return false;
        }
        std::string_view said(text.data(), static_cast<size_t>(count));
        constexpr std::string_view kNames = "FDNAMES=";
        if (!said.starts_with(kNames)) {
            return said.starts_with("GO=");
        }
        said.remove_prefix(kNames.size());
        while (!said.empty()) {
            const std::string_view name = said.substr(0, said.find(':'));
            if (!send(channel, "FDSTOREREMOVE=1\nFDNAME=" + std::string(name))) {
                return false;
            }
            said.remove_prefix(std::min(name.size() + 1, said.size()));
        }
    }
}

[[noreturn]] void flood(int channel) {
    // So many that one of them runs whenever there is room, and what they send are many lines,
    // which take longer to read than to send.
    constexpr int kOthers = 8;
    for (int i = 0; i < kOthers; ++i) {
        if (::fork() == 0) {
            const std::string lines(8192, '\n');
            while (send(channel, lines)) {
            }
            ::_exit(0);
        }
    }
    constexpr unsigned kUntilItIsFull = 100'000;
    ::usleep(kUntilItIsFull);
    ::kill(::getpid(), SIGKILL);
    ::_exit(1);
}

}  // namespace

int main() {
    const char* const number = std::getenv("OUTRIGGER_KEEPER");
    if (number == nullptr) {
        return 2;
    }
    const int channel = std::atoi(number);
    if (!send(channel, "HELLO=1")) {
        return 1;
    }
    const std::string name = std::filesystem::read_symlink("/proc/self/exe").filename();
    if (name == "floods" || name == "quits" || name == "departs") {
        if (!hear(channel, "GO=") || !send(channel, "READY=1")) {
            return 1;
        }
        if (name == "floods") {
            flood(channel);
        }
        if (name == "departs") {
            // Later than it was told, and earlier than it would be killed.
            return hear(channel, "LEAVE=1") && send(channel, "LAST=1") && hear(channel, "GO=") ? 0
                                                                                               : 1;
        }
        constexpr int kOwnStatus = 5;
        return hear(channel, "LEAVE=1") ? kOwnStatus : 1;
    }
    if (name == "forgets") {
        return forget_all(channel) ? 1 : 2;
    }
    constexpr unsigned kForLong = 60;
    ::sleep(kForLong);
    return 0;
}
