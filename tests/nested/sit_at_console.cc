// SPDX-License-Identifier: Apache-2.0
// In level 1: the user of a machine's console. What tests/guest/console_user.py does under QEMU,
// for where there is no Python. usage: sit-at-console FOLDER, where tty, a, b and c are, or will
// be. Prints a line for each proof: name, ok or failed, detail.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

namespace {

constexpr int kPatienceMs = 150'000;
constexpr size_t kPasteBytes = 65536;
constexpr int kLines = 5000;

void wait_a_moment() {
    const timespec moment{.tv_sec = 0, .tv_nsec = 200'000'000};
    ::nanosleep(&moment, nullptr);
}

void prove(const char* name, bool good, const std::string& detail) {
    std::printf("%s %s %s\n", name, good ? "ok" : "failed", detail.c_str());
    (void)std::fflush(stdout);
}

/// Nothing that comes behind can hold.
[[noreturn]] void give_up(const char* name, const std::string& why, std::string seen) {
    seen.erase(0, seen.size() > 200 ? seen.size() - 200 : 0);
    for (char& byte : seen) {
        byte = byte < ' ' ? ' ' : byte;
    }
    prove(name, false, why + ": " + seen);
    std::exit(1);
}

/// Reads until the text is there. What came.
std::string read_until(int fd, const char* name, const std::string& wanted) {
    std::string seen;
    std::array<char, 65536> buffer;
    while (seen.find(wanted) == std::string::npos) {
        pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
        if (::poll(&readable, 1, kPatienceMs) <= 0) {
            give_up(name, "no '" + wanted + "'", seen);
        }
        const ssize_t bytes = ::read(fd, buffer.data(), buffer.size());
        if (bytes <= 0 && errno != EAGAIN) {
            give_up(name, "it ended before '" + wanted + "'", seen);
        }
        seen.append(buffer.data(), bytes > 0 ? static_cast<size_t>(bytes) : 0);
    }
    return seen;
}

void write_all(int fd, const char* name, const std::string& text) {
    for (size_t at = 0; at < text.size();) {
        pollfd writable{.fd = fd, .events = POLLOUT, .revents = 0};
        const bool ready = ::poll(&writable, 1, kPatienceMs) > 0;
        const ssize_t bytes =
            ready ? ::write(fd, text.data() + at, std::min<size_t>(text.size() - at, 4096)) : -1;
        if (bytes < 0 && (!ready || errno != EAGAIN)) {
            give_up(name, "nobody takes what is typed", {});
        }
        at += bytes > 0 ? static_cast<size_t>(bytes) : 0;
    }
}

int open_terminal(const std::string& folder) {
    for (int attempt = 0; attempt < 50; ++attempt) {
        const int fd =
            ::open((folder + "/tty").c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) {
            return fd;
        }
        wait_a_moment();
    }
    give_up("terminal", "it is not there", {});
}

/// Bytes of every value.
std::string random_bytes(size_t count) {
    std::string bytes;
    uint64_t random = 88172645463325252;
    while (bytes.size() < count) {
        random ^= random << 13;  // Marsaglia: "Xorshift RNGs" (2003)
        random ^= random >> 7;
        random ^= random << 17;
        bytes += static_cast<char>(random >> 24);
    }
    return bytes;
}

void prove_typing(int tty) {
    // The prompt may have come before us: the replay has it.
    read_until(tty, "typing", "guest> ");
    write_all(tty, "typing", "echo sum $((6*7))\n");
    read_until(tty, "typing", "sum 42");
    prove("typing", true, "a shell on hvc0 answers");
}

void prove_resize(int tty) {
    const winsize size{.ws_row = 50, .ws_col = 132, .ws_xpixel = 0, .ws_ypixel = 0};
    bool told = false;
    (void)::ioctl(tty, TIOCSWINSZ, &size);
    for (int attempt = 0; attempt < 50 && !told; ++attempt) {
        write_all(tty, "resize", "stty size; echo si''ze\n");
        told = read_until(tty, "resize", "size\r\n").find("50 132") != std::string::npos;
        wait_a_moment();
    }
    prove("resize", told, "stty size in the guest is 50 132");
}

/// To the guest and back.
void prove_paste(int tty) {
    const std::string pasted = random_bytes(kPasteBytes);
    const std::string count = std::to_string(kPasteBytes);
    write_all(tty,
              "paste",
              "stty raw -echo; echo re''ady; head -c " + count +
                  " >/tmp/pasted; cat /tmp/pasted; stty sane; echo do''ne\n");
    read_until(tty, "paste", "ready\n");
    write_all(tty, "paste", pasted);
    const std::string seen = read_until(tty, "paste", "done\r\n");
    prove("paste",
          seen.size() >= pasted.size() && seen.compare(0, pasted.size(), pasted) == 0,
          count + " random bytes, pasted at once, arrive whole and come back");
}

void prove_output(int tty) {
    write_all(
        tty, "output", "stty -echo; seq 1 " + std::to_string(kLines) + "; stty echo; echo e''nd\n");
    const std::string seen = read_until(tty, "output", "\r\nend\r\n");
    std::string wanted;
    for (int i = 1; i <= kLines; ++i) {
        wanted += std::to_string(i) + "\r\n";
    }
    prove("output",
          seen.find("\r\n" + wanted + "end\r\n") != std::string::npos,
          std::to_string(kLines) + " lines are seen, each once and in order");
}

/// Leaves the terminal, and comes back: the new one.
int prove_replay(int tty, const std::string& folder) {
    write_all(tty, "replay", "echo la''st words\n");
    read_until(tty, "replay", "last words");
    ::close(tty);
    wait_a_moment();
    const int again = open_terminal(folder);
    read_until(again, "replay", "last words");
    write_all(again, "replay", "echo ba''ck\n");
    read_until(again, "replay", "back");
    prove("replay", true, "a user who comes back is shown the end of what was written");
    return again;
}

int connect_to(const std::string& path, const char* name) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // SAFETY: the socket interface takes every address by the type of their common head.
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        give_up(name, "nobody listens at its socket", {});
    }
    return socket;
}

/// 100 lines and their answers; behind what another client has seen last, if there was one.
void talk(const std::string& folder, const std::string& port, const char* name, bool comes_back) {
    const int client = connect_to(folder + "/" + port, name);
    if (comes_back) {
        read_until(client, name, "org." + port + " says line 99\n");
    }
    for (int i = 0; i < 100; ++i) {
        const std::string line = "line " + std::to_string(i) + "\n";
        write_all(client, name, line);
        read_until(client, name, "org." + port + " says " + line);
    }
    ::close(client);
}

void prove_ports(const std::string& folder) {
    for (const char* const port : {"a", "b"}) {
        const std::string name = std::string("port_") + port;
        talk(folder, port, name.c_str(), false);
        wait_a_moment();
        // This one has a replay ring.
        const bool shown = *port == 'a';
        talk(folder, port, name.c_str(), shown);
        prove(name.c_str(),
              true,
              std::string("100 lines both ways, twice") +
                  (shown ? "; the second client is shown the last ones" : ""));
    }
    std::ifstream file(folder + "/c");
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    prove("port_c",
          text.find("hello from the guest") != std::string::npos,
          "what the guest writes is in the file");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fputs("usage: sit-at-console FOLDER\n", stderr);
        return 2;
    }
    const std::string folder = argv[1];
    int tty = open_terminal(folder);
    prove_typing(tty);
    prove_resize(tty);
    prove_paste(tty);
    prove_output(tty);
    tty = prove_replay(tty, folder);
    prove_ports(folder);
    write_all(tty, "end", "touch /tmp/over; exit\n");
    // The guest's end is the machine's affair.
    wait_a_moment();
    return 0;
}
