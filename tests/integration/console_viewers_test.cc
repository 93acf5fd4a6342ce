// SPDX-License-Identifier: Apache-2.0
// Several viewers of one port, what a new one sees, files and logs.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fmt/core.h>

#include "tests/integration/console_test.h"
#include "tests/support/tcp_port.h"

namespace outrigger::console {
namespace {

using testing::eventually;
using testing::give_others_a_moment;
using testing::kPatience;
using testing::kPortOpen;

TEST_P(ConsoleTest, ANewViewerIsShownWhatWasWrittenBefore) {
    serve({"name=a,backend=unix,path=@a,replay=4K"});
    Guest& guest = boot_and_open();
    const std::string written = pattern(10'000);
    guest.write_all(0, written, 1000);
    const HostUser user = join("a");
    EXPECT_EQ(user.read(4096), written.substr(written.size() - 4096));
    ASSERT_TRUE(guest.write(0, "now"));
    EXPECT_EQ(user.read(3), "now");
}

TEST_P(ConsoleTest, AReplayOfNoBytesShowsNothing) {
    serve({"name=a,backend=unix,path=@a,replay=0"});
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "before"));
    const HostUser user = join("a");
    ASSERT_TRUE(guest.write(0, "now"));
    EXPECT_EQ(user.read(3), "now");
}

TEST_P(ConsoleTest, EveryViewerSeesAllAndOneWrites) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    HostUser first = join("a");
    const HostUser second = join("a");
    ASSERT_TRUE(guest.write(0, "all"));
    EXPECT_EQ(first.read(3), "all");
    EXPECT_EQ(second.read(3), "all");
    second.write("nobody hears this");
    EXPECT_TRUE(
        eventually([&] { return device_->host(0).counters().input_ignored.value() == 17; }));
    first.write("this");
    EXPECT_EQ(guest.read(0, 4), "this");
    // The next one writes when the first has gone.
    first.close();
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 1; }));
    second.write("me");
    EXPECT_EQ(guest.read(0, 2), "me");
}

TEST_P(ConsoleTest, AViewerThatOnlyStopsWritingStillSees) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser user = join("a");
    user.write("last words");
    ASSERT_EQ(::shutdown(user.fd(), SHUT_WR), 0);
    EXPECT_EQ(guest.read(0, 10), "last words");
    ASSERT_TRUE(guest.write(0, "answer"));
    EXPECT_EQ(user.read(6), "answer");
}

TEST_P(ConsoleTest, WhatAViewerWroteBeforeItWentIsReadWhole) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open({.receive_buffers = 0});
    const std::string sent = pattern(150'000);
    HostUser user = join("a");
    std::thread writer([&] {
        user.write(sent);
        user.close();
    });
    give_others_a_moment();
    guest.give_buffers(0, 16, 4096);
    EXPECT_EQ(guest.read(0, sent.size()), sent);
    writer.join();
}

/// `printf 'reboot\r' | socat -u - UNIX-CONNECT:tty`: it has gone before anybody looks, and there
/// is something to show it.
TEST_P(ConsoleTest, WhatAViewerWroteThatHasGoneAlreadyIsReadAllTheSame) {
    open_host_ends({"name=a,backend=unix,path=@a"});
    const std::array<std::byte, 1> letter{std::byte{'!'}};
    ASSERT_TRUE(device_->write_config(ConfigOffset{8}, letter));
    for (const std::string_view typed : {"reboot\r", "and again\r"}) {
        HostUser::connect(path("a")).write(typed);
    }
    begin_to_serve();
    Guest& guest = boot_and_open();
    EXPECT_EQ(guest.read(0, 17), "reboot\rand again\r");
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
    EXPECT_EQ(device_->host(0).counters().input_ignored.value(), 0U);
}

TEST_P(ConsoleTest, WhatAViewerWroteThatHasGoneIsReadAlthoughTheGuestWritesMeanwhile) {
    serve({"name=a,backend=unix,path=@a", "name=b,backend=unix,path=@b"});
    Guest& guest = boot_and_open({.receive_buffers = 0});
    for (uint16_t port = 0; port < 2; ++port) {
        // More than the port takes before the guest reads.
        const std::string sent = pattern(96 << 10, port);
        HostUser user = join(port == 0 ? "a" : "b", port);
        user.write(sent);
        give_others_a_moment();
        user.close();
        // A guest that does not read may write, and waits for nobody who has gone.
        guest.write_all(port, pattern(1 << 20), 32768);
        give_others_a_moment();
        EXPECT_EQ(device_->host(port).viewer_count(), 1U);
        guest.give_buffers(Guest::receive_queue(port), 16, 4096);
        EXPECT_TRUE(guest.read(port, sent.size()) == sent);
        EXPECT_TRUE(eventually([&] { return device_->host(port).viewer_count() == 0; }));
    }
}

TEST_P(ConsoleTest, AViewerThatOnlyStopsReadingStillTypes) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    HostUser user = join("a");
    ASSERT_EQ(::shutdown(user.fd(), SHUT_RD), 0);
    ASSERT_TRUE(guest.write(0, "nobody looks"));
    give_others_a_moment();
    user.write("typed");
    EXPECT_EQ(guest.read(0, 5), "typed");
    user.close();
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
}

TEST_P(ConsoleTest, WhatAViewerThatIsStillReadFromHasNotSeenIsTheNextOnes) {
    serve({"name=a,backend=unix,path=@a,console=off"});
    Guest& guest = boot_and_open();
    const HostUser typist = join("a");
    ASSERT_TRUE(guest.write(0, "seen "));
    EXPECT_EQ(typist.read(5), "seen ");
    ASSERT_EQ(::shutdown(typist.fd(), SHUT_RD), 0);
    ASSERT_TRUE(guest.write(0, "unseen "));
    give_others_a_moment();
    HostUser next = join("a");
    EXPECT_EQ(next.read(7), "unseen ");
    next.close();
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 1; }));
    ASSERT_TRUE(guest.write(0, "and more"));
    EXPECT_EQ(join("a").read(8), "and more");
}

TEST_P(ConsoleTest, AViewerThatStopsReadingHoldsUpNoOtherOne) {
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser stalled = join("a");
    const HostUser user = join("a");
    const std::string written = pattern(2 << 20);
    std::string seen;
    std::thread reader([&] {
        while (seen.size() < 3 || seen.substr(seen.size() - 3) != "end") {
            const std::string piece = user.read(1);
            if (piece.empty()) {
                return;
            }
            seen += piece;
        }
    });
    guest.write_all(0, written, 4096);
    ASSERT_TRUE(guest.write(0, "end"));
    reader.join();
    EXPECT_EQ(seen.substr(seen.size() - 3), "end");
    EXPECT_EQ(device_->counters(0).output_waits.value(), 0U);
}

void allow_descriptors(rlim_t count) {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, count));
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < count) {
        GTEST_SKIP() << "no more than " << limit.rlim_cur << " descriptors";
    }
}

TEST_P(ConsoleTest, AThousandViewersAreServedWhereThatManyAreAllowed) {
    allow_descriptors(4096);
    serve({"name=a,backend=unix,path=@a,viewers=1000"});
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "before "));
    std::vector<HostUser> users;
    for (int i = 0; i < 1000; ++i) {
        users.push_back(HostUser::connect(path("a")));
    }
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 1000; }));
    ASSERT_TRUE(guest.write(0, "now"));
    for (const HostUser& user : users) {
        ASSERT_EQ(user.read(10), "before now");
    }
    users.clear();
    EXPECT_TRUE(eventually([&] { return device_->host(0).viewer_count() == 0; }));
}

TEST_P(ConsoleTest, AThousandViewersAreTurnedAwayWhereSixtyFourAreAllowed) {
    allow_descriptors(4096);
    serve({"name=a,backend=unix,path=@a"});
    Guest& guest = boot_and_open();
    const HostUser first = join("a");
    std::vector<HostUser> users;
    for (int i = 0; i < 1000; ++i) {
        users.push_back(HostUser::connect(path("a")));
    }
    EXPECT_TRUE(
        eventually([&] { return device_->host(0).counters().turned_away.value() == 1000 - 63; }));
    EXPECT_EQ(device_->host(0).viewer_count(), 64U);
    EXPECT_TRUE(users.back().at_end());
    first.write("still here");
    EXPECT_EQ(guest.read(0, 10), "still here");
}

// --- Files --------------------------------------------------------------------------------------

TEST_P(ConsoleTest, AFileGetsWhatTheGuestWrites) {
    serve({"name=a,backend=file,path=@out", "name=b,backend=file,path=@plain,console=off"});
    Guest& guest = boot_and_open();
    const std::string written = pattern(300'000);
    // A console keeps 256 KiB for whoever is slow, and makes nobody wait for a file.
    const std::string kept = written.substr(0, 200'000);
    guest.write_all(0, kept, 30'000);
    guest.write_all(1, written, 30'000);
    EXPECT_TRUE(eventually([&] { return contents("plain").size() == written.size(); }));
    EXPECT_EQ(contents("plain"), written);
    EXPECT_TRUE(eventually([&] { return contents("out").size() == kept.size(); }));
    EXPECT_EQ(contents("out"), kept);
}

TEST_P(ConsoleTest, ALogHasWhatTheGuestWritesAndIsForItsOwnerAlone) {
    serve({"name=a,backend=unix,path=@a,log=@log"});
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "secret"));
    EXPECT_TRUE(eventually([&] { return contents("log") == "secret"; }));

    struct stat status {};

    ASSERT_EQ(::stat(path("log").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_P(ConsoleTest, ALogThatOthersCouldReadIsClosedToThem) {
    {
        std::ofstream(path("log")) << "before ";
        ASSERT_EQ(::chmod(path("log").c_str(), 0644), 0);
    }
    serve({"name=a,backend=null,log=@log"});
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "now"));
    EXPECT_TRUE(eventually([&] { return contents("log") == "before now"; }));

    struct stat status {};

    ASSERT_EQ(::stat(path("log").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_P(ConsoleTest, ALogIsOpenedAnewOnHangup) {
    serve({"name=a,backend=null,log=@log"});
    ASSERT_TRUE(HostThread::reopen_on_hangup());
    Guest& guest = boot_and_open();
    ASSERT_TRUE(guest.write(0, "one"));
    EXPECT_TRUE(eventually([&] { return contents("log") == "one"; }));
    std::filesystem::rename(path("log"), path("moved"));
    ASSERT_EQ(::raise(SIGHUP), 0);
    EXPECT_TRUE(eventually([&] { return std::filesystem::exists(path("log")); }));
    ASSERT_TRUE(guest.write(0, "two"));
    EXPECT_TRUE(eventually([&] { return contents("log") == "two"; }));
    EXPECT_EQ(contents("moved"), "one");
}

TEST_P(ConsoleTest, ALogIsRotatedBySizeAndLosesNothing) {
    serve({"name=a,backend=null,log=@log,log-max=4096,log-files=3"});
    Guest& guest = boot_and_open();
    const std::string written = pattern(4 * 4096 - 100);
    for (size_t at = 0; at < written.size(); at += 1000) {
        ASSERT_TRUE(guest.write(0, std::string_view(written).substr(at, 1000)));
    }
    EXPECT_TRUE(eventually([&] { return contents("log").size() == 4096 - 100; }));
    EXPECT_EQ(contents("log.3") + contents("log.2") + contents("log.1") + contents("log"), written);
    // The oldest one goes.
    guest.write_all(0, pattern(200), 200);
    EXPECT_TRUE(eventually([&] { return contents("log").size() == 100; }));
    EXPECT_FALSE(std::filesystem::exists(path("log.4")));
    EXPECT_EQ(contents("log.3"), written.substr(4096, 4096));
}

TEST_P(ConsoleTest, AFullDiskCostsTheGuestNothing) {
    serve({"name=a,backend=unix,path=@a,log=@log,console=off"});
    // What a log is written to takes no byte.
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
    ::signal(SIGXFSZ, SIG_IGN);
    Guest& guest = boot_and_open();
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
    for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(guest.write(0, pattern(32768)));
    }
    EXPECT_TRUE(
        eventually([&] { return device_->host(0).counters().bytes_missed.value() == 20 * 32768; }));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_GT(device_->host(0).counters().write_failures.value(), 0U);
}

// --- TCP ----------------------------------------------------------------------------------------

TEST_P(ConsoleTest, ATcpPortServesTheLoopbackInterface) {
    const testing::TcpPort port;
    serve({fmt::format("name=a,backend=tcp,tcp-port={}", port.number())});
    Guest& guest = boot_and_open();
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port.number());
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: sockets' addresses are passed so.
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    ASSERT_EQ(::connect(fd.get(), generic, sizeof address), 0);
    HostUser user(std::move(fd));
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 1}));
    user.write("in");
    EXPECT_EQ(guest.read(0, 2), "in");
    ASSERT_TRUE(guest.write(0, "out"));
    EXPECT_EQ(user.read(3), "out");
    user.close();
    EXPECT_EQ(guest.next_message(), (Message{.port = 0, .event = kPortOpen, .value = 0}));
}

}  // namespace
}  // namespace outrigger::console
