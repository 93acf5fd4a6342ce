// SPDX-License-Identifier: Apache-2.0
// In level 1: somebody at the console of a machine, whose daemon listens at a Unix socket.
// usage: talk-to-socket PATH LINE [first]. Prints what comes, and says LINE when "READY" has come,
// or first of all.
#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace {

constexpr int kAttemptsMax = 600;

void wait_a_moment() {
    const timespec moment{.tv_sec = 0, .tv_nsec = 50'000'000};
    ::nanosleep(&moment, nullptr);
}

/// The socket, as soon as somebody listens there.
int connect_to(const char* path) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
        // SAFETY: the socket interface takes every address by the type of their common head.
        if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
            return socket;
        }
        wait_a_moment();
    }
    return -1;
}

}  // namespace

int main(int argc, char** argv) {
    const bool first = argc == 4 && std::strcmp(argv[3], "first") == 0;
    const int socket = argc == 3 || first ? connect_to(argv[1]) : -1;
    if (socket < 0) {
        std::fputs("talk-to-socket: nobody listens\n", stderr);
        return 1;
    }
    std::string line = std::string(argv[2]) + "\n";
    std::string seen;
    if (first) {
        (void)!::write(socket, line.data(), line.size());
        line.clear();
    }
    std::array<char, 4096> buffer;
    for (ssize_t bytes = ::read(socket, buffer.data(), buffer.size()); bytes > 0;
         bytes = ::read(socket, buffer.data(), buffer.size())) {
        seen.append(buffer.data(), static_cast<size_t>(bytes));
        (void)std::fwrite(buffer.data(), 1, static_cast<size_t>(bytes), stdout);
        (void)std::fflush(stdout);
        if (!line.empty() && seen.find("READY") != std::string::npos) {
            (void)!::write(socket, line.data(), line.size());
            line.clear();
        }
    }
    return 0;
}
